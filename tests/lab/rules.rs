//! The kernel's own NAT as nftables rules: from the words of RFC 4787 to a rule set.
//!
//! One template gives every mapping x filtering class. Source ports come from a hash of what the mapping depends
//! on, a map remembers who is behind each external port, a set remembers whom each inside endpoint has sent to.

use std::{fmt::Write, net::Ipv4Addr, str::FromStr};

use shared::nat::{Filtering, Mapping};

use crate::LabError;

/// What one router does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How it translates UDP over IPv4.
    pub translation: Translation,
    /// Whom it lets in over UDP and IPv4. [`Translation::Masquerade`] and its like know only the kernel's own
    /// filter, which is address-and-port-dependent.
    pub filtering: Filtering,
    /// Whom it lets in over IPv6, which is never translated.
    pub filtering6: Filtering,
    /// Whether new packets to the router itself are accepted on its WAN side. The kernel then keeps track of them,
    /// and a stranger's packet that came first changes the port of a later mapping towards that stranger.
    pub wan_input: bool,
    /// Whether UDP passes at all.
    pub udp: bool,
    /// Seconds that a mapping without an answer lives.
    pub unreplied_s: Option<u32>,
    /// Seconds that a mapping with a stream in both directions lives.
    pub stream_s: Option<u32>,
}

/// How a router translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Not at all: addresses inside are public ones.
    None,
    /// The kernel's `masquerade`: ports preserved where free.
    Masquerade,
    /// `masquerade fully-random`: a new random port for every flow.
    MasqueradeRandom,
    /// The template: ports by hash, or preserved where the mapping is endpoint-independent.
    Template(Mapping),
    /// A new port for every flow, each one higher than the last.
    Sequential,
}

/// A named stack of routers, outermost first, and what a client behind it must report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelNat {
    /// The name by which scenarios call it.
    pub name: &'static str,
    /// The routers, from the Internet inwards.
    pub routers: Vec<Rules>,
    /// The mapping that a client inside must find; `None` where UDP is blocked.
    pub mapping: Option<Mapping>,
    /// The filtering that a client inside must find; `None` where UDP is blocked.
    pub filtering: Option<Filtering>,
}

const MASQUERADE: Rules = Rules {
    translation: Translation::Masquerade,
    filtering: Filtering::AddressAndPortDependent,
    filtering6: Filtering::AddressAndPortDependent,
    wan_input: false,
    udp: true,
    unreplied_s: None,
    stream_s: None,
};

/// Every NAT that the kernel can be made to be.
#[must_use]
pub fn kernel_nats() -> Vec<KernelNat> {
    use Filtering as F;
    use Mapping as M;
    let one = |name, mapping, filtering, rules| KernelNat {
        name,
        routers: vec![rules],
        mapping: Some(mapping),
        filtering: Some(filtering),
    };
    let template = |name, mapping, filtering| {
        let rules = Rules { translation: Translation::Template(mapping), filtering, ..MASQUERADE };
        one(name, mapping, filtering, rules)
    };
    let direct = |name, filtering| {
        let rules = Rules { translation: Translation::None, filtering, filtering6: filtering, ..MASQUERADE };
        one(name, M::Direct, filtering, rules)
    };
    let random = Rules { translation: Translation::MasqueradeRandom, ..MASQUERADE };
    vec![
        direct("open", F::EndpointIndependent),
        direct("firewall", F::AddressAndPortDependent),
        direct("address-firewall", F::AddressDependent),
        one("linux", M::EndpointIndependent, F::AddressAndPortDependent, MASQUERADE),
        one(
            "linux-wan-input",
            M::EndpointIndependent,
            F::AddressAndPortDependent,
            Rules { wan_input: true, ..MASQUERADE },
        ),
        one("linux-random", M::AddressAndPortDependent, F::AddressAndPortDependent, random),
        one(
            "symmetric-sequential",
            M::AddressAndPortDependent,
            F::AddressAndPortDependent,
            Rules { translation: Translation::Sequential, ..MASQUERADE },
        ),
        template("full-cone", M::EndpointIndependent, F::EndpointIndependent),
        template("restricted-cone", M::EndpointIndependent, F::AddressDependent),
        template("port-restricted-cone", M::EndpointIndependent, F::AddressAndPortDependent),
        template("mapping=ad,filtering=ei", M::AddressDependent, F::EndpointIndependent),
        template("mapping=ad,filtering=ad", M::AddressDependent, F::AddressDependent),
        template("mapping=ad,filtering=apd", M::AddressDependent, F::AddressAndPortDependent),
        template("mapping=apd,filtering=ei", M::AddressAndPortDependent, F::EndpointIndependent),
        template("mapping=apd,filtering=ad", M::AddressAndPortDependent, F::AddressDependent),
        template("symmetric", M::AddressAndPortDependent, F::AddressAndPortDependent),
        KernelNat {
            name: "double-nat",
            routers: vec![MASQUERADE, MASQUERADE],
            mapping: Some(M::EndpointIndependent),
            filtering: Some(F::AddressAndPortDependent),
        },
        KernelNat {
            name: "carrier-symmetric",
            routers: vec![random, MASQUERADE],
            mapping: Some(M::AddressAndPortDependent),
            filtering: Some(F::AddressAndPortDependent),
        },
        KernelNat {
            name: "udp-blocked",
            routers: vec![Rules { udp: false, ..MASQUERADE }],
            mapping: None,
            filtering: None,
        },
    ]
}

