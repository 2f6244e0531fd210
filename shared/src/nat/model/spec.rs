//! The configuration of a modelled NAT: [`NatSpec`] and its parts, in the terms of RFC 4787, RFC 5382 and RFC 6888.

use std::time::Duration;

pub use crate::nat::Keying;
use crate::nat::{Filtering, Mapping, PortPolicy};

/// One NAT or firewall. Read from a name or from settings, see [`super::KEYS`]; `Default` is a port-restricted cone.
#[derive(Clone, Debug, PartialEq)]
pub struct NatSpec {
    /// Rules for UDP.
    pub udp: Rules,
    /// Rules for TCP.
    pub tcp: Rules,
    /// What a filter entry belongs to.
    pub keyed: Keying,
    /// Whether state is kept by mapping, or by flow as Linux does.
    pub tracking: Tracking,
    /// How external ports are chosen.
    pub ports: Ports,
    /// How external addresses are chosen.
    pub pool: Pool,
    /// How long state exists.
    pub timers: Timers,
    /// Which packets refresh a mapping.
    pub refresh: Refreshing,
    /// Mappings that one internal host may have at a time; `None` = as many as there are ports.
    pub quota: Option<u32>,
    /// Mappings that the NAT keeps for one internal host: a further one takes the place of the one that would expire
    /// first; `None` = as many as there are ports.
    pub keeps: Option<u32>,
    /// How packets from inside to an external address of the NAT are treated.
    pub hairpin: Hairpin,
    /// Whether addresses inside payloads are rewritten (RFC 4787 section 7).
    pub alg: Alg,
    /// Whether the time to live of packets that pass is counted down.
    pub hops: Hops,
    /// Whether an unsolicited packet from outside creates connection tracking state that occupies the external port, so
    /// that the internal endpoint is remapped towards that sender: Linux routers that accept input on their WAN side.
    pub inbound_first: bool,
    /// A change of mapping behaviour (RFC 4787 REQ-11 forbids it).
    pub change: Option<Change>,
    /// How IP fragments are treated (RFC 4787 section 11).
    pub fragments: Fragments,
    /// The response to an unsolicited TCP SYN (RFC 5382 REQ-4).
    pub unsolicited_syn: Refusal,
    /// How long that response is delayed (RFC 5382 asks for 6 s).
    pub refuse_after: Duration,
    /// Whether hosts can have ports opened.
    pub port_mapping: PortMapping,
}

/// Mapping and filtering of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Nothing passes at all.
    pub blocked: bool,
    /// RFC 4787 section 4.1.
    pub mapping: Mapping,
    /// RFC 4787 section 5.
    pub filtering: Filtering,
}

/// The unit of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// A mapping, which serves all destinations that share it by its mapping behaviour.
    Mapping,
    /// A flow between two endpoints, with its own timer. Flows of one internal endpoint share a port where possible, and
    /// flows of several internal endpoints share one as long as their destinations differ: Linux connection tracking.
    Flow,
}

/// Port allocation.
#[derive(Clone, Debug, PartialEq)]
pub struct Ports {
    /// The first choice.
    pub policy: PortPolicy,
    /// What a preserving NAT chooses when that port is in use.
    pub fallback: Fallback,
    /// Whether even ports stay even and odd ones odd (RFC 4787 REQ-4).
    pub parity: bool,
    /// From one mapping to the next of a sequential NAT.
    pub step: i32,
    /// Lowest and highest port to give out.
    pub range: (u16, u16),
    /// Ports in a block; each block belongs to one internal host.
    pub block: u16,
    /// Mappings a second that other hosts behind the same NAT create, so that a sequential NAT skips ports.
    pub cross_traffic: f64,
    /// Whether one external port may serve two internal endpoints at a time, towards different destinations.
    pub overload: bool,
    /// How long a freed port is not reused (RFC 6888 REQ-8).
    pub hold: Duration,
}

/// The second choice of a preserving NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The next free port above the wanted one.
    Next,
    /// A random free port.
    Random,
    /// None: the packet is dropped.
    Refuse,
}

