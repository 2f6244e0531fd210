//! Port allocation (RFC 4787 sections 4.1 and 4.2): how are external ports and addresses chosen? Learned from the
//! external endpoints of many sockets that are opened one after another, all those of the other measurements among
//! them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use shared::nat::{PortAllocation, PortPolicy};

use crate::{
    ledger::{Ask, Ledger, Place, SocketId, Trial},
    probe::{Probe, Stage, Step},
    report::{Confidence, Finding},
    session::{BUDGET, Contact, Request, Session},
};

/// The measurement.
pub const PROBE: Probe = Probe {
    name: "port-allocation",
    about: "how external ports and addresses are chosen: kept, counted up, drawn at random, from a block",
    needs: &[],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(sample(session, Place::PRIMARY, 9)) },
        Step { stage: Stage::Alternate, run: |session| Box::pin(sample(session, Place::IP, 16)) },
    ],
};

const METHOD: &str = "external endpoints of many sockets, in the order of opening (RFC 4787 4.1, 4.2)";
/// Fewer samples tell nothing.
const FEWEST: usize = 6;
/// With so many samples the finding is strong.
const ENOUGH: usize = 14;
/// Ports that an ordinary allocator draws from.
const ORDINARY: (u16, u16) = (1024, 65535);
/// A range no wider than this is called a block.
const WIDEST_BLOCK: f64 = 8192.0;

/// Opens sockets one after another and asks once from each. Half of them ask the alternate address first: some
/// pools choose the external address by the destination.
async fn sample(session: Arc<Session>, place: Place, count: usize) {
    let to = match place {
        Place::PRIMARY => session.server(),
        other => match (session.contact().await, session.places().get(other)) {
            (Contact::None, _) => return,
            (_, known) => known.unwrap_or(session.server()),
        },
    };
    if session.is_slow() {
        return;
    }
    let round = session.round();
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let Ok(socket) = session.open().await else { break };
        if session.spent() < BUDGET {
            session.send(&socket, Request { purpose: PROBE.name, to, ask: Ask::Plain, round }).await;
        }
        sockets.push(socket);
    }
    if session.contact().await == Contact::None || session.is_slow() {
        return;
    }
    let missing = |ledger: &Ledger| {
        sockets.iter().filter(|s| ledger.mapped(s.id, to).is_none()).cloned().collect::<Vec<_>>()
    };
    for _ in 0..2 {
        session.until(session.now() + session.patience(), |ledger| missing(ledger).is_empty()).await;
        let missing = session.read(missing);
        // A few lost samples change nothing.
        if missing.len() <= count / 8 {
            return;
        }
        for socket in missing.iter().take(BUDGET.saturating_sub(session.spent())) {
            session.send(socket, Request { purpose: PROBE.name, to, ask: Ask::Plain, round }).await;
        }
    }
}

/// One mapping as it was made.
#[derive(Clone, Copy, Debug)]
struct Sample {
    socket: SocketId,
    local: SocketAddr,
    external: SocketAddr,
}

/// Every mapping that answers show, in the order in which the first packet of each left.
fn samples(ledger: &Ledger) -> Vec<Sample> {
    let mut seen = BTreeSet::new();
    let mut asked = BTreeSet::new();
    let mut first_packets: Vec<&Trial> = Vec::new();
    for trial in ledger.trials.iter().filter(|t| matches!(t.ask, Ask::Plain | Ask::From(_)) && !t.unsent) {
        if asked.insert((trial.socket, trial.to)) {
            first_packets.push(trial);
        }
    }
    first_packets
        .into_iter()
        .filter_map(|trial| {
            let local = ledger.local(trial.socket)?;
            let external = ledger.mapped(trial.socket, trial.to)?;
            seen.insert(external).then_some(Sample { socket: trial.socket, local, external })
        })
        .collect()
}

/// Draws the conclusion.
#[must_use]
pub fn conclude(ledger: &Ledger) -> Finding<PortAllocation> {
    let samples = samples(ledger);
    if samples.is_empty() {
        return Finding::unknown("no external endpoint was seen", METHOD);
    }
    if samples.iter().all(|s| s.local == s.external) {
        return Finding::unknown("nothing translates addresses here, so no ports are allocated", METHOD)
            .with("samples", samples.len());
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
        return evidence(Finding::unknown(format!("{} sockets are too few to tell", firsts.len()), METHOD));
    }
    let sure = if firsts.len() >= ENOUGH { Confidence::Strong } else { Confidence::Weak };
    let allocation = |policy, delta, range| PortAllocation {
        policy,
        delta,
        range,
        external_ips: ips.len() as u32,
        // Sixteen in a row happen by chance once in 65,536.
        parity: (firsts.len() >= 16).then_some(parity == firsts.len()),
    };
    if kept * 2 >= firsts.len() {
        let finding = Finding::known(allocation(PortPolicy::Preserving, None, ORDINARY), sure, METHOD);
        let lost = firsts.len() - kept;
        return evidence(if lost == 0 {
            finding
        } else {
            finding.because(format!("{lost} of {} sockets got another port than their own", firsts.len()))
        });
    }
    let (low, high) = extent(&ports);
    if let Some(step) = sequence(&ports) {
        return evidence(Finding::known(
            allocation(PortPolicy::Sequential, Some(step), (low, high)),
            sure,
            METHOD,
        ));
    }
    let (policy, range) = spread(&ports);
    evidence(Finding::known(allocation(policy, None, range), sure, METHOD))
}

/// The step, if each mapping follows the one before by a fixed step, a few left out where other hosts took a port.
fn sequence(ports: &[u16]) -> Option<i32> {
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

fn extent(ports: &[u16]) -> (u16, u16) {
    (ports.iter().copied().min().unwrap_or(0), ports.iter().copied().max().unwrap_or(0))
}

/// The range that random ports are drawn from, estimated from the extent of the sample.
fn spread(ports: &[u16]) -> (PortPolicy, (u16, u16)) {
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

    #[test]
    fn a_sequence_is_seen_through_gaps_and_one_wrap() {
        assert_eq!(sequence(&[500, 501, 502, 504, 505, 506, 509, 510]), Some(1));
        assert_eq!(sequence(&[508, 506, 504, 500, 498, 496]), Some(-2));
        assert_eq!(sequence(&[600, 856, 1112, 1368, 1624, 1880, 2136]), Some(256));
        assert_eq!(sequence(&[65530, 65532, 65534, 1024, 1026, 1028, 1030, 1032, 1034]), Some(2));
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
