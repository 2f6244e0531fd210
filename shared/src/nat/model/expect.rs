//! The expected report: what a client behind a NAT, or behind several, has to find.

use std::time::Duration;

use super::{
    spec::{Alg, Hairpin, Hops, NatSpec, Pooling, Refreshing, Refusal, Scope, Tracking},
    stack::Stack,
};
use crate::nat::{Filtering, Mapping, NatType, PortPolicy};

/// What a client can find behind a NAT. `None` = it cannot be determined from there.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviour {
    /// The classic name.
    pub nat_type: NatType,
    /// UDP, where it passes.
    pub udp: Option<UdpBehaviour>,
    /// TCP, where it passes.
    pub tcp: Option<TcpBehaviour>,
}

/// What a client can find about TCP.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpBehaviour {
    /// RFC 5382 REQ-1.
    pub mapping: Mapping,
    /// RFC 5382 REQ-3.
    pub filtering: Filtering,
    /// What an unsolicited SYN gets, and after how long (RFC 5382 REQ-4). Several filters in a row answer each for itself, so
    /// then it depends on which of them is hit.
    pub unsolicited_syn: Option<(Refusal, Duration)>,
    /// Whether TCP leaves from the same external address as UDP.
    pub same_address: Option<bool>,
}

/// What a client can find about UDP.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpBehaviour {
    /// RFC 4787 section 4.1.
    pub mapping: Mapping,
    /// RFC 4787 section 5.
    pub filtering: Filtering,
    /// The allocation policy; `None` without translation.
    pub ports: Option<PortPolicy>,
    /// The step, when that is sequential.
    pub delta: Option<i32>,
    /// Whether parity is preserved, where the policy does not decide it.
    pub parity: Option<bool>,
    /// External addresses that one host uses, where that depends on neither destinations nor chance.
    pub external_ips: Option<u32>,
    /// Whether a packet to the host's own external endpoint returns.
    pub hairpinning: Option<bool>,
    /// Whether payloads are rewritten.
    pub alg: bool,
    /// Whether an unsolicited packet changes the mapping towards its sender.
    pub inbound_first_remap: bool,
    /// Hops to the outermost NAT that filters, where that can be measured.
    pub distance: Option<u8>,
    /// Idle time after which a mapping without responses expires.
    pub unreplied: Duration,
    /// Idle time after which a stream expires.
    pub stream: Duration,
    /// How much longer either may exist because of jitter and sweeps.
    pub slack: Duration,
    /// Which packets refresh a mapping.
    pub refresh: Refreshing,
    /// Whether traffic with one destination refreshes the mapping for others.
    pub timer_shared: bool,
}

impl NatSpec {
    /// What a client behind it has to report.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        let tcp = (!self.tcp.blocked).then(|| self.tcp_behaviour());
        if self.udp.blocked {
            return Behaviour { nat_type: NatType::UdpBlocked, udp: None, tcp };
        }
        let translated = self.udp.mapping != Mapping::Direct;
        // Over several Internet connections, each flow may show another external address.
        let spread = translated && self.pool.ips > 1 && self.pool.pooling == Pooling::Flow;
        let mapping = if spread { Mapping::AddressAndPortDependent } else { self.udp.mapping };
        let policy = translated.then_some(self.ports.policy);
        let hairpinning = match (self.hairpin, mapping) {
            (_, Mapping::Direct) => None,
            (Hairpin::Off, _) => Some(false),
            (_, Mapping::EndpointIndependent) => Some(true),
            // The two directions use mappings and filters of their own.
            (_, Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::PortDependent) => {
                None
            }
        };
        let udp = UdpBehaviour {
            mapping,
            filtering: self.udp.filtering,
            ports: policy,
            delta: (policy == Some(PortPolicy::Sequential)).then_some(self.ports.step),
            parity: match policy {
                Some(PortPolicy::Random | PortPolicy::Block) => Some(self.ports.parity),
                Some(PortPolicy::Preserving | PortPolicy::Sequential) | None => None,
            },
            external_ips: (translated && (self.pool.ips == 1 || self.pool.pooling == Pooling::Paired))
                .then_some(1),
            hairpinning,
            alg: self.alg != Alg::Off && translated,
            inbound_first_remap: self.inbound_first,
            distance: (filter_shows(mapping, self.udp.filtering) && self.hops == Hops::Counted).then_some(1),
            unreplied: self.timers.unreplied,
            stream: self.timers.stream,
            slack: self.timers.jitter + self.timers.sweep,
            refresh: self.refresh,
            timer_shared: self.tracking == Tracking::Mapping && self.timers.scope == Scope::Mapping,
        };
        Behaviour { nat_type: NatType::derive(udp.mapping, udp.filtering), udp: Some(udp), tcp }
    }

    fn tcp_behaviour(&self) -> TcpBehaviour {
        let translated = self.tcp.mapping != Mapping::Direct;
        let spread = translated && self.pool.ips > 1 && self.pool.pooling == Pooling::Flow;
        let one_address = self.pool.ips == 1 || self.pool.pooling == Pooling::Paired;
        let both = !self.udp.blocked && translated == (self.udp.mapping != Mapping::Direct);
        TcpBehaviour {
            mapping: if spread { Mapping::AddressAndPortDependent } else { self.tcp.mapping },
            filtering: self.tcp.filtering,
            unsolicited_syn: (self.tcp.filtering != Filtering::EndpointIndependent)
                .then_some((self.unsolicited_syn, self.refuse_after)),
            same_address: (both && (!translated || one_address)).then_some(true),
        }
    }
}

