//! Between which two hosts anything passes, and in which direction. Pure.

use std::net::Ipv4Addr;

use super::{
    beacon::{Record, Tally},
    neighbour::Neighbour,
    neighbourhood::{MOST_NEIGHBOURS, Neighbourhood},
    report::{PairReport, Verdict, WayReport},
    way::Way,
    word::Word,
};

/// Two hosts, or one and the other that it sends to.
pub(crate) type Pair = (Ipv4Addr, Ipv4Addr);

/// What is known of pairs of hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pairs {
    /// Both hear each other's unicast.
    pub(crate) open: Vec<Pair>,
    /// Neither hears the other's.
    pub(crate) isolated: Vec<Pair>,
    /// Nothing arrives from the first at the second; nothing is known of the way back.
    pub(crate) unheard: Vec<Pair>,
    /// Something arrives from the first at the second, and nothing the other way.
    pub(crate) one_way: Vec<Pair>,
    /// The same, with only the first one's word for it that it is there.
    pub(crate) perhaps_one_way: Vec<Pair>,
    /// Too little is known.
    pub(crate) unknown: Vec<Pair>,
}

const UNICAST: &[Way] = &[Way::Unicast, Way::UnicastIpv6];
/// In so many rounds something arrives that loses a half, but for a chance below 1 in 10,000.
const SILENT: u16 = 14;

/// What one host hears of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hearing {
    /// Its unicast.
    Unicast,
    /// Something, but unicast for sure not.
    NoUnicast,
    /// Something.
    Something,
    /// Nothing for sure.
    Nothing,
    Unknown,
}

pub(crate) fn of(network: &Neighbourhood) -> Pairs {
    let mut pairs = Pairs::default();
    let us = *network.us.at.ip();
    for it in &network.neighbours {
        let them = *it.at.ip();
        let (from_it, to_it) = with_us(it, network);
        // Of a crowd one may have no room for us.
        let is_crowd = network.neighbours.len() >= MOST_NEIGHBOURS / 2;
        let is_sure = it.is_proven || it.nonce.is_none() || it.is_confirmed && !is_crowd;
        sort(&mut pairs, (us, them), (to_it, from_it), is_sure);
    }
    let proven: Vec<&Neighbour> = network.neighbours.iter().filter(|it| it.is_proven).collect();
    for (index, a) in proven.iter().enumerate() {
        for b in &proven[index + 1..] {
            let of = |teller: &Neighbour, from: &Neighbour| {
                teller
                    .records
                    .iter()
                    .find(|it| it.from == from.id)
                    .map_or(Hearing::Unknown, |it| told(&it.tally))
            };
            sort(&mut pairs, (*a.at.ip(), *b.at.ip()), (of(b, a), of(a, b)), true);
        }
    }
    pairs
}

/// What this host hears of a neighbour, and the neighbour of this host.
fn with_us(it: &Neighbour, network: &Neighbourhood) -> (Hearing, Hearing) {
    let hears = network.hears();
    let rounds = network.round.saturating_sub(it.met);
    match (it.is_proven, it.nonce) {
        (true, _) => (told(&it.tally(hears)), it.told.map_or(Hearing::Unknown, |tally| told(&tally))),
        // It has had time to say that it hears us, and each of its beacons arrives here.
        (false, Some(_)) if rounds >= SILENT && it.age() >= usize::from(SILENT) && network.sends != 0 => {
            (Hearing::Something, Hearing::Nothing)
        }
        (false, Some(_)) => (Hearing::Something, Hearing::Unknown),
        (false, None) => {
            let hears_others = network
                .neighbours
                .iter()
                .any(|it| it.is_proven && it.tally(hears).best(&Way::ALL) == Word::Passes);
            let from_it =
                if it.vouched >= SILENT && hears_others { Hearing::Nothing } else { Hearing::Unknown };
            (from_it, it.told.map_or(Hearing::Unknown, |tally| told(&tally)))
        }
    }
}

/// What a tally says as a whole. One in which nothing was heard has as many rounds as others have heard.
fn told(tally: &Tally) -> Hearing {
    let most = tally.sent.iter().max().copied().unwrap_or_default();
    match tally.best(UNICAST) {
        _ if !tally.is_heard() && u16::from(most) >= SILENT => Hearing::Nothing,
        _ if !tally.is_heard() => Hearing::Unknown,
        Word::Passes | Word::Lossy => Hearing::Unicast,
        Word::Silent => Hearing::NoUnicast,
        Word::Open | Word::NotTried => Hearing::Something,
    }
}

/// Sorts the pair in: what `b` hears of `a`, and `a` of `b`.
fn sort(pairs: &mut Pairs, (a, b): Pair, hearing: (Hearing, Hearing), is_sure: bool) {
    use Hearing as H;
    let one_way = if is_sure { &mut pairs.one_way } else { &mut pairs.perhaps_one_way };
    match hearing {
        (H::Unicast, H::Unicast) => pairs.open.push((a, b)),
        (H::Nothing | H::NoUnicast, H::Nothing | H::NoUnicast) => pairs.isolated.push((a, b)),
        (H::Unicast | H::Something, H::Nothing) => one_way.push((a, b)),
        (H::Nothing, H::Unicast | H::Something) => one_way.push((b, a)),
        (H::Unicast, H::NoUnicast) => one_way.push((a, b)),
        (H::NoUnicast, H::Unicast) => one_way.push((b, a)),
        (H::Nothing, H::Unknown) => pairs.unheard.push((a, b)),
        (H::Unknown, H::Nothing) => pairs.unheard.push((b, a)),
        _ => pairs.unknown.push((a, b)),
    }
}

/// Everything that is known of what arrives from whom at whom.
pub(crate) fn matrix(network: &Neighbourhood) -> Vec<PairReport> {
    let us = *network.us.at.ip();
    let hears = network.hears();
    let mut matrix = Vec::new();
    for it in &network.neighbours {
        let them = *it.at.ip();
        matrix.push(report(us, them, true, &it.told.unwrap_or_default()));
        matrix.push(report(them, us, false, &it.tally(hears)));
    }
    for teller in network.neighbours.iter().filter(|it| it.is_proven) {
        let of = |record: &Record| report(*record.at.ip(), *teller.at.ip(), true, &record.tally);
        matrix.extend(teller.records.iter().map(of));
    }
    matrix.retain(|pair| !pair.ways.is_empty());
    matrix.sort_by_key(|pair| (pair.from, pair.to));
    matrix
}

fn report(from: Ipv4Addr, to: Ipv4Addr, told: bool, tally: &Tally) -> PairReport {
    let verdict = |way: Way| match tally.word(way) {
        Word::Passes => Some(Verdict::Passes),
        Word::Lossy => Some(Verdict::Lossy),
        // Of a host of which nothing arrives others say that it is there.
        Word::Open if !tally.is_heard() && u16::from(tally.of(way).0) >= SILENT => Some(Verdict::Silent),
        Word::Silent => Some(Verdict::Silent),
        Word::Open => Some(Verdict::Open),
        Word::NotTried => None,
    };
    let way = |way: Way| {
        let (sent, heard) = tally.of(way);
        Some(WayReport { way, sent, heard, verdict: verdict(way)? })
    };
    PairReport { from, to, told, ways: Way::ALL.into_iter().filter_map(way).collect() }
}
