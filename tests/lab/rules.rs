//! The kernel's own NAT as nftables rules: from a NAT spec (RFC 4787) to a rule set.
//!
//! One template gives every mapping x filtering class. Source ports come from a hash of what the mapping depends
//! on, a map holds the internal endpoint of each external port, a set the destinations of each internal endpoint.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

use shared::nat::{
    Filtering, Mapping, PortPolicy,
    model::{
        NatSpec, Stack,
        spec::{Fallback, Hairpin, Refusal, Tracking},
    },
};

use crate::LabError;

/// What one router does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    translation: Translation,
    filtering: Filtering,
    /// New packets to the router itself are accepted on its WAN side.
    wan_input: bool,
    /// What new TCP connections to the router itself get on its WAN side, where they are not accepted.
    syn: Refusal,
    /// Packets from inside to its own external address are hairpinned, with the external source.
    hairpin: bool,
    udp: bool,
    /// Timeouts in seconds before and after a flow is a stream; `None` = the kernel's defaults.
    timers: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Translation {
    /// Not at all: internal addresses are public.
    None,
    /// The kernel's `masquerade`: ports preserved where free.
    Masquerade,
    /// `masquerade fully-random`: a new random port for every flow.
    MasqueradeRandom,
    /// The template: ports by hash, or preserved where the mapping is endpoint-independent.
    Template(Mapping),
    /// A new port for every flow, each one this much higher than the last.
    Sequential(i32),
}

/// Every NAT that the kernel driver is tested with, as [`Stack`] reads it.
pub const KERNEL_NATS: &[&str] = &[
    "open",
    "firewall",
    "firewall-address",
    "linux",
    "linux-open-input",
    "linux-random",
    "linux-firewall",
    "full-cone",
    "restricted-cone",
    "port-restricted-cone",
    "mapping=ad,filtering=ei,ports=random",
    "mapping=ad,filtering=ad,ports=random",
    "mapping=ad,filtering=apd,ports=random",
    "mapping=apd,filtering=ei,ports=random",
    "mapping=apd,filtering=ad,ports=random",
    "symmetric",
    "symmetric-sequential",
    "mapping=pd,filtering=pd,ports=random",
    "full-cone,hairpin=external",
    "linux+linux",
    "linux+linux-random",
    "udp-blocked",
];

/// The rules for each router of a stack, in its order.
///
/// # Errors
/// When the kernel cannot do what a spec says; the message names the spec.
pub(crate) fn express(stack: &Stack) -> Result<Vec<Rules>, LabError> {
    let rules = stack.0.iter().map(|spec| {
        Rules::of(spec).ok_or_else(|| LabError::Words(format!("the kernel driver cannot express `{spec}`")))
    });
    let rules = rules.collect::<Result<Vec<_>, _>>()?;
    match rules.split_last() {
        Some((outermost, inner)) if !inner.is_empty() && !outermost.translates() => Err(LabError::Words(
            format!("the kernel driver wants the outermost NAT of a stack to translate, unlike `{stack}`"),
        )),
        None => Err(LabError::Words("an empty stack of NATs has no router".into())),
        Some(_) => Ok(rules),
    }
}

/// Whether the kernel driver can do what a stack says.
#[must_use]
pub fn can_express(stack: &Stack) -> bool {
    express(stack).is_ok()
}

