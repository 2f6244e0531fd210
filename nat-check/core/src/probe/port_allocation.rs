//! Port allocation (RFC 4787 sections 4.1 and 4.2): how are external ports and addresses chosen? Learned from the
//! external endpoints of many sockets that are opened one after another, all those of the other measurements among
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::nat::{PortAllocation, PortPolicy};
use tokio::time::sleep_until;

use crate::{
    observation::{ObservationLog, Purpose, RequestKind, SocketId},
    probe::{Found, Measured, Merge, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::{Contact, Request, Session},
};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("port-allocation");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "how external ports and addresses are chosen: kept, counted up, drawn at random, from a block",
    needs: &[],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(sample(session, ServerEndpoint::PRIMARY, 9)) },
        Step { stage: Stage::Alternate, run: |session| Box::pin(sample(session, ServerEndpoint::IP, 16)) },
    ],
    udp: &[Slot::of::<Allocation>()],
    tcp: &[],
    server: &[],
};

/// What it finds out.
struct Allocation;

impl Measured for Allocation {
    type Value = PortAllocation;
    const KEY: &'static str = "port_allocation";
    const LABEL: &'static str = "Port allocation";
    const LINE_KEY: Option<&'static str> = Some("ports");
    slot!(udp.port_allocation);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<PortAllocation> {
        conclude(log)
    }

    fn text(value: &PortAllocation) -> String {
        let (low, high) = value.range;
        let mut text = match value.policy {
            PortPolicy::Preserving => "preserving: the local port number, where it is free".to_owned(),
            PortPolicy::Sequential => match value.delta {
                Some(delta) if delta < 0 => {
                    format!("sequential: each port {} below the last", delta.unsigned_abs())
                }
                Some(delta) => format!("sequential: each port {delta} above the last"),
                None => "sequential: each port a fixed step from the last".to_owned(),
            },
            PortPolicy::Random => format!("random: any port from {low} to {high}"),
            PortPolicy::Block => {
                format!("block: one of about {} ports, about {low} to {high}", high - low + 1)
            }
        };
        if value.parity == Some(true) && value.policy != PortPolicy::Preserving {
            text.push_str("; parity is kept (even to even, odd to odd)");
        }
        if value.external_ips > 1 {
            let how = match value.external_ip_by_destination {
                Some(true) => "each destination sees one of",
                Some(false) | None => "spread over",
            };
            text.push_str(&format!("; {how} {} external addresses", value.external_ips));
        }
        text
    }

    fn word(value: &PortAllocation) -> String {
        value.policy.to_string()
    }

    // Each server sees other samples of one and the same allocation.
    fn merge(merge: Merge<'_>, mine: &mut Finding<PortAllocation>, other: &Finding<PortAllocation>) {
        merge.surest(mine, other);
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        let mut parts = serde_json::Map::new();
        parts.insert("policy".into(), serde_json::json!(nat.ports?));
        parts.extend(nat.delta.map(|delta| ("delta".into(), delta.into())));
        parts.extend(nat.external_ips.map(|ips| ("external_ips".into(), ips.into())));
        Some(parts.into())
    }
}

const METHOD: &str = "external endpoints of many sockets, in the order of opening (RFC 4787 4.1, 4.2)";
/// Fewer samples tell nothing.
const FEWEST: usize = 6;
/// With so many samples the finding is strong.
const ENOUGH: usize = 14;
/// Ports that an ordinary allocator draws from.
const ORDINARY: (u16, u16) = (1024, 65535);
/// A range no wider than this is called a block.
const WIDEST_BLOCK: f64 = 8192.0;
/// Over a longer pause a counter may come round unseen, and mappings of ours may end and be made again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// While no answer has come, the first samples leave then all the same: the way may be long.
const EARLY: Duration = Duration::from_millis(1300);

/// How long those that are missing are waited for where they are many.
const PATIENCE: Duration = Duration::from_millis(200);

