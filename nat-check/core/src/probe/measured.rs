//! What a measurement finds out: where it stands in the report, how it is concluded, told, merged and checked. Each
//! measurement implements [`Measured`] in its own file; everybody else reads the [`REGISTRY`](super::REGISTRY).

use serde::Serialize;

use super::{Probe, REGISTRY, merge::Merge};
use crate::{
    observation::{ObservationLog, tcp::OutcomeKind},
    report::{Finding, Reason, ReasonCode, Row, ServerFeatures, TcpReport, UdpReport, json_word},
    server_position::nat_before_server,
};

/// Everything that is concluded from one server over one family.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The behaviour of the network over UDP.
    pub udp: UdpReport,
    /// The same over TCP.
    pub tcp: TcpReport,
    /// Whether TCP was tried at all.
    pub tcp_tried: bool,
    /// What the server can do.
    pub server: ServerFeatures,
}

/// Something that is found out.
pub trait Measured {
    /// What a finding holds.
    type Value: Clone + PartialEq + Serialize + 'static;

    /// Its key in the JSON report.
    const KEY: &'static str;
    /// Its name in a table.
    const LABEL: &'static str;
    /// Its key in the line format; none = it is left out there.
    const LINE_KEY: Option<&'static str> = Some(Self::KEY);

    /// Whether it tells of the NAT in front of this host: where the server stands behind one of its own, that is what it
    /// would tell of.
    const OF_THE_NAT: bool = true;
    /// Over which transport it looks.
    const TRANSPORT: Transport = Transport::Udp;

    /// Its slot; write `slot!(udp.mapping);` for both.
    fn slot(found: &Found) -> &Finding<Self::Value>;
    /// The same, to write into.
    fn slot_mut(found: &mut Found) -> &mut Finding<Self::Value>;

    /// Draws the conclusion from the log, and from what was concluded before it (in the order of the registry). Pure.
    fn conclude(log: &ObservationLog, found: &Found) -> Finding<Self::Value>;

    /// The finding of a finished run, which may not have asked for it or not come to its end.
    fn finish(probe: &Probe, log: &ObservationLog, found: &Found) -> Finding<Self::Value> {
        if !log.tests.contains(&probe.name) {
            return Finding::not_asked_for(probe.about);
        }
        if let Some(reason) = Self::TRANSPORT.closed(log) {
            return Finding::unknown(reason, probe.about);
        }
        let finding = concluded::<Self>(log, found);
        match (&finding.value, Self::TRANSPORT.error(log)) {
            (None, Some(error)) => finding.because((ReasonCode::SystemRefused, error.as_str())),
            (None, None) if log.ended_early => {
                finding.because((ReasonCode::EndedEarly, "the run ended before this was done"))
            }
            _ => finding,
        }
    }

    /// The value for a person.
    fn text(value: &Self::Value) -> String;

    /// The value in one word, for the line format.
    fn word(value: &Self::Value) -> String {
        json_word(value)
    }

    /// What follows from the value, as a row of its own: label and text.
    fn remark(_value: &Self::Value) -> Option<(&'static str, String)> {
        None
    }

    /// Takes another server's finding into account. Without more ado the surer one counts, and two that are equally
    /// sure of different things make a warning.
    fn merge(merge: Merge<'_>, mine: &mut Finding<Self::Value>, other: &Finding<Self::Value>) {
        merge.agree(mine, other);
    }

    /// What a report on a modelled NAT must say, in the shape of the JSON; none = that is not to be judged.
    #[cfg(feature = "sim")]
    fn expected(_nat: &shared::nat::model::UdpBehaviour) -> Option<serde_json::Value> {
        None
    }

    /// The same for a measurement over TCP.
    #[cfg(feature = "sim")]
    fn expected_tcp(_nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        None
    }
}

/// Over which transport a measurement looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

impl Transport {
    /// Why nothing is known over this transport, where nothing passed.
    fn closed(self, log: &ObservationLog) -> Option<Reason> {
        match self {
            Self::Udp => log.dialect().is_none().then(|| NO_UDP.into()),
            Self::Tcp => (!log.tcp.reached(log.server)).then(|| no_tcp(log)),
        }
    }

    /// What the operating system refused.
    fn error(self, log: &ObservationLog) -> Option<&String> {
        match self {
            Self::Udp => log.socket_error.as_ref(),
            Self::Tcp => log.tcp.error.as_ref(),
        }
    }
}

/// Why there was no connection to the server.
fn no_tcp(log: &ObservationLog) -> Reason {
    if let Some(error) = &log.tcp.error {
        return (ReasonCode::SystemRefused, error.as_str()).into();
    }
    let tried: Vec<_> = log.tcp.connections.iter().filter(|c| c.to == log.server).collect();
    let ended = |kind| tried.iter().any(|c| c.outcome.is_some_and(|outcome| outcome.kind == kind));
    if ended(OutcomeKind::Refused) {
        (ReasonCode::TcpBlocked, "the server, or something on the way, refuses TCP connections").into()
    } else if ended(OutcomeKind::Unreachable) {
        (ReasonCode::TcpBlocked, "the server cannot be reached over TCP: ICMP says unreachable").into()
    } else if log.ended_early {
        (ReasonCode::EndedEarly, "the run ended before the server had answered over TCP").into()
    } else {
        (ReasonCode::TcpBlocked, "the server did not answer over TCP in time").into()
    }
}