impl Rules {
    /// Reads a spec; `None` when the kernel cannot do it. The template has several timers (conntrack's, the map's, the
    /// set's), so none can be set; its TCP is the kernel's own.
    fn of(spec: &NatSpec) -> Option<Self> {
        let plain = NatSpec::default();
        let udp = spec.udp;
        let flow = spec.tracking == Tracking::Flow;
        let known = NatSpec {
            udp,
            tcp: spec.tcp,
            tracking: spec.tracking,
            inbound_first: spec.inbound_first,
            unsolicited_syn: spec.unsolicited_syn,
            hairpin: spec.hairpin,
            ports: spec.ports.clone(),
            timers: spec.timers,
            ..plain.clone()
        };
        let same_timers = flow || spec.timers == plain.timers;
        // What the template filters does not come to the router itself.
        let refuses = spec.unsolicited_syn != Refusal::Drop;
        if *spec != known || spec.tcp.blocked || !same_timers || refuses && !flow {
            return None;
        }
        let mut ports = spec.ports.clone();
        (ports.policy, ports.fallback, ports.step) =
            (plain.ports.policy, plain.ports.fallback, plain.ports.step);
        let usual_ports = ports == plain.ports;
        let translation = match (spec.ports.policy, udp.mapping) {
            (_, Mapping::Direct) => Translation::None,
            _ if !usual_ports => return None,
            (PortPolicy::Preserving, Mapping::EndpointIndependent)
                if flow && spec.ports.fallback == Fallback::Random =>
            {
                Translation::Masquerade
            }
            (PortPolicy::Random, Mapping::AddressAndPortDependent) if flow => Translation::MasqueradeRandom,
            _ if flow => return None,
            (PortPolicy::Preserving, Mapping::EndpointIndependent) => Translation::Template(udp.mapping),
            (PortPolicy::Sequential, Mapping::AddressAndPortDependent)
                if udp.filtering == Filtering::AddressAndPortDependent =>
            {
                Translation::Sequential(spec.ports.step)
            }
            (PortPolicy::Random, mapping) if mapping != Mapping::EndpointIndependent => {
                Translation::Template(mapping)
            }
            (PortPolicy::Preserving | PortPolicy::Sequential | PortPolicy::Random | PortPolicy::Block, _) => {
                return None;
            }
        };
        // Hairpinned packets pass no filter of the template, so there must be none.
        let full_cone = translation == Translation::Template(Mapping::EndpointIndependent)
            && udp.filtering == Filtering::EndpointIndependent;
        let hairpin = match spec.hairpin {
            Hairpin::Off => false,
            Hairpin::ExternalSource if full_cone => true,
            Hairpin::ExternalSource | Hairpin::InternalSource => return None,
        };
        // Connection tracking has one timer for a flow that is not a stream, with or without a response.
        let timers = spec.timers;
        if flow && timers.unreplied != timers.replied {
            return None;
        }
        let seconds =
            |time: Duration| u32::try_from(time.as_secs()).ok().filter(|_| time.subsec_nanos() == 0);
        let timers = if flow { Some((seconds(timers.unreplied)?, seconds(timers.stream)?)) } else { None };
        Some(Self {
            translation,
            filtering: udp.filtering,
            wan_input: spec.inbound_first,
            syn: spec.unsolicited_syn,
            hairpin,
            udp: !udp.blocked,
            timers,
        })
    }

    /// Whether it translates addresses.
    pub(crate) fn translates(&self) -> bool {
        self.translation != Translation::None
    }

    /// The UDP timeouts to set in the kernel: before and after a flow is a stream, in seconds.
    pub(crate) fn timers(&self) -> Option<(u32, u32)> {
        self.timers
    }

    /// The rule set for a router with this address on its interface `wan`.
    #[must_use]
    pub(crate) fn nft(&self, address: Ipv4Addr) -> String {
        let mut text = String::from("table ip nat-lab {\n");
        text += &self.translate(address);
        text += &self.filter(false);
        if !self.wan_input {
            let syn = match self.syn {
                Refusal::Drop => "",
                Refusal::Reset => "iifname \"wan\" meta l4proto tcp ct state new reject with tcp reset; ",
                Refusal::Unreachable => "iifname \"wan\" meta l4proto tcp ct state new reject; ",
            };
            let _ = writeln!(
                text,
                " chain inp {{ type filter hook input priority 0; {syn}iifname \"wan\" ct state new drop; }}"
            );
        }
        text += "}\ntable ip6 nat-lab {\n";
        text += &self.filter(true);
        text += "}\n";
        text
    }