/// External addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// How many there are.
    pub ips: u8,
    /// Which one a mapping gets.
    pub pooling: Pooling,
}

/// How external addresses are chosen (RFC 4787 REQ-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Always the same one for an internal host.
    Paired,
    /// Any, chosen for each mapping.
    Arbitrary,
    /// By the destination address.
    Destination,
    /// By both endpoints of the flow, whatever the mapping depends on: a router with several Internet connections.
    Flow,
}

/// Rewriting of payloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alg {
    /// None.
    Off,
    /// The bytes of an address, wherever they occur.
    Addresses,
    /// Both forms of the mapped address in STUN answers become the internal endpoint.
    Stun,
}

/// What a device does to the time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hops {
    /// It counts it down by one, as a router does.
    Counted,
    /// It leaves it alone, as a bridge does.
    Ignored,
    /// It sets it anew.
    Reset,
}

impl Hops {
    /// The time to live after a device that was reached by a packet with this one; 0 = the packet ends here.
    #[must_use]
    pub fn after(self, ttl: u8) -> u8 {
        match self {
            Self::Counted => ttl.saturating_sub(1),
            Self::Ignored => ttl,
            Self::Reset => 64,
        }
    }
}

/// Lifetimes (RFC 4787 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Idle time after which a mapping expires through which no response came.
    pub unreplied: Duration,
    /// The same once a response came.
    pub replied: Duration,
    /// The same for a stream.
    pub stream: Duration,
    /// A flow with a response becomes a stream by a packet at least this long after its first one.
    pub stream_after: Duration,
    /// What a timer belongs to.
    pub scope: Scope,
    /// Each mapping exists up to this much longer, at random.
    pub jitter: Duration,
    /// Expired state is removed only at multiples of this. Zero = at once.
    pub sweep: Duration,
    /// TCP before the connection is up and after it was closed.
    pub tcp_transitory: Duration,
    /// TCP while the connection is up.
    pub tcp_established: Duration,
}

/// What a timer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The mapping: traffic with any destination refreshes it for all.
    Mapping,
    /// The flow: each remote endpoint has its own, and the mapping exists as long as one of them.
    Flow,
}

/// Which packets refresh a mapping (RFC 4787 REQ-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refreshing {
    /// Packets from inside restart the timer.
    pub outbound: bool,
    /// Packets from outside restart the timer.
    pub inbound: bool,
}

/// How packets from inside to an external address of the NAT are treated (RFC 4787 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// They are dropped.
    Off,
    /// They are sent back with the internal source, without filtering.
    InternalSource,
    /// They are sent back with the external source, filtered as from outside (REQ-9).
    ExternalSource,
}

/// A NAT whose mapping behaviour changes with the number of mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Number of mappings with the first behaviour.
    pub after: u32,
    /// The mapping behaviour of further ones.
    pub mapping: Mapping,
}

/// How IP fragments are treated (RFC 4787 REQ-14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragments {
    /// All pass, in any order.
    Pass,
    /// Those that come after the first fragment of their packet pass.
    InOrder,
    /// All are dropped.
    Drop,
}

/// The response to a rejected TCP SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None.
    Drop,
    /// A TCP reset.
    Reset,
    /// ICMP port unreachable.
    Unreachable,
}

/// How the NAT, or firewall, opens ports at request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// By which protocols.
    pub serves: Serves,
    /// What becomes of a request.
    pub opens: Opens,
    /// The longest time for which a port is opened.
    pub lease: Duration,
    /// The time at which the gateway loses all ports that it has opened; `None` = never.
    pub restarts: Option<Duration>,
}

/// The protocols by which a NAT opens ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// None.
    Nothing,
    /// PCP, RFC 6887.
    Pcp,
    /// NAT-PMP, RFC 6886.
    NatPmp,
    /// Both.
    Both,
}

/// What becomes of a request to open a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// The port is opened.
    Ports,
    /// It is granted, and nothing is opened.
    Nothing,
    /// The port is opened, and stays so when it is closed; that is answered with success.
    Kept,
    /// It is refused.
    Refused,
}

