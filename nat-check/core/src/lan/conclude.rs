//! From what was heard on a network to findings. Pure.

use std::net::Ipv4Addr;

use super::{
    beacon::{REACHES_GATEWAY, Tally},
    neighbour::Neighbour,
    neighbourhood::Neighbourhood,
    pairs::{self, Pairs},
    report::{AnswerKind, DeviceProtocol, DeviceReport, GatewayReport, Known, NeighbourReport, Reach},
    way::Way,
    word::{ENOUGH, Word},
};
use crate::report::{Confidence, Finding, Reason, ReasonCode};

/// The ways of one question.
pub(super) const LOCAL_SCOPE: &[Way] = &[Way::Multicast, Way::MulticastTtl4];
const LINK: &[Way] = &[Way::MdnsGroup];
const IPV6: &[Way] = &[Way::MulticastIpv6];
const BROADCAST: &[Way] = &[Way::SubnetBroadcast, Way::LimitedBroadcast];

const MULTICAST_METHOD: &str = "beacons to 239.255.77.78 and 224.0.0.251 (RFC 2365, RFC 4541)";
const IPV6_METHOD: &str = "beacons to ff12::4e41:5443 (RFC 4291 section 2.7)";
const BROADCAST_METHOD: &str = "beacons to the broadcast addresses (RFC 919)";
const ISOLATION_METHOD: &str = "beacons from each host to each other one";
const LASTS_METHOD: &str = "beacons to a group that was joined once (RFC 4541 section 2.1)";

/// For so many seconds switches remember the members of a group that nobody asks for (RFC 3376 section 8.4).
const REMEMBERED: u16 = 260;
/// After so many seconds they have forgotten them.
pub(crate) const FORGOTTEN: u16 = 300;
/// A group that was heard in the last so many rounds is heard still.
const RECENT: usize = 5;

/// What is known besides beacons.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside<'a> {
    pub(crate) gateway: Option<GatewayReport>,
    pub(crate) devices: &'a [DeviceReport],
    /// Whether it was ended before it was done.
    pub(crate) ended_early: bool,
}

/// The findings.
#[derive(Clone, Debug)]
pub(crate) struct Findings {
    pub(crate) multicast: Finding<Reach>,
    pub(crate) ipv6_multicast: Finding<Reach>,
    pub(crate) broadcast: Finding<Reach>,
    pub(crate) isolation: Finding<bool>,
    pub(crate) one_way: Finding<bool>,
    pub(crate) lasts: Finding<bool>,
}

pub(crate) fn conclude(network: &Neighbourhood, beside: Beside<'_>) -> Findings {
    let directions = Directions::of(network);
    let nobody = || nobody(network, beside);
    let reach = |ways, method| {
        directions
            .reach(ways, method, beside.ended_early)
            .unwrap_or_else(|| Finding::unknown(nobody(), method))
    };
    let lasts = lasts(network, beside.ended_early);
    let mut multicast = directions.multicast(beside.ended_early).unwrap_or_else(|| alone(beside, nobody()));
    if lasts.sure() == Some(&false) {
        let text = "it arrives until the network forgets who is a member";
        multicast = multicast.because((ReasonCode::GroupForgotten, text));
    }
    let pairs = pairs::of(network);
    Findings {
        multicast,
        ipv6_multicast: reach(IPV6, IPV6_METHOD),
        broadcast: reach(BROADCAST, BROADCAST_METHOD),
        isolation: isolation(&pairs, beside, nobody()),
        one_way: one_way(&pairs, nobody()),
        lasts,
    }
}

/// The neighbours that are heard or heard of.
pub(crate) fn neighbours(network: &Neighbourhood) -> Vec<NeighbourReport> {
    let known = |it: &Neighbour| match (it.is_proven, it.nonce) {
        (true, _) => Known::Proven,
        (false, Some(_)) => Known::Heard,
        (false, None) => Known::Told,
    };
    let report = |it: &Neighbour| NeighbourReport {
        address: *it.at.ip(),
        ipv6_address: it.at6.map(|at| *at.ip()),
        known: known(it),
        reaches_gateway: it.flags & REACHES_GATEWAY != 0,
        rounds: it.age(),
    };
    network.neighbours.iter().map(report).collect()
}