/// The conclusion, where the server stands where it can be drawn from.
fn concluded<M: Measured + ?Sized>(log: &ObservationLog, found: &Found) -> Finding<M::Value> {
    let finding = M::conclude(log, found);
    match nat_before_server(log).filter(|_| M::OF_THE_NAT) {
        Some(reason) => Finding { evidence: finding.evidence, ..Finding::unknown(reason, &finding.method) },
        None => finding,
    }
}

/// Where a finding stands, as `slot!(udp.mapping);` in an implementation of [`Measured`].
macro_rules! slot {
    ($part:ident.$field:ident) => {
        fn slot(found: &$crate::probe::Found) -> &Finding<Self::Value> {
            &found.$part.$field
        }

        fn slot_mut(found: &mut $crate::probe::Found) -> &mut Finding<Self::Value> {
            &mut found.$part.$field
        }
    };
}
pub(super) use slot;

/// Why nothing is known of UDP where none passes.
const NO_UDP: (ReasonCode, &str) = (ReasonCode::UdpBlocked, "no UDP passes");

/// One [`Measured`] as an entry of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Its key in the JSON report.
    pub key: &'static str,
    conclude: fn(&ObservationLog, &mut Found),
    finish: fn(&Probe, &ObservationLog, &mut Found),
    set_unknown: fn(&mut Found, (ReasonCode, &str), &str),
    name_server: fn(&mut Found, &str),
    rows: fn(&Found) -> Vec<Row>,
    merge: fn(Merge<'_>, &mut Found, &Found),
    #[cfg(feature = "sim")]
    expected: fn(&shared::nat::model::UdpBehaviour) -> Option<serde_json::Value>,
    #[cfg(feature = "sim")]
    expected_tcp: fn(&shared::nat::model::TcpBehaviour) -> Option<serde_json::Value>,
}

impl Slot {
    /// The entry of `M`.
    #[must_use]
    pub const fn of<M: Measured>() -> Self {
        Self {
            key: M::KEY,
            conclude: |log, found| *M::slot_mut(found) = concluded::<M>(log, found),
            finish: |probe, log, found| *M::slot_mut(found) = M::finish(probe, log, found),
            set_unknown: |found, reason, method| *M::slot_mut(found) = Finding::unknown(reason, method),
            name_server: |found, server| {
                if let Some(reason) = &mut M::slot_mut(found).reason {
                    *reason = reason.replace("the server", server);
                }
            },
            rows: |found| {
                let finding = M::slot(found);
                let mut row = Row::of(M::KEY, M::LABEL, finding, M::text);
                row.line_key = M::LINE_KEY;
                row.word = finding.value.as_ref().map(M::word);
                let remark = finding.value.as_ref().and_then(M::remark);
                let remark = remark.map(|(label, text)| Row::plain(M::KEY, label, text));
                std::iter::once(row).chain(remark).collect()
            },
            merge: |merge, mine, other| M::merge(merge, M::slot_mut(mine), M::slot(other)),
            #[cfg(feature = "sim")]
            expected: M::expected,
            #[cfg(feature = "sim")]
            expected_tcp: M::expected_tcp,
        }
    }

    /// Makes it unknown for this reason.
    pub(crate) fn set_unknown(&self, found: &mut Found, reason: (ReasonCode, &str), method: &str) {
        (self.set_unknown)(found, reason, method);
    }

    /// Says which server its reason speaks of, where there are several.
    pub(crate) fn name_server(&self, found: &mut Found, server: &str) {
        (self.name_server)(found, server);
    }

    /// Its rows for people: the finding, and what follows from it.
    #[must_use]
    pub fn rows(&self, found: &Found) -> Vec<Row> {
        (self.rows)(found)
    }

    /// Takes another server's finding into account.
    pub(crate) fn merge(&self, merge: Merge<'_>, mine: &mut Found, other: &Found) {
        (self.merge)(merge, mine, other);
    }

    /// What a report on a modelled NAT must say; none = that is not to be judged.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn expected(&self, nat: &shared::nat::model::UdpBehaviour) -> Option<serde_json::Value> {
        (self.expected)(nat)
    }

    /// The same for a measurement over TCP.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn expected_tcp(&self, nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        (self.expected_tcp)(nat)
    }
}

/// All conclusions of a finished run, each drawn once, in the order of the registry.
#[must_use]
pub fn conclude(log: &ObservationLog) -> Found {
    let mut found = Found::default();
    for probe in REGISTRY {
        for slot in probe.udp.iter().chain(probe.tcp).chain(probe.server) {
            (slot.finish)(probe, log, &mut found);
        }
    }
    found
}

/// What these measurements have found in a run that is still under way.
pub(crate) fn so_far(log: &ObservationLog, names: &[&str]) -> Found {
    let mut found = Found::default();
    for probe in REGISTRY.iter().filter(|probe| names.contains(&probe.name)) {
        probe.udp.iter().for_each(|slot| (slot.conclude)(log, &mut found));
    }
    found
}