/// Opens sockets one after another and asks once from each. Half of them ask the alternate address first: some
/// pools choose the external address by the destination.
async fn sample(session: Arc<Session>, endpoint: ServerEndpoint, count: usize) {
    // Not with the first burst: a slow server has enough to do with that. On a long way nothing is gained by waiting longer.
    tokio::select! {
        biased;
        _ = session.contact() => {}
        () = sleep_until(session.instant(EARLY)) => {}
    }
    if session.known_contact() == Contact::None {
        return;
    }
    let to = session.endpoints().get(endpoint).unwrap_or(session.server());
    if session.is_slow() {
        return;
    }
    let round = session.round();
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let Ok(socket) = session.open().await else { break };
        session.turn(PURPOSE).await;
        if session.is_slow() {
            return;
        }
        session.send(&socket, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
        sockets.push(socket);
    }
    // Silence towards new sockets alone is a NAT that gives no more mappings, not a server that limits the rate: an
    // old socket asks last.
    if let (ServerEndpoint::PRIMARY, Some(old)) =
        (endpoint, session.retained_sockets(|retained| retained.contact.clone()))
    {
        session.send(&old, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
    }
    // What was sent before may have been lost on a line that had to wake up, or in a dialect that the server does not speak.
    if session.contact().await == Contact::None {
        return;
    }
    let missing = |log: &ObservationLog| {
        sockets.iter().filter(|s| log.mapped(s.id, to).is_none()).cloned().collect::<Vec<_>>()
    };
    for _ in 0..2 {
        let is_all = |log: &ObservationLog| missing(log).is_empty();
        session.until_due(session.now(), is_all).await;
        // Where most of them are missing, haste was the reason, or a burst of loss: the next ones wait.
        if session.read(|log| missing(log).len() * 2 > count) {
            session.until(session.now() + PATIENCE, is_all).await;
        }
        let missing = session.read(missing);
        // A few lost samples change nothing.
        if missing.len() <= count / 8 || session.is_slow() {
            return;
        }
        for socket in &missing {
            session.send(socket, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
        }
    }
}

/// One mapping as it was made.
#[derive(Clone, Copy, Debug)]
struct Sample {
    socket: SocketId,
    local: SocketAddr,
    external: SocketAddr,
    /// Which address it was made for.
    destination: IpAddr,
    /// When the packet left that made it.
    sent: Duration,
    /// Mappings of ours that may have been made since the one before, without an answer to show them.
    unseen: u32,
}

/// Every mapping that answers show, in the order in which the first packet of each left.
fn samples(log: &ObservationLog) -> Vec<Sample> {
    let mut seen = BTreeSet::new();
    let mut asked = BTreeSet::new();
    let mut samples = Vec::new();
    let mut unseen = 0;
    // What dies on the way may make a mapping or not.
    let travels =
        |t: &&crate::observation::Transaction| !t.unsent && !matches!(t.kind, RequestKind::LimitedTtl { .. });
    for transaction in log.transactions.iter().filter(travels) {
        if !asked.insert((transaction.socket, transaction.to)) {
            continue;
        }
        let shown = log.local(transaction.socket).zip(log.mapped(transaction.socket, transaction.to));
        let Some((local, external)) = shown else {
            unseen += 1;
            continue;
        };
        if seen.insert(external) {
            samples.push(Sample {
                socket: transaction.socket,
                local,
                external,
                destination: transaction.to.ip(),
                sent: transaction.sent,
                unseen,
            });
            unseen = 0;
        }
    }
    samples
}

/// Draws the conclusion.
pub(crate) fn conclude(log: &ObservationLog) -> Finding<PortAllocation> {
    let samples = samples(log);
    if samples.is_empty() {
        return Finding::unknown((ReasonCode::NoAnswer, "no external endpoint was seen"), METHOD);
    }
    if samples.iter().all(|s| s.local == s.external) {
        let text = "nothing translates addresses here, so no ports are allocated";
        return Finding::unknown((ReasonCode::NoTranslation, text), METHOD).with("samples", samples.len());
    }
    let ips: BTreeSet<IpAddr> = samples.iter().map(|s| s.external.ip()).collect();
    let ports: Vec<u16> = samples.iter().map(|s| s.external.port()).collect();
    // The first mapping of each socket; later ones of the same socket cannot have its port again.
    let mut firsts: BTreeMap<SocketId, &Sample> = BTreeMap::new();
    for sample in &samples {
        firsts.entry(sample.socket).or_insert(sample);
    }
    let kept = firsts.values().filter(|s| s.local.port() == s.external.port()).count();
    let parity = firsts.values().filter(|s| (s.local.port() ^ s.external.port()) & 1 == 0).count();
    let evidence = |finding: Finding<PortAllocation>| {
        finding
            .with("samples", samples.len())
            .with("sockets", firsts.len())
            .with("kept", kept)
            .with("same_parity", parity)
            .with("external_ports", &ports)
            .with("external_ips", &ips)
    };
    if firsts.len() < FEWEST {
        let text = format!("{} sockets are too few to tell", firsts.len());
        return evidence(Finding::unknown((ReasonCode::TooFewSamples, text), METHOD));
    }
    let sure = if firsts.len() >= ENOUGH { Confidence::Strong } else { Confidence::Weak };
    let allocation = |policy, delta, range| PortAllocation {
        policy,
        delta,
        range,
        external_ips: ips.len() as u32,
        external_ip_by_destination: is_by_destination(&samples).filter(|_| ips.len() > 1),
        // Sixteen in a row happen by chance once in 65,536.
        parity: (firsts.len() >= 16).then_some(parity == firsts.len()),
        cross_traffic_per_s: None,
    };
    if kept * 2 >= firsts.len() {
        let finding = Finding::known(allocation(PortPolicy::Preserving, None, ORDINARY), sure, METHOD);
        let lost = firsts.len() - kept;
        return evidence(if lost == 0 {
            finding
        } else {
            finding.because((
                ReasonCode::PortsPartlyKept,
                format!("{lost} of {} sockets got another port than their own", firsts.len()),
            ))
        });
    }
    if let Some(step) = sequence(&ports) {
        let range = ring(&ports, step);
        let rate = cross_traffic(&samples, step);
        let value = PortAllocation {
            cross_traffic_per_s: rate.map(|rate| rate.round() as u32),
            ..allocation(PortPolicy::Sequential, Some(step), range)
        };
        let finding = evidence(Finding::known(value, sure, METHOD));
        return match rate {
            Some(rate) => finding.with("cross_traffic_per_s", rate.round()),
            None => finding,
        };
    }
    let (policy, range) = spread(&ports);
    evidence(Finding::known(allocation(policy, None, range), sure, METHOD))
}

/// Whether each destination address has seen one external address only; none where too few mappings were made for that
/// to mean anything: of two addresses that are drawn at random, this many draws are the same once in 10,000 times.
fn is_by_destination(samples: &[Sample]) -> Option<bool> {
    const ENOUGH_ALIKE: usize = 14;
    let mut seen: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    for sample in samples {
        seen.entry(sample.destination).or_default().insert(sample.external.ip());
    }
    if seen.values().any(|addresses| addresses.len() > 1) {
        return Some(false);
    }
    (samples.len() >= ENOUGH_ALIKE + seen.len()).then_some(true)
}

/// The step, if each mapping follows the one before by a fixed step, a few left out where other hosts took a port.
pub(crate) fn sequence(ports: &[u16]) -> Option<i32> {
    let steps: Vec<i32> = ports.windows(2).map(|w| i32::from(w[1]) - i32::from(w[0])).collect();
    let mut counts: BTreeMap<i32, usize> = BTreeMap::new();
    for &step in steps.iter().filter(|&&s| s != 0) {
        *counts.entry(step).or_default() += 1;
    }
    let (&step, &count) = counts.iter().max_by_key(|(step, count)| (**count, -step.abs()))?;
    // Strangers' mappings and lost samples make whole multiples of the step.
    let fits = steps.iter().filter(|&&s| s % step == 0 && s / step > 0 && s / step <= 16).count();
    (count * 3 >= steps.len() && fits * 4 >= steps.len() * 3).then_some(step)
}

/// The range that a sequential allocator goes round in: the ordinary one, unless the sample shows where it turns.
pub(crate) fn ring(ports: &[u16], step: i32) -> (u16, u16) {
    let (low, high) = extent(ports);
    let span = i32::from(high) - i32::from(low);
    let turns = ports.windows(2).any(|w| {
        let moved = i32::from(w[1]) - i32::from(w[0]);
        moved.signum() != step.signum() && moved.abs() * 2 > span
    });
    if turns { (low, high) } else { (ORDINARY.0.min(low), ORDINARY.1) }
}

/// Mappings a second that others make: by how much the ports advance, beyond what our own mappings take, over the
/// time in which they do. `None` where no time passed.
fn cross_traffic(samples: &[Sample], step: i32) -> Option<f64> {
    let (mut strangers, mut time) = (0.0, Duration::ZERO);
    for pair in samples.windows(2) {
        let pause = pair[1].sent.saturating_sub(pair[0].sent);
        let moved = i32::from(pair[1].external.port()) - i32::from(pair[0].external.port());
        // Where the counter came round, how far it went is not known.
        if pause > LONGEST_PAUSE || moved.signum() != step.signum() {
            continue;
        }
        time += pause;
        strangers += (f64::from(moved) / f64::from(step) - 1.0 - f64::from(pair[1].unseen)).max(0.0);
    }
    (!time.is_zero()).then(|| strangers / time.as_secs_f64())
}

fn extent(ports: &[u16]) -> (u16, u16) {
    (ports.iter().copied().min().unwrap_or(0), ports.iter().copied().max().unwrap_or(0))
}

/// The range that random ports are drawn from, estimated from the extent of the sample.
pub(crate) fn spread(ports: &[u16]) -> (PortPolicy, (u16, u16)) {
    let (low, high) = extent(ports);
    let count = ports.len() as f64;
    let span = f64::from(high - low) + 1.0;
    // The expected gap between an end of the range and the nearest sample.
    let gap = (span / (count - 1.0)).ceil();
    let estimated = span + 2.0 * gap;
    if estimated <= WIDEST_BLOCK {
        let widened = (f64::from(low) - gap, f64::from(high) + gap);
        return (PortPolicy::Block, (widened.0.max(1.0) as u16, widened.1.min(65535.0) as u16));
    }
    // Where the ends are as near to the ordinary ones as chance has it, they are those.
    let near = |distance: f64| distance <= 7.0 * gap;
    let ends = (
        if near(f64::from(low.saturating_sub(ORDINARY.0))) {
            ORDINARY.0
        } else {
            low - (gap as u16).min(low)
        },
        if near(f64::from(ORDINARY.1 - high)) {
            ORDINARY.1
        } else {
            (f64::from(high) + gap).min(65535.0) as u16
        },
    );
    (PortPolicy::Random, (ends.0.min(low), ends.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::made;

    #[test]
    fn a_sequence_is_seen_through_gaps_and_one_wrap() {
        assert_eq!(sequence(&[500, 501, 502, 504, 505, 506, 509, 510]), Some(1));
        assert_eq!(sequence(&[508, 506, 504, 500, 498, 496]), Some(-2));
        assert_eq!(sequence(&[600, 856, 1112, 1368, 1624, 1880, 2136]), Some(256));
        assert_eq!(sequence(&[65530, 65532, 65534, 1024, 1026, 1028, 1030, 1032, 1034]), Some(2));
    }

    #[test]
    fn the_range_of_a_sequence_is_not_the_extent_of_the_sample() {
        assert_eq!(ring(&[3000, 3001, 3002, 3060, 3061], 1), ORDINARY);
        assert_eq!(ring(&[600, 601, 600, 602, 603], 1), (600, ORDINARY.1));
        assert_eq!(ring(&[50509, 50510, 50511, 50000, 50001], 1), (50000, 50511));
        assert_eq!(ring(&[1030, 1028, 1026, 65534, 65532], -2), (1026, 65534));
    }

    /// Samples of sockets that were opened at these moments, in milliseconds, and got these ports.
    fn sampled(mappings: &[(u64, u16)]) -> ObservationLog {
        let mut log = made::log();
        for (number, &(sent, port)) in mappings.iter().enumerate() {
            let socket = made::socket(&mut log, &format!("192.168.1.2:{}", 40_000 + 7 * number));
            let mut transaction = match port {
                0 => made::transaction(
                    PURPOSE,
                    socket,
                    made::address_of(ServerEndpoint::PRIMARY),
                    RequestKind::Binding,
                ),
                _ => made::answered(PURPOSE, socket, ServerEndpoint::PRIMARY, &format!("203.0.113.1:{port}")),
            };
            transaction.sent = Duration::from_millis(sent);
            log.transactions.push(transaction);
        }
        log
    }

    #[test]
    fn strangers_are_counted_by_the_ports_that_they_took() {
        let rate = |mappings: &[(u64, u16)]| {
            let finding = conclude(&sampled(mappings));
            assert_eq!(finding.value.as_ref().map(|v| v.policy), Some(PortPolicy::Sequential), "{finding:?}");
            let measured = finding.value.and_then(|v| v.cross_traffic_per_s).map(f64::from);
            assert_eq!(measured.map(Into::into), finding.evidence.get("cross_traffic_per_s").cloned());
            measured
        };
        let burst = |at: u64, port: u16| (0..6).map(move |n| (at, port + n)).collect::<Vec<_>>();
        assert_eq!(rate(&burst(0, 5000)), None, "no time passed");
        assert_eq!(rate(&[burst(0, 5000), burst(50, 5006)].concat()), Some(0.0));
        assert_eq!(rate(&[burst(0, 5000), burst(50, 5056)].concat()), Some(1000.0));
        // Lost answers are mappings of our own.
        let lost = vec![(20, 0); 4];
        assert_eq!(rate(&[burst(0, 5000), lost, burst(50, 5010)].concat()), Some(0.0));
        // Across the end of the range nothing is known.
        assert_eq!(rate(&[burst(0, 65530), burst(50, 1030)].concat()), None);
    }

    #[test]
    fn several_external_addresses_are_chosen_by_destination_or_for_each_mapping() {
        let allocated = |address: fn(ServerEndpoint, u32) -> u32| {
            let mut log = made::log();
            for (number, endpoint) in
                (0..20).zip([ServerEndpoint::PRIMARY, ServerEndpoint::IP].into_iter().cycle())
            {
                let socket = made::socket(&mut log, &format!("192.168.1.2:{}", 40_000 + 7 * number));
                let external = format!("203.0.113.{}:{}", address(endpoint, number), 40_000 + 7 * number);
                log.transactions.push(made::answered(PURPOSE, socket, endpoint, &external));
            }
            let value = conclude(&log).value.unwrap();
            (value.external_ips, value.external_ip_by_destination)
        };
        assert_eq!(allocated(|_, _| 1), (1, None));
        assert_eq!(allocated(|to, _| if to == ServerEndpoint::IP { 1 } else { 2 }), (2, Some(true)));
        assert_eq!(allocated(|_, number| 1 + number / 3 % 2), (2, Some(false)));
    }

    #[test]
    fn random_ports_are_no_sequence() {
        for seed in 0..2000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let ports: Vec<u16> = (0..FEWEST * 3).map(|_| rng.u16(1024..)).collect();
            assert_eq!(sequence(&ports), None, "seed {seed}");
            let block: Vec<u16> = (0..32).map(|_| rng.u16(50000..50512)).collect();
            assert_eq!(sequence(&block), None, "block, seed {seed}");
        }
    }

    #[test]
    fn a_block_is_told_from_the_whole_range() {
        let mut whole = 0;
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let block: Vec<u16> = (0..32).map(|_| rng.u16(50000..50512)).collect();
            let (policy, (low, high)) = spread(&block);
            assert_eq!(policy, PortPolicy::Block);
            assert!(low >= 49900 && high <= 50620, "seed {seed}: {low}-{high}");
            let wide: Vec<u16> = (0..32).map(|_| rng.u16(1024..)).collect();
            assert_eq!(spread(&wide).0, PortPolicy::Random, "seed {seed}");
            whole += u32::from(spread(&wide).1 == ORDINARY);
        }
        assert!(whole >= 495, "only {whole} of 500 samples of the whole range were taken for one");
    }
}
