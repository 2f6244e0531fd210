//! How a NAT chooses external ports of TCP where its mapping depends on the destination (RFC 4787 section 4.2, for RFC 5382):
//! learned from connections to the server from several fresh ports, opened one after another.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::{
    nat::{PortAllocation, PortPolicy},
    stun::{Dialect, TransactionId},
};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::technique::tcp_external;
use crate::{
    net::{Net, TcpPort},
    probe::port_allocation,
    randomness::RandomSource,
};

/// Fresh ports.
const SAMPLES: u32 = 10;
/// Fewer answers tell nothing.
const FEWEST: usize = 6;
/// Between two: together they last long enough to see what others take.
const SPACING: Duration = Duration::from_millis(50);
/// How long the server may take: a SYN that gets lost is sent again after a second, and after three.
const ANSWER: Duration = Duration::from_secs(5);
/// Ports that an ordinary allocator draws from.
const ORDINARY: (u16, u16) = (1024, 65535);

/// How ports are chosen, and how many mappings a second others open behind a NAT that counts them up.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TcpPorts {
    pub(super) allocation: PortAllocation,
    pub(super) cross_traffic: Option<f64>,
}

/// A port and where the server saw it, in the order of opening.
type Sample = (u32, SocketAddr, SocketAddr);

/// Measures it; none where too few connections were answered.
pub(super) async fn measure(
    net: &dyn Net,
    local: IpAddr,
    server: SocketAddr,
    random: &mut RandomSource,
) -> Option<TcpPorts> {
    let mut asking = JoinSet::new();
    let mut ports = Vec::new();
    for number in 0..SAMPLES {
        let port: Arc<dyn TcpPort> = net.tcp_port(SocketAddr::new(local, 0)).await.ok()?.into();
        let id = random.transaction_id(Dialect::Modern).ok()?;
        asking.spawn(sample(number, Arc::clone(&port), server, id));
        ports.push(port);
        sleep(SPACING).await;
    }
    let mut samples = Vec::new();
    let mut kept = Vec::new();
    while let Some(ended) = asking.join_next().await {
        if let Ok(Some((sample, stream))) = ended {
            samples.push(sample);
            // A port that is free again would be given to a later sample.
            kept.push(stream);
        }
    }
    samples.sort_unstable_by_key(|(number, ..)| *number);
    conclude(&samples)
}

async fn sample(
    number: u32,
    port: Arc<dyn TcpPort>,
    server: SocketAddr,
    id: TransactionId,
) -> Option<(Sample, Box<dyn crate::net::Stream>)> {
    let local = port.local_addr().ok()?;
    let (stream, at) = timeout(ANSWER, tcp_external(&*port, server, id)).await.ok()?.ok()?;
    _ = stream.reset_on_drop();
    Some(((number, local, at), stream))
}

fn conclude(samples: &[Sample]) -> Option<TcpPorts> {
    if samples.len() < FEWEST {
        return None;
    }
    let ports: Vec<u16> = samples.iter().map(|(.., at)| at.port()).collect();
    let ips: BTreeSet<IpAddr> = samples.iter().map(|(.., at)| at.ip()).collect();
    let kept = samples.iter().filter(|(_, local, at)| local.port() == at.port()).count();
    let allocation = |policy, delta, range| PortAllocation {
        policy,
        delta,
        range,
        external_ips: u32::try_from(ips.len()).unwrap_or(u32::MAX),
        parity: None,
        external_ip_by_destination: None,
        cross_traffic_per_s: None,
    };
    if kept * 2 >= samples.len() {
        let allocation = allocation(PortPolicy::Preserving, None, ORDINARY);
        return Some(TcpPorts { allocation, cross_traffic: None });
    }
    if let Some(step) = port_allocation::sequence(&ports) {
        let range = port_allocation::ring(&ports, step);
        let allocation = allocation(PortPolicy::Sequential, Some(step), range);
        return Some(TcpPorts { allocation, cross_traffic: cross_traffic(samples, step) });
    }
    let (policy, range) = port_allocation::spread(&ports);
    Some(TcpPorts { allocation: allocation(policy, None, range), cross_traffic: None })
}

/// Mappings a second that others open, as many as there may well be: what was counted, and three standard deviations of it.
fn cross_traffic(samples: &[Sample], step: i32) -> Option<f64> {
    let (mut strangers, mut seconds) = (0.0, 0.0);
    for pair in samples.windows(2) {
        let moved = i32::from(pair[1].2.port()) - i32::from(pair[0].2.port());
        let ours = pair[1].0 - pair[0].0;
        // Where the counter came round, how far it went is not known.
        if moved.signum() == step.signum() {
            strangers += (f64::from(moved) / f64::from(step) - f64::from(ours)).max(0.0);
            seconds += SPACING.as_secs_f64() * f64::from(ours);
        }
    }
    (seconds > 0.0).then(|| (strangers + 3.0 * f64::sqrt(strangers)) / seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ports: &[(u32, u16)]) -> Vec<Sample> {
        let at = |ip: [u8; 4], port| SocketAddr::new(ip.into(), port);
        let sample = |&(number, port): &(u32, u16)| {
            (
                number,
                at([192, 168, 1, 2], 40_000 + 7 * u16::try_from(number).unwrap()),
                at([203, 0, 113, 1], port),
            )
        };
        ports.iter().map(sample).collect()
    }

    fn policy(ports: &[(u32, u16)]) -> Option<(PortPolicy, Option<i32>, Option<f64>)> {
        let found = conclude(&samples(ports))?;
        let traffic = found.cross_traffic.map(f64::round);
        Some((found.allocation.policy, found.allocation.delta, traffic))
    }

    #[test]
    fn allocations_are_told_apart() {
        let kept: Vec<(u32, u16)> = (0..10).map(|n| (n, 40_000 + 7 * n as u16)).collect();
        assert_eq!(policy(&kept), Some((PortPolicy::Preserving, None, None)));
        let counted: Vec<(u32, u16)> = (0..10).map(|n| (n, 5000 + 2 * n as u16)).collect();
        assert_eq!(policy(&counted), Some((PortPolicy::Sequential, Some(2), Some(0.0))));
        let random = [(0, 40321), (1, 5000), (2, 62000), (3, 1200), (4, 33000), (5, 17000), (6, 51000)];
        assert_eq!(policy(&random).map(|found| found.0), Some(PortPolicy::Random));
        assert_eq!(policy(&counted[..5]), None, "too few");
    }

    #[test]
    fn what_others_take_is_counted_and_what_is_missing_is_not() {
        // The third and fourth have got no answer; another host has taken three ports.
        let counted =
            [(0, 5000), (1, 5001), (4, 5004), (5, 5005), (6, 5010), (7, 5011), (8, 5012), (9, 5013)];
        let (policy, step, traffic) = policy(&counted).unwrap();
        assert_eq!((policy, step), (PortPolicy::Sequential, Some(1)));
        // Four in 0.45 s, and as many as there may well be.
        assert_eq!(traffic, Some(22.0));
    }
}