impl Default for NatSpec {
    /// A port-restricted cone that preserves port numbers: a typical home router.
    fn default() -> Self {
        let rules = Rules {
            blocked: false,
            mapping: Mapping::EndpointIndependent,
            filtering: Filtering::AddressAndPortDependent,
        };
        let idle = Duration::from_secs(120);
        Self {
            udp: rules,
            tcp: rules,
            keyed: Keying::Mapping,
            tracking: Tracking::Mapping,
            ports: Ports {
                policy: PortPolicy::Preserving,
                fallback: Fallback::Next,
                parity: false,
                step: 1,
                range: (1024, 65535),
                block: 512,
                cross_traffic: 0.0,
                overload: false,
                hold: Duration::ZERO,
            },
            pool: Pool { ips: 1, pooling: Pooling::Paired },
            timers: Timers {
                unreplied: idle,
                replied: idle,
                stream: idle,
                stream_after: Duration::from_secs(2),
                scope: Scope::Mapping,
                jitter: Duration::ZERO,
                sweep: Duration::ZERO,
                tcp_transitory: Duration::from_secs(240),
                tcp_established: Duration::from_secs(7440),
            },
            refresh: Refreshing { outbound: true, inbound: true },
            quota: None,
            keeps: None,
            hairpin: Hairpin::Off,
            alg: Alg::Off,
            hops: Hops::Counted,
            inbound_first: false,
            change: None,
            fragments: Fragments::Pass,
            unsolicited_syn: Refusal::Drop,
            refuse_after: Duration::ZERO,
            port_mapping: PortMapping {
                serves: Serves::Nothing,
                opens: Opens::Ports,
                lease: Duration::from_secs(7200),
                restarts: None,
            },
        }
    }
}

impl NatSpec {
    /// Neither NAT nor firewall.
    #[must_use]
    pub fn open() -> Self {
        let mut spec = Self::default();
        for rules in [&mut spec.udp, &mut spec.tcp] {
            rules.mapping = Mapping::Direct;
            rules.filtering = Filtering::EndpointIndependent;
        }
        spec
    }

    /// The rules for a protocol.
    #[must_use]
    pub fn rules(&self, protocol: super::Protocol) -> Rules {
        match protocol {
            super::Protocol::Udp => self.udp,
            super::Protocol::Tcp => self.tcp,
        }
    }

    /// Why the settings contradict each other, if they do.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let kept_by_flow = |r: Rules| {
            matches!(
                r.mapping,
                Mapping::Direct | Mapping::EndpointIndependent | Mapping::AddressAndPortDependent
            ) && r.filtering == Filtering::AddressAndPortDependent
        };
        let exact = |r: Rules| {
            r.mapping == Mapping::AddressAndPortDependent && r.filtering == Filtering::AddressAndPortDependent
        };
        let flow = self.tracking == Tracking::Flow;
        let (low, high) = self.ports.range;
        [
            (low > high || low == 0, "range: the lowest port must be above 0 and not above the highest"),
            (
                self.ports.policy == PortPolicy::Block && u32::from(self.ports.block) > u32::from(high - low.min(high)) + 1,
                "block: larger than the range",
            ),
            (self.ports.block < 2, "block: at least 2 ports"),
            (self.ports.step == 0, "step: a sequential NAT moves on, so the step is not 0"),
            (self.pool.ips == 0, "ips: at least one external address"),
            (
                flow && !(kept_by_flow(self.udp) && kept_by_flow(self.tcp)),
                "tracking=flow: a flow is known by both its ends, so the mapping is direct, endpoint-independent or \
                 address-and-port-dependent and the filtering address-and-port-dependent",
            ),
            (self.inbound_first && !flow, "inbound-first: only with tracking=flow"),
            (
                self.ports.overload && !flow && !(exact(self.udp) && exact(self.tcp)),
                "overload: only where mapping and filtering are address-and-port-dependent, or with tracking=flow",
            ),
            (
                self.change.is_some_and(|c| c.mapping == Mapping::Direct),
                "then-mapping: a NAT cannot stop translating",
            ),
        ]
        .into_iter()
        .find_map(|(wrong, why)| wrong.then_some(why))
    }
}