impl Stack {
    /// What a client behind all of them has to report: the strictest behaviour of each kind.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        let open = Behaviour { nat_type: NatType::OpenInternet, udp: None, tcp: None };
        let mut all = self.0.iter().map(NatSpec::behaviour).reduce(Behaviour::behind).unwrap_or(open);
        if let Some(udp) = &mut all.udp {
            let outermost =
                self.0.iter().rposition(|nat| nat.udp.filtering != Filtering::EndpointIndependent);
            let counted = self.0.iter().all(|nat| nat.hops == Hops::Counted);
            let shows = counted && filter_shows(udp.mapping, udp.filtering);
            udp.distance = outermost.filter(|_| shows).and_then(|at| u8::try_from(at + 1).ok());
        }
        all
    }
}

impl Behaviour {
    /// `self` behind `outer`.
    fn behind(self, outer: Self) -> Self {
        let tcp = self.tcp.zip(outer.tcp).map(|(inner, outer)| inner.behind(outer));
        let (Some(inner), Some(outer)) = (self.udp, outer.udp) else {
            return Self { nat_type: NatType::UdpBlocked, udp: None, tcp };
        };
        let keeps = matches!(outer.ports, None | Some(PortPolicy::Preserving));
        let chosen = if keeps { &inner } else { &outer };
        let udp = UdpBehaviour {
            mapping: mapping_behind(inner.mapping, outer.mapping),
            filtering: filtering_behind(inner.filtering, outer.filtering),
            ports: chosen.ports.or(outer.ports),
            delta: chosen.delta,
            parity: chosen.parity,
            // The outer NAT sees as many hosts as the inner one has external addresses.
            external_ips: match (inner.ports, outer.ports) {
                (_, None) => inner.external_ips,
                (None, Some(_)) => outer.external_ips,
                (Some(_), Some(_)) => inner.external_ips.and(outer.external_ips),
            },
            hairpinning: None,
            alg: inner.alg || outer.alg,
            inbound_first_remap: inner.inbound_first_remap || outer.inbound_first_remap,
            // `Stack::behaviour` fills this in, as it knows the order.
            distance: None,
            unreplied: inner.unreplied.min(outer.unreplied),
            stream: inner.stream.min(outer.stream),
            slack: inner.slack.max(outer.slack),
            refresh: Refreshing {
                outbound: inner.refresh.outbound && outer.refresh.outbound,
                inbound: inner.refresh.inbound && outer.refresh.inbound,
            },
            timer_shared: inner.timer_shared && outer.timer_shared,
        };
        Self { nat_type: NatType::derive(udp.mapping, udp.filtering), udp: Some(udp), tcp }
    }
}

impl TcpBehaviour {
    /// `self` behind `outer`.
    fn behind(self, outer: Self) -> Self {
        // What the outer filter stops, the inner one does not see.
        let unsolicited_syn = match (self.filtering, outer.filtering) {
            (_, Filtering::EndpointIndependent) => self.unsolicited_syn,
            (inner, strict) if inner == strict || inner == Filtering::EndpointIndependent => {
                outer.unsolicited_syn
            }
            _ if self.unsolicited_syn == outer.unsolicited_syn => self.unsolicited_syn,
            _ => None,
        };
        Self {
            mapping: mapping_behind(self.mapping, outer.mapping),
            filtering: filtering_behind(self.filtering, outer.filtering),
            unsolicited_syn,
            same_address: self.same_address.and(outer.same_address),
        }
    }
}

/// Whether a packet to one destination lets its response to a request sent to another destination pass.
fn filter_shows(mapping: Mapping, filtering: Filtering) -> bool {
    let stays = matches!(mapping, Mapping::Direct | Mapping::EndpointIndependent);
    stays && filtering != Filtering::EndpointIndependent
}

fn mapping_behind(inner: Mapping, outer: Mapping) -> Mapping {
    use Mapping as M;
    match (inner, outer) {
        (a, b) if a == b => a,
        (M::Direct, other) | (other, M::Direct) => other,
        (M::EndpointIndependent, other) | (other, M::EndpointIndependent) => other,
        // Each depends on another part of the destination, together on all of it.
        (M::AddressDependent | M::AddressAndPortDependent | M::PortDependent, _) => {
            M::AddressAndPortDependent
        }
    }
}

fn filtering_behind(inner: Filtering, outer: Filtering) -> Filtering {
    use Filtering as F;
    match (inner, outer) {
        (a, b) if a == b => a,
        (F::EndpointIndependent, other) | (other, F::EndpointIndependent) => other,
        (F::AddressDependent | F::AddressAndPortDependent | F::PortDependent, _) => {
            F::AddressAndPortDependent
        }
    }
}
