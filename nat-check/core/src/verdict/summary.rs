//! The verdict in a sentence or two. It promises no more than the table of peers, and says what it rests on where that is
//! not sure.

use shared::nat::Mapping;

use crate::report::{
    Confidence, Finding, HolePunching, Level, PeerKind, PeerOutcome, PeerVerdict, ReasonCode, Technique,
    UdpReport,
};

/// Over one family.
pub(super) fn of(level: Level, udp: &UdpReport, peers: &[PeerVerdict]) -> String {
    let table = Table(peers);
    let text = match level {
        Level::AnyPeer => any_peer(table),
        Level::MostPeers => most_peers(table),
        Level::SomePeers => some_peers(table),
        Level::None => {
            "Hole punching over UDP does not work: UDP is blocked here, so only TCP or a relay is left."
                .into()
        }
        Level::Unknown => partly_known(udp, table),
    };
    text + &caveat(level, udp)
}

/// Over both families, of which every peer has the first.
pub(super) fn of_both(four: &HolePunching, six: &HolePunching) -> String {
    if four.level == six.level {
        return four.summary.clone();
    }
    if four.level == Level::None && six.level != Level::Unknown {
        return format!("{} Over IPv4, UDP is blocked.", with_ipv6(&six.summary));
    }
    let rest = match six.level {
        Level::AnyPeer => "if the peer has it, too, it works with any peer",
        Level::MostPeers => "if the peer has it, too, it works with most peers",
        Level::SomePeers => "if the peer has it, too, it works with some peers",
        Level::None => "UDP is blocked",
        Level::Unknown => "that is not known",
    };
    format!("Over IPv4, {} Over IPv6, {rest}.", continued(&four.summary))
}

/// Over IPv6 alone, which not every peer has.
pub(super) fn with_ipv6(summary: &str) -> String {
    format!("If the peer has IPv6, too, {}", continued(summary))
}

pub(super) fn not_known(why: Option<&String>) -> String {
    format!("Whether hole punching works is not known{}.", because(why))
}

fn because(why: Option<&String>) -> String {
    why.map_or(String::new(), |why| format!(": {why}"))
}

/// A sentence that goes on behind a comma.
fn continued(sentence: &str) -> String {
    let mut characters = sentence.chars();
    characters
        .next()
        .map_or(String::new(), |first| first.to_ascii_lowercase().to_string() + characters.as_str())
}

/// What is expected of each kind of peer.
#[derive(Clone, Copy)]
struct Table<'a>(&'a [PeerVerdict]);

impl Table<'_> {
    /// The technique that leads to a direct path with this kind of peer.
    fn direct(self, kind: PeerKind) -> Option<Technique> {
        let row = self.0.iter().find(|peer| peer.peer == kind)?;
        row.technique.filter(|_| row.outcome == PeerOutcome::Direct)
    }

    fn is_immediate(self, kind: PeerKind) -> bool {
        matches!(self.direct(kind), Some(Technique::Direct | Technique::Simultaneous))
    }
}

fn any_peer(table: Table<'_>) -> String {
    let hard = [PeerKind::PortRestrictedCone, PeerKind::SymmetricSequential, PeerKind::SymmetricRandom];
    if hard.iter().all(|&kind| table.is_immediate(kind)) {
        "Hole punching works with any peer whose UDP is not blocked.".into()
    } else if hard.iter().all(|&kind| table.direct(kind).is_some()) {
        let who = match table.is_immediate(PeerKind::PortRestrictedCone) {
            true => "symmetric",
            false => "port-restricted cone or a symmetric",
        };
        format!(
            "Hole punching works with any peer whose UDP is not blocked: immediately with peers that do not filter by \
             port, by guessing ports with those behind a {who} NAT."
        )
    } else {
        "Hole punching works immediately with peers that do not filter by port; whether it does with those behind \
         other NATs is not certain."
            .into()
    }
}

fn most_peers(table: Table<'_>) -> String {
    match table.direct(PeerKind::SymmetricRandom) {
        Some(_) => "Hole punching works with most peers: immediately with all but those behind a symmetric NAT, and with \
                    most of these by guessing ports."
            .into(),
        None => "Hole punching works with most peers: with all but those behind a symmetric NAT.".into(),
    }
}

fn some_peers(table: Table<'_>) -> String {
    let home = match table.direct(PeerKind::PortRestrictedCone) {
        Some(Technique::Prediction) => {
            "with a port-restricted cone NAT (typical home router) by predicting ports"
        }
        Some(Technique::Birthday) => {
            "with a port-restricted cone NAT (typical home router) by guessing ports"
        }
        Some(_) => "with a port-restricted cone NAT (typical home router), too",
        None => "with a port-restricted cone NAT (typical home router) only through a relay",
    };
    let symmetric =
        match (table.direct(PeerKind::SymmetricSequential), table.direct(PeerKind::SymmetricRandom)) {
            (Some(_), Some(_)) => "with a symmetric NAT by guessing ports",
            (Some(_), None) => "with a symmetric NAT only if its ports can be predicted",
            (None, _) => "with a symmetric NAT only through a relay",
        };
    format!(
        "Hole punching works with some peers: immediately with those that do not filter by port, {home}, {symmetric}."
    )
}

/// What can be said where one of the axes is not known.
fn partly_known(udp: &UdpReport, table: Table<'_>) -> String {
    let why = because(udp.filtering.reason.as_ref().or(udp.mapping.reason.as_ref()));
    let fixed = matches!(udp.mapping.value, Some(Mapping::Direct | Mapping::EndpointIndependent));
    if fixed && udp.filtering.value.is_none() {
        return format!(
            "Hole punching works with most peers if the filter here is of the usual kind; that is not known{why}."
        );
    }
    let widest = WIDENING.iter().rfind(|(kind, _)| table.direct(*kind).is_some());
    match widest {
        Some((_, who)) => {
            format!("Hole punching works at least with peers {who}; with others it is not known{why}.")
        }
        None => not_known(udp.filtering.reason.as_ref().or(udp.mapping.reason.as_ref())),
    }
}

/// Kinds of peer, each of which is harder to reach than the one before.
const WIDENING: [(PeerKind, &str); 3] = [
    (PeerKind::FullCone, "that let anybody in"),
    (PeerKind::RestrictedCone, "that do not filter by port"),
    (PeerKind::PortRestrictedCone, "that are not behind a symmetric NAT"),
];

/// What the level rests on and is only likely.
fn caveat(level: Level, udp: &UdpReport) -> String {
    fn is_weak<T>(finding: &Finding<T>) -> bool {
        finding.confidence == Confidence::Weak
    }
    // Of what kind a mapping is that depends on the destination does not matter here.
    let mapping = is_weak(&udp.mapping) && udp.mapping.reason_code != Some(ReasonCode::MappingKindUnknown);
    match (mapping, is_weak(&udp.filtering)) {
        _ if level == Level::None => String::new(),
        (true, true) => " That rests on mapping and filtering, which are only likely.".into(),
        (true, false) => " That rests on the mapping, which is only likely.".into(),
        (false, true) => " That rests on the filtering, which is only likely.".into(),
        (false, false) => String::new(),
    }
}