/// Why nothing is known where no neighbour is proven.
fn nobody(network: &Neighbourhood, beside: Beside<'_>) -> Reason {
    let peers: Vec<String> = network.us.peers.iter().map(|at| at.ip().to_string()).collect();
    let gateway = match beside.gateway {
        Some(GatewayReport { answers: Some(true), .. }) => "the gateway answers, and ",
        _ => "",
    };
    let is_heard = network.neighbours.iter().any(|it| it.nonce.is_some());
    let text = match peers.as_slice() {
        _ if is_heard => "a host is heard that does not show that it hears this one".to_owned(),
        _ if beside.ended_early => {
            return (ReasonCode::EndedEarly, "it was ended before anybody was heard").into();
        }
        [] => format!(
            "{gateway}no other host that runs nat-check lan is heard: there is none, a firewall is in the way, or the network isolates its clients"
        ),
        peers => format!(
            "{gateway}{} is not heard: it does not run nat-check lan, is not there, a firewall is in the way, or the network isolates its clients",
            peers.join(", ")
        ),
    };
    (ReasonCode::NoNeighbour, text).into()
}

/// What one host can tell: who answers searches, and how.
fn alone(beside: Beside<'_>, nobody: Reason) -> Finding<Reach> {
    let answers = |protocol: DeviceProtocol| beside.devices.iter().filter(move |it| it.protocol == protocol);
    let is_heard_outside = answers(DeviceProtocol::Ssdp).next().is_some();
    let arrives = answers(DeviceProtocol::Mdns).any(|it| it.answers != AnswerKind::Unicast);
    let finding = match (is_heard_outside, arrives) {
        (true, true) => {
            let text = "devices hear a group of the local scope and are heard in one of the link; the rest takes a second host";
            Finding::known(Reach::Works, Confidence::Weak, "SSDP and mDNS")
                .because((ReasonCode::OneHostCannotTell, text))
        }
        (true, false) => Finding::unknown(
            nobody.map(|text| {
                format!("{text}; searches arrive at devices, whether groups arrive here is not seen")
            }),
            MULTICAST_METHOD,
        ),
        (false, _) => Finding::unknown(nobody, MULTICAST_METHOD),
    };
    finding.with("devices", beside.devices.len())
}

/// Tallies between this host and those that are proven.
struct Directions {
    incoming: Vec<Tally>,
    outgoing: Vec<Tally>,
    /// Why some ways are not tried.
    own_sends: u8,
    own_hears: u8,
}

/// How a group spreads over directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    Untried,
    Works,
    OneWay,
    Partly,
    Silent,
    Open,
}

impl Directions {
    fn of(network: &Neighbourhood) -> Self {
        let proven = || network.neighbours.iter().filter(|it| it.is_proven);
        let hears = network.hears();
        Self {
            incoming: proven().map(|it| it.tally(hears)).collect(),
            outgoing: proven().filter_map(|it| it.told).collect(),
            own_sends: network.sends,
            own_hears: hears,
        }
    }

    fn all(&self) -> impl Iterator<Item = &Tally> {
        self.incoming.iter().chain(&self.outgoing)
    }

    fn spread(&self, ways: &[Way]) -> Spread {
        let passes = |tally: &Tally| matches!(tally.best(ways), Word::Passes | Word::Lossy);
        let is = |word: Word| self.all().any(|tally| tally.best(ways) == word);
        let count = self.all().filter(|tally| passes(tally)).count();
        let are_same = |side: &[Tally]| side.windows(2).all(|two| passes(&two[0]) == passes(&two[1]));
        match () {
            () if is(Word::NotTried) => Spread::Untried,
            () if is(Word::Open) => Spread::Open,
            () if count == self.incoming.len() + self.outgoing.len() => Spread::Works,
            () if count == 0 => Spread::Silent,
            () if are_same(&self.incoming) && are_same(&self.outgoing) => Spread::OneWay,
            () => Spread::Partly,
        }
    }

    /// None where no neighbour is proven.
    fn reach(&self, ways: &[Way], method: &str, ended_early: bool) -> Option<Finding<Reach>> {
        if self.incoming.is_empty() {
            return None;
        }
        let strong = |reach| Finding::known(reach, Confidence::Strong, method);
        let finding = match self.spread(ways) {
            Spread::Works => self.works(ways, method),
            Spread::OneWay => strong(Reach::OneWay).because((ReasonCode::OneDirection, self.direction(ways))),
            Spread::Partly => strong(Reach::Partly),
            Spread::Silent => strong(Reach::Filtered),
            Spread::Untried => Finding::unknown(self.untried(ways, ended_early), method),
            Spread::Open => Finding::unknown(self.open(ended_early), method),
        };
        Some(self.with_counts(finding, ways))
    }

