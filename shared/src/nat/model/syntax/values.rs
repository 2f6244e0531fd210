//! The values of settings as text: keywords, numbers, ranges, times.

use std::time::Duration;

use super::list;
use crate::nat::{
    Filtering, Mapping, PortPolicy,
    model::spec::{
        Alg, Fallback, Fragments, Hairpin, Hops, Keying, Opens, Pooling, Refreshing, Refusal, Scope, Serves,
        Tracking,
    },
};

/// A value of a setting, as text.
pub(super) trait Value: Sized {
    fn read(text: &str) -> Option<Self>;
    fn print(&self) -> String;
    fn takes() -> String;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Passes,
    Blocked,
}

impl Passage {
    pub(super) const fn of(blocked: bool) -> Self {
        if blocked { Self::Blocked } else { Self::Passes }
    }
}

macro_rules! keywords {
    ($($t:ty { $($variant:expr => $word:literal $(| $alias:literal)*;)* })*) => {$(
        impl Value for $t {
            fn read(text: &str) -> Option<Self> {
                match text {
                    $($word $(| $alias)* => Some($variant),)*
                    _ => None,
                }
            }

            fn print(&self) -> String {
                [$(($variant, $word)),*].iter().find(|(v, _)| v == self).map_or("", |(_, w)| w).to_owned()
            }

            fn takes() -> String {
                list([$($word),*])
            }
        }
    )*};
}

keywords! {
    Mapping {
        Mapping::Direct => "direct" | "none";
        Mapping::EndpointIndependent => "endpoint-independent" | "ei" | "eim";
        Mapping::AddressDependent => "address-dependent" | "ad" | "adm";
        Mapping::AddressAndPortDependent => "address-and-port-dependent" | "apd" | "apdm";
        Mapping::PortDependent => "port-dependent" | "pd" | "pdm";
    }
    Filtering {
        Filtering::EndpointIndependent => "endpoint-independent" | "ei" | "eif" | "none";
        Filtering::AddressDependent => "address-dependent" | "ad" | "adf";
        Filtering::AddressAndPortDependent => "address-and-port-dependent" | "apd" | "apdf";
        Filtering::PortDependent => "port-dependent" | "pd" | "pdf";
    }
    PortPolicy {
        PortPolicy::Preserving => "preserving";
        PortPolicy::Sequential => "sequential";
        PortPolicy::Random => "random";
        PortPolicy::Block => "block";
    }
    Passage { Passage::Passes => "pass"; Passage::Blocked => "blocked"; }
    Keying { Keying::Mapping => "mapping"; Keying::Endpoint => "endpoint"; Keying::Host => "host"; }
    Tracking { Tracking::Mapping => "mapping"; Tracking::Flow => "flow"; }
    Scope { Scope::Mapping => "mapping"; Scope::Flow => "flow"; }
    Fallback { Fallback::Next => "next"; Fallback::Random => "random"; Fallback::Refuse => "refuse"; }
    Pooling {
        Pooling::Paired => "paired";
        Pooling::Arbitrary => "arbitrary";
        Pooling::Destination => "destination";
        Pooling::Flow => "flow";
    }
    Refreshing {
        Refreshing { outbound: true, inbound: true } => "both";
        Refreshing { outbound: true, inbound: false } => "outbound";
        Refreshing { outbound: false, inbound: true } => "inbound";
        Refreshing { outbound: false, inbound: false } => "none";
    }
    Hairpin {
        Hairpin::Off => "off";
        Hairpin::InternalSource => "internal";
        Hairpin::ExternalSource => "external";
    }
    Alg { Alg::Off => "no" | "false" | "off"; Alg::Addresses => "yes" | "true" | "on"; Alg::Stun => "stun"; }
    Hops { Hops::Counted => "counted"; Hops::Ignored => "ignored"; Hops::Reset => "reset"; }
    Fragments { Fragments::Pass => "pass"; Fragments::InOrder => "in-order"; Fragments::Drop => "drop"; }
    Refusal { Refusal::Drop => "drop"; Refusal::Reset => "reset"; Refusal::Unreachable => "icmp"; }
    Serves {
        Serves::Nothing => "none";
        Serves::Pcp => "pcp";
        Serves::NatPmp => "nat-pmp";
        Serves::Both => "both";
    }
    Opens {
        Opens::Ports => "ports";
        Opens::Nothing => "nothing";
        Opens::Kept => "kept";
        Opens::Refused => "refused";
    }
    bool { true => "yes" | "true" | "on"; false => "no" | "false" | "off"; }
}

macro_rules! numbers {
    ($($t:ty: $takes:literal;)*) => {$(
        impl Value for $t {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }

            fn print(&self) -> String {
                self.to_string()
            }

            fn takes() -> String {
                $takes.into()
            }
        }
    )*};
}

numbers! {
    u8: "a number from 0 to 255";
    u16: "a number from 0 to 65535";
    u32: "a number";
    i32: "a number, negative ones too";
}

impl Value for f64 {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok().filter(|x: &f64| x.is_finite() && *x >= 0.0)
    }

    fn print(&self) -> String {
        self.to_string()
    }

    fn takes() -> String {
        "a number of at least 0".into()
    }
}

impl Value for Option<u32> {
    fn read(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { text.parse().ok().map(Some) }
    }

    fn print(&self) -> String {
        self.map_or_else(|| "none".into(), |n| n.to_string())
    }

    fn takes() -> String {
        "a number, or none".into()
    }
}

impl Value for Option<Duration> {
    fn read(text: &str) -> Option<Self> {
        if text == "none" { Some(None) } else { Duration::read(text).map(Some) }
    }

    fn print(&self) -> String {
        self.map_or_else(|| "none".into(), |time| time.print())
    }

    fn takes() -> String {
        format!("{}, or none", Duration::takes())
    }
}

impl Value for (u16, u16) {
    fn read(text: &str) -> Option<Self> {
        let (low, high) = text.split_once('-')?;
        Some((low.parse().ok()?, high.parse().ok()?))
    }

    fn print(&self) -> String {
        format!("{}-{}", self.0, self.1)
    }

    fn takes() -> String {
        "two ports, such as 50000-50999".into()
    }
}

impl Value for Duration {
    /// Seconds without a unit, otherwise `ms`, `s`, `m` or `h`.
    fn read(text: &str) -> Option<Self> {
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let factor = match unit {
            "ms" => 0.001,
            "" | "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number.trim().parse::<f64>().ok()? * factor).ok()
    }

    fn print(&self) -> String {
        self.as_secs_f64().to_string()
    }

    fn takes() -> String {
        "a time, such as 30, 30s, 500ms or 2m".into()
    }
}