    fn translate(&self, wan: Ipv4Addr) -> String {
        let post = |rule: &str| {
            format!(" chain post {{ type nat hook postrouting priority srcnat; oifname \"wan\" {rule}; }}\n")
        };
        match self.translation {
            Translation::None => String::new(),
            Translation::Masquerade => post("masquerade"),
            Translation::MasqueradeRandom => post("masquerade fully-random"),
            Translation::Sequential(step) => {
                // Cycling through a range that holds some hundred steps even when they are large.
                let port = |n: i32| 20_000 + (n * step).rem_euclid(40_000);
                let ports: Vec<_> = (0..2000).map(|n| format!("{n} : {}", port(n))).collect();
                let ports = ports.join(", ");
                let udp = format!("meta l4proto udp snat to {wan} : numgen inc mod 2000 map {{ {ports} }}");
                post(&format!("{udp}; oifname \"wan\" masquerade"))
            }
            Translation::Template(mapping) => {
                let port = template_port(mapping);
                let to = port.map_or_else(|| wan.to_string(), |port| format!("{wan} : {port}"));
                let mut text = String::new();
                if self.filtering != Filtering::AddressAndPortDependent {
                    // Learned in a filter chain, which sees every packet; a nat chain sees only a flow's first.
                    let key = port.unwrap_or("udp sport");
                    let _ = write!(
                        text,
                        " map cone {{ type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; \
                           timeout 300s; size 65536; }}\n \
                         chain cone-learn {{ type filter hook postrouting priority srcnat - 1; oifname \"wan\" \
                           meta l4proto udp ct direction original \
                           update @cone {{ {key} timeout 300s : ip saddr . udp sport }}; }}\n \
                         chain pre {{ type nat hook prerouting priority dstnat; iifname \"wan\" meta l4proto udp \
                           dnat ip to udp dport map @cone; }}\n"
                    );
                }
                if self.hairpin {
                    // Only packets from inside: those from outside keep their addresses.
                    let _ = writeln!(
                        text,
                        " chain hairpin-in {{ type nat hook prerouting priority dstnat; iifname \"lan\" ip daddr {wan} \
                           meta l4proto udp dnat ip to udp dport map @cone; }}\n \
                         chain hairpin-out {{ type nat hook postrouting priority srcnat - 1; oifname \"lan\" \
                           ip saddr 192.168.0.0/16 meta l4proto udp ct status dnat snat to {wan}; }}"
                    );
                }
                text + &post(&format!("meta l4proto udp snat to {to}; oifname \"wan\" masquerade"))
            }
        }
    }

    fn filter(&self, v6: bool) -> String {
        let (ip, kind) = if v6 { ("ip6", "ipv6_addr") } else { ("ip", "ipv4_addr") };
        let translates = !v6 && self.translates();
        // What a packet from inside adds to the set, what one from outside has to match, and the type of both.
        let seen = match self.filtering {
            Filtering::EndpointIndependent | Filtering::AddressAndPortDependent => None,
            Filtering::AddressDependent => Some((
                format!("{ip} saddr . udp sport . {ip} daddr"),
                format!("{ip} daddr . udp dport . {ip} saddr"),
                format!("{kind} . inet_service . {kind}"),
            )),
            Filtering::PortDependent => Some((
                format!("{ip} saddr . udp sport . udp dport"),
                format!("{ip} daddr . udp dport . udp sport"),
                format!("{kind} . inet_service . inet_service"),
            )),
        };
        let mut text = String::new();
        if let Some((left, _, kind)) = &seen {
            let _ = write!(
                text,
                " set seen {{ type {kind}; flags dynamic,timeout; timeout 300s; size 65536; }}\n \
                 chain seen-learn {{ type filter hook postrouting priority 90; oifname \"wan\" meta l4proto udp \
                   update @seen {{ {left} timeout 300s }}; }}\n"
            );
        }
        text += " chain forw { type filter hook forward priority 0;\n";
        if !self.udp {
            text += "  meta l4proto udp drop\n";
        }
        if let Some((_, matches, _)) = &seen {
            let _ = writeln!(text, "  iifname \"wan\" meta l4proto udp ct state new {matches} @seen accept");
        }
        match self.filtering {
            Filtering::EndpointIndependent if !translates => {}
            Filtering::EndpointIndependent => {
                text += "  iifname \"wan\" meta l4proto != udp ct state new drop\n";
            }
            Filtering::AddressDependent | Filtering::AddressAndPortDependent | Filtering::PortDependent => {
                text += "  iifname \"wan\" ct state new drop\n";
            }
        }
        text + " }\n"
    }
}

/// The external port as an nftables expression; `None` = the internal one.
fn template_port(mapping: Mapping) -> Option<&'static str> {
    match mapping {
        Mapping::Direct | Mapping::EndpointIndependent => None,
        Mapping::AddressDependent => {
            Some("jhash ip saddr . udp sport . ip daddr mod 60000 seed 0x1 offset 4000")
        }
        Mapping::AddressAndPortDependent => {
            Some("jhash ip saddr . udp sport . ip daddr . udp dport mod 60000 seed 0x1 offset 4000")
        }
        Mapping::PortDependent => {
            Some("jhash ip saddr . udp sport . udp dport mod 60000 seed 0x1 offset 4000")
        }
    }
}