    fn multicast(&self, ended_early: bool) -> Option<Finding<Reach>> {
        let local = self.reach(LOCAL_SCOPE, MULTICAST_METHOD, ended_early)?;
        if local.value != Some(Reach::Filtered) {
            return Some(local);
        }
        let finding = match self.spread(LINK) {
            Spread::Works => Finding::known(Reach::LinkLocalOnly, Confidence::Strong, MULTICAST_METHOD),
            Spread::Silent => local.clone(),
            Spread::OneWay | Spread::Partly => {
                Finding::known(Reach::Partly, Confidence::Strong, MULTICAST_METHOD)
            }
            Spread::Untried => Finding::unknown(self.untried(LINK, ended_early), MULTICAST_METHOD),
            Spread::Open => Finding::unknown(self.open(ended_early), MULTICAST_METHOD),
        };
        let finding = Finding { evidence: local.evidence, ..finding };
        let heard: Vec<[u8; 2]> = self.all().map(|tally| counts(tally, LINK)).collect();
        Some(finding.with("mdns_group_sent_heard", heard))
    }

    /// A beacon that has arrived proves that they do; how many takes more of them.
    fn works(&self, ways: &[Way], method: &str) -> Finding<Reach> {
        let finding = Finding::known(Reach::Works, Confidence::Certain, method);
        if self.all().any(|tally| tally.best(ways) == Word::Lossy) {
            return finding
                .at_most(Confidence::Weak)
                .because((ReasonCode::LossLeavesDoubt, "fewer than half of the beacons arrive"));
        }
        let is_short = |tally: &Tally| counts(tally, ways)[0] < ENOUGH;
        // Around a half, chance decides on which side of it a share is.
        let is_near_half = |tally: &Tally| {
            let [sent, heard] = counts(tally, ways).map(u16::from);
            sent > 0 && heard * 4 < sent * 3
        };
        if self.all().any(is_near_half) {
            return finding
                .at_most(Confidence::Weak)
                .because((ReasonCode::LossLeavesDoubt, "about half of the beacons arrive"));
        }
        match self.all().any(is_short) {
            true => finding
                .at_most(Confidence::Weak)
                .because((ReasonCode::TooFewSamples, "too few beacons to say how many of them arrive")),
            false => finding,
        }
    }

    fn direction(&self, ways: &[Way]) -> &'static str {
        match self.incoming.iter().any(|tally| matches!(tally.best(ways), Word::Passes | Word::Lossy)) {
            true => "what others send arrives here, what this host sends does not arrive there",
            false => "what this host sends arrives, what others send does not arrive here",
        }
    }

    fn untried(&self, ways: &[Way], ended_early: bool) -> Reason {
        let has = |set: u8| ways.iter().any(|way| set & way.bit() != 0);
        let is_young = self.all().any(|tally| tally.sent.iter().all(|sent| *sent < ENOUGH));
        let text = match () {
            () if !has(self.own_sends) => "this host has no such address, or its system does not send so",
            () if !has(self.own_hears) => {
                "this host does not hear what it sends itself: its own firewall or system is in the way"
            }
            () if is_young => return self.open(ended_early),
            () => "another host does not send so, or does not hear what it sends itself",
        };
        (ReasonCode::SystemRefused, text).into()
    }

    fn open(&self, ended_early: bool) -> Reason {
        let is_young = self.all().any(|tally| tally.sent.iter().all(|sent| *sent < ENOUGH));
        match () {
            () if ended_early => (ReasonCode::EndedEarly, "it was ended before enough was heard").into(),
            () if is_young => (ReasonCode::TooFewSamples, "too few beacons were heard").into(),
            () => (ReasonCode::TooMuchLoss, "none has arrived, and so many get lost that it may be chance")
                .into(),
        }
    }

    fn with_counts(&self, finding: Finding<Reach>, ways: &[Way]) -> Finding<Reach> {
        let of = |side: &[Tally]| side.iter().map(|tally| counts(tally, ways)).collect::<Vec<_>>();
        finding
            .with("from_others_sent_heard", of(&self.incoming))
            .with("to_others_sent_heard", of(&self.outgoing))
    }
}

/// Sent and heard, by the way of these that is heard best.
fn counts(tally: &Tally, ways: &[Way]) -> [u8; 2] {
    let (sent, heard) =
        ways.iter().map(|way| tally.of(*way)).max_by_key(|(sent, heard)| (*heard, *sent)).unwrap_or_default();
    [sent, heard]
}

fn names(pairs: &[(Ipv4Addr, Ipv4Addr)], between: &str) -> Vec<String> {
    pairs.iter().map(|(a, b)| format!("{a} {between} {b}")).collect()
}