impl FromStr for KernelNat {
    type Err = LabError;

    fn from_str(name: &str) -> Result<Self, LabError> {
        kernel_nats().into_iter().find(|nat| nat.name == name).ok_or_else(|| {
            let names: Vec<_> = kernel_nats().iter().map(|nat| nat.name).collect();
            LabError::Words(format!(
                "the kernel driver knows no NAT \"{name}\"; it knows {}",
                names.join(", ")
            ))
        })
    }
}

impl KernelNat {
    /// The same NAT with these timers in every router, in seconds.
    #[must_use]
    pub fn with_timers(mut self, unreplied_s: u32, stream_s: u32) -> Self {
        for router in &mut self.routers {
            (router.unreplied_s, router.stream_s) = (Some(unreplied_s), Some(stream_s));
        }
        self
    }

    /// Whether some router on the way translates.
    #[must_use]
    pub fn translates(&self) -> bool {
        self.routers.iter().any(|rules| rules.translation != Translation::None)
    }
}

impl Rules {
    /// The rule set for a router with this address on its interface `wan`.
    #[must_use]
    pub fn nft(&self, address: Ipv4Addr) -> String {
        let mut text = String::from("table ip nat-lab {\n");
        text += &self.translate(address);
        text += &self.filter();
        if !self.wan_input {
            text += " chain inp { type filter hook input priority 0; iifname \"wan\" ct state new drop; }\n";
        }
        text += "}\ntable ip6 nat-lab {\n";
        text += &self.filter6();
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
            Translation::Sequential => {
                let ports: Vec<_> = (0..2000).map(|n| format!("{n} : {}", 50_000 + n)).collect();
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
                text + &post(&format!("meta l4proto udp snat to {to}; oifname \"wan\" masquerade"))
            }
        }
    }

    fn filter(&self) -> String {
        let mut text = String::new();
        if self.filtering == Filtering::AddressDependent {
            text += " set seen { type ipv4_addr . inet_service . ipv4_addr; flags dynamic,timeout; timeout 300s; \
                       size 65536; }\n \
                     chain seen-learn { type filter hook postrouting priority srcnat - 2; oifname \"wan\" \
                       meta l4proto udp update @seen { ip saddr . udp sport . ip daddr timeout 300s }; }\n";
        }
        text += " chain forw { type filter hook forward priority 0;\n";
        if !self.udp {
            text += "  meta l4proto udp drop\n";
        }
        match self.filtering {
            Filtering::EndpointIndependent if self.translation == Translation::None => {}
            Filtering::EndpointIndependent => {
                text += "  iifname \"wan\" meta l4proto != udp ct state new drop\n";
            }
            Filtering::AddressDependent => {
                text += "  iifname \"wan\" meta l4proto udp ct state new ip daddr . udp dport . ip saddr @seen accept\n";
                text += "  iifname \"wan\" ct state new drop\n";
            }
            Filtering::AddressAndPortDependent | Filtering::PortDependent => {
                text += "  iifname \"wan\" ct state new drop\n";
            }
        }
        text + " }\n"
    }

    fn filter6(&self) -> String {
        let mut text = String::new();
        if self.filtering6 == Filtering::AddressDependent {
            text += " set seen { type ipv6_addr . inet_service . ipv6_addr; flags dynamic,timeout; timeout 300s; \
                       size 65536; }\n \
                     chain seen-learn { type filter hook postrouting priority 0; oifname \"wan\" \
                       meta l4proto udp update @seen { ip6 saddr . udp sport . ip6 daddr timeout 300s }; }\n";
        }
        text += " chain forw { type filter hook forward priority 0;\n";
        if !self.udp {
            text += "  meta l4proto udp drop\n";
        }
        match self.filtering6 {
            Filtering::EndpointIndependent => {}
            Filtering::AddressDependent => {
                text += "  iifname \"wan\" meta l4proto udp ct state new \
                           ip6 daddr . udp dport . ip6 saddr @seen accept\n";
                text += "  iifname \"wan\" ct state new drop\n";
            }
            Filtering::AddressAndPortDependent | Filtering::PortDependent => {
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
