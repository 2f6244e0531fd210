//! What happened in a laboratory: what each NAT did, and between which hosts packets went.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Number of IP packets.
    pub packets: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

impl Count {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Every NAT, in the order of the topology.
    pub nats: Vec<NatSummary>,
    /// Packets that one host sent and another one received, by pair and family.
    pub flows: Vec<HostFlow>,
}

/// What a NAT did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatSummary {
    /// The router's name.
    pub router: String,
    /// The settings of its NAT.
    pub nat: String,
    /// Its external addresses.
    pub external: Vec<IpAddr>,
    /// Mappings made since the start, those before restarts included.
    pub mappings_made: u64,
    /// Mappings that have not expired.
    pub mappings: usize,
    /// Translated on the way out.
    pub sent: Count,
    /// Translated on the way in.
    pub received: Count,
    /// Packets from inside that were dropped, by reason.
    pub dropped_out: BTreeMap<String, u64>,
    /// Packets from outside that were dropped, by reason.
    pub dropped_in: BTreeMap<String, u64>,
}

/// Packets from one host to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFlow {
    /// The sender.
    pub from: String,
    /// The receiver.
    pub to: String,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// The key of a flow between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) v6: bool,
}

impl Flow {
    pub(super) fn named(&self, name: &impl Fn(usize) -> String, count: Count) -> HostFlow {
        let family = if self.v6 { "ipv6" } else { "ipv4" };
        HostFlow { from: name(self.from), to: name(self.to), family: family.to_owned(), count }
    }
}

impl Summary {
    /// Packets that went from one host to another over a family, without a third host between.
    #[must_use]
    pub fn direct(&self, from: &str, to: &str, family: &str) -> u64 {
        let flows = self.flows.iter().filter(|f| f.from == from && f.to == to && f.family == family);
        flows.map(|flow| flow.count.packets).sum()
    }

    /// Whether packets went directly between two hosts, in a sentence that names the family.
    #[must_use]
    pub fn between(&self, a: &str, b: &str) -> String {
        let count = |family: &str| (self.direct(a, b, family), self.direct(b, a, family));
        let line = |family: &str, name: &str| match count(family) {
            (0, 0) => None,
            (there, back) => Some(format!("{name} ({there} packets from {a}, {back} from {b})")),
        };
        let lines: Vec<_> = [line("ipv4", "IPv4"), line("ipv6", "IPv6")].into_iter().flatten().collect();
        match lines.is_empty() {
            true => format!("no packet of {a} reached {b} directly, nor the other way"),
            false => format!("{a} and {b} reached each other directly over {}", lines.join(" and ")),
        }
    }
}

impl fmt::Display for NatSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { router, mappings_made, sent, received, .. } = self;
        let (sent, received) = (sent.packets, received.packets);
        write!(f, "NAT {router}: {mappings_made} mappings, {sent} packets out, {received} in")?;
        for (way, dropped) in [("out", &self.dropped_out), ("in", &self.dropped_in)] {
            for (reason, count) in dropped {
                write!(f, ", {count} {way} dropped ({reason})")?;
            }
        }
        Ok(())
    }
}