fn isolation(pairs: &Pairs, beside: Beside<'_>, nobody: Reason) -> Finding<bool> {
    let known = |value, confidence| Finding::known(value, confidence, ISOLATION_METHOD);
    let others =
        beside.devices.iter().filter(|it| beside.gateway.is_none_or(|gateway| gateway.address != it.address));
    if !pairs.isolated.is_empty() {
        let named = names(&pairs.isolated, "and");
        known(true, Confidence::Strong)
            .because((
                ReasonCode::HostsIsolated,
                format!("not even unicast passes between {}", named.join(", ")),
            ))
            .with("isolated", named)
            .with("open", names(&pairs.open, "and"))
    } else if !pairs.unheard.is_empty() {
        let named = names(&pairs.unheard, "to");
        let text = format!("nothing passes from {}; of the way back nothing is known", named.join(", "));
        known(true, Confidence::Weak).because((ReasonCode::HostsIsolated, text)).with("unheard", named)
    } else if !pairs.open.is_empty() {
        of_all_pairs(known(false, Confidence::Certain), pairs)
    } else if others.clone().next().is_some() {
        let text = "other devices answer; whether they are clients as this host is takes a second one";
        known(false, Confidence::Weak)
            .because((ReasonCode::OneHostCannotTell, text))
            .with("devices", others.count())
    } else {
        Finding::unknown(nobody, ISOLATION_METHOD)
    }
}

/// What holds of the open pairs is sure only where they are all that there are.
fn of_all_pairs(finding: Finding<bool>, pairs: &Pairs) -> Finding<bool> {
    let rest: Vec<_> = pairs.unknown.iter().chain(&pairs.unheard).copied().collect();
    let finding = match rest.as_slice() {
        [] => finding,
        rest => finding.at_most(Confidence::Weak).because((
            ReasonCode::TooFewSamples,
            format!("too little is known of {}", names(rest, "and").join(", ")),
        )),
    };
    finding.with("open", names(&pairs.open, "and"))
}

fn one_way(pairs: &Pairs, nobody: Reason) -> Finding<bool> {
    let known = |value, confidence| Finding::known(value, confidence, ISOLATION_METHOD);
    let because = |found: &[(Ipv4Addr, Ipv4Addr)]| {
        let named = names(found, "to").join(", ");
        (ReasonCode::OneDirection, format!("packets pass from {named}; the other way not even unicast does"))
    };
    match (pairs.one_way.as_slice(), pairs.perhaps_one_way.as_slice()) {
        ([], []) if pairs.open.is_empty() => Finding::unknown(nobody, ISOLATION_METHOD),
        ([], []) => of_all_pairs(known(false, Confidence::Certain), pairs),
        ([], found) => {
            known(true, Confidence::Weak).because(because(found)).with("pairs", names(found, "to"))
        }
        (found, _) => {
            known(true, Confidence::Strong).because(because(found)).with("pairs", names(found, "to"))
        }
    }
}

/// Whether the group is heard to the end, or falls silent while other packets arrive.
fn lasts(network: &Neighbourhood, ended_early: bool) -> Finding<bool> {
    let hears = network.hears();
    // By this host's own rounds: those of a neighbour that has left stand still.
    let is_recent =
        |at: Option<u16>| at.is_some_and(|at| usize::from(at) + RECENT >= usize::from(network.round));
    let proven = || network.neighbours.iter().filter(|it| it.is_proven);
    let heard: Vec<(usize, Tally)> = proven()
        .filter_map(|it| it.after_last(LOCAL_SCOPE, hears).map(|found| (found, is_recent(it.heard_at))))
        .filter(|((_, after), is_here)| *is_here || after.best(LOCAL_SCOPE) == Word::Silent)
        .map(|(found, _)| found)
        .collect();
    let known =
        |value, confidence| Finding::known(value, confidence, LASTS_METHOD).with("listened_s", network.round);
    let has_forgotten = |(_, after): &(usize, Tally)| after.best(LOCAL_SCOPE) == Word::Silent;
    if !heard.is_empty() && heard.iter().all(has_forgotten) {
        let until = heard.iter().map(|(last, _)| *last).max().unwrap_or_default();
        return known(false, Confidence::Strong).with("last_heard_round", until);
    }
    if network.round >= FORGOTTEN && proven().any(|it| is_recent(it.group_at)) {
        return known(true, Confidence::Certain);
    }
    let reason = match () {
        () if heard.is_empty() => {
            (ReasonCode::NoNeighbour, "no group has been heard in the first place".to_owned())
        }
        () if ended_early => (ReasonCode::EndedEarly, "it was ended before".into()),
        () if network.round >= FORGOTTEN => {
            (ReasonCode::TooFewSamples, "too little was heard at the end".into())
        }
        () => (
            ReasonCode::NotAskedFor,
            format!("switches remember members for up to {REMEMBERED} s: --hold 330 looks for longer"),
        ),
    };
    Finding::unknown(reason, LASTS_METHOD)
}
