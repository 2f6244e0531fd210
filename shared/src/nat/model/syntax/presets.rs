//! The named NATs.

/// A NAT with a name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// Its settings.
    pub settings: &'static str,
}

/// All named NATs.
pub const PRESETS: &[Preset] = &[
    preset("open", "no NAT, no firewall", "mapping=direct,filtering=ei"),
    preset("firewall", "no NAT, a stateful firewall", "mapping=direct,filtering=apd"),
    preset(
        "firewall-address",
        "no NAT, a stateful firewall that compares addresses only",
        "mapping=direct,filtering=ad",
    ),
    preset("full-cone", "endpoint-independent mapping and filtering", "mapping=ei,filtering=ei"),
    preset(
        "restricted-cone",
        "endpoint-independent mapping, address-dependent filtering",
        "mapping=ei,filtering=ad",
    ),
    preset(
        "port-restricted-cone",
        "endpoint-independent mapping, address-and-port-dependent filtering",
        "mapping=ei,filtering=apd",
    ),
    preset("address-dependent", "a mapping for each remote address", "mapping=ad,filtering=ad,ports=random"),
    preset(
        "symmetric",
        "a mapping for each remote endpoint, random ports",
        "mapping=apd,filtering=apd,ports=random",
    ),
    preset(
        "symmetric-sequential",
        "a mapping for each remote endpoint, sequential ports",
        "mapping=apd,filtering=apd,ports=sequential",
    ),
    preset("port-dependent", "a mapping for each remote port", "mapping=pd,filtering=apd,ports=random"),
    preset("udp-blocked", "no UDP; TCP passes through a port-restricted cone", "udp=blocked"),
    preset("linux", "Linux masquerade, input from the WAN dropped", LINUX),
    preset(
        "linux-open-input",
        "Linux masquerade, input from the WAN accepted",
        "tracking=flow,mapping=ei,filtering=apd,fallback=random,unreplied=30,replied=30,stream=120,inbound-first=yes",
    ),
    preset(
        "linux-random",
        "Linux masquerade with fully random ports",
        "tracking=flow,mapping=apd,filtering=apd,ports=random,unreplied=30,replied=30,stream=120",
    ),
    preset(
        "linux-firewall",
        "Linux router without NAT, new flows from outside dropped",
        "tracking=flow,mapping=direct,filtering=apd,unreplied=30,replied=30,stream=120",
    ),
    preset(
        "carrier",
        "a carrier-grade NAT as RFC 6888 requires: port blocks, paired addresses",
        "mapping=ei,filtering=ei,ports=block,block=512,ips=4,pooling=paired,hairpin=external,hold=120,timeout=300",
    ),
];

const LINUX: &str =
    "tracking=flow,mapping=ei,filtering=apd,fallback=random,unreplied=30,replied=30,stream=120";

const fn preset(name: &'static str, about: &'static str, settings: &'static str) -> Preset {
    Preset { name, about, settings }
}
