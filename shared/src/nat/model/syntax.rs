//! The text form of a [`NatSpec`]: names and `key=value` settings.
//!
//! One table, [`KEYS`], serves the command line, the scenario files and the help texts.

mod presets;
mod values;

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use presets::{PRESETS, Preset};
use values::{Passage, Value};

use super::spec::{
    Alg, Change, Fallback, Fragments, Hairpin, Hops, Keying, NatSpec, Opens, Pooling, Refreshing, Refusal,
    Scope, Serves, Tracking,
};
use crate::nat::{Filtering, Mapping, PortPolicy};

/// Why a text describes no NAT.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither a name nor a setting.
    #[error("unknown NAT `{given}`; known are {}, and settings such as mapping=apd,filtering=ad", list(PRESETS.iter().map(|p| p.name)))]
    Name {
        /// What was given.
        given: String,
    },
    /// A setting that does not exist.
    #[error("unknown NAT setting `{given}`; known are {}", list(KEYS.iter().map(|k| k.name)))]
    Key {
        /// What was given.
        given: String,
    },
    /// A setting was given twice.
    #[error("NAT setting `{key}` is given twice")]
    Twice {
        /// The setting.
        key: String,
    },
    /// A setting with a value that it cannot have.
    #[error("NAT setting `{key}` cannot be `{given}`; it takes {takes}")]
    Value {
        /// The setting.
        key: &'static str,
        /// What was given.
        given: String,
        /// What it takes.
        takes: String,
    },
    /// Settings that exclude each other.
    #[error("the NAT settings contradict each other: {0}")]
    Contradiction(&'static str),
}

/// One setting: its name, what it takes, and how it is written to and read from a [`NatSpec`].
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it means, in a line.
    pub about: &'static str,
    takes: fn() -> String,
    set: fn(&mut NatSpec, &str) -> Option<()>,
    get: fn(&NatSpec) -> String,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Key {
    /// The values that it takes, for a help text.
    #[must_use]
    pub fn takes(&self) -> String {
        (self.takes)()
    }
}

macro_rules! key {
    ($name:literal, $about:literal, $t:ty, $($field:ident).+) => {
        Key {
            name: $name,
            about: $about,
            takes: <$t as Value>::takes,
            set: |spec, text| { spec.$($field).+ = <$t as Value>::read(text)?; Some(()) },
            get: |spec| Value::print(&spec.$($field).+),
        }
    };
    ($name:literal, $about:literal, $t:ty, $set:expr, $get:expr) => {
        Key {
            name: $name,
            about: $about,
            takes: <$t as Value>::takes,
            set: |spec, text| {
                let set: fn(&mut NatSpec, $t) = $set;
                set(spec, <$t as Value>::read(text)?);
                Some(())
            },
            get: |spec| { let get: fn(&NatSpec) -> String = $get; get(spec) },
        }
    };
}

/// Every setting, in the order in which they are applied: general ones before specific ones.
pub const KEYS: &[Key] = &[
    key!(
        "mapping",
        "what the external endpoint depends on",
        Mapping,
        |s, m| {
            s.udp.mapping = m;
            s.tcp.mapping = m;
        },
        |s| s.udp.mapping.print()
    ),
    key!(
        "filtering",
        "which packets from outside are accepted",
        Filtering,
        |s, f| {
            s.udp.filtering = f;
            s.tcp.filtering = f;
        },
        |s| s.udp.filtering.print()
    ),
    key!("tcp-mapping", "the same for TCP, where it differs", Mapping, tcp.mapping),
    key!("tcp-filtering", "the same for TCP, where it differs", Filtering, tcp.filtering),
    key!("udp", "whether UDP passes", Passage, |s, p| s.udp.blocked = p == Passage::Blocked, |s| {
        Passage::of(s.udp.blocked).print()
    }),
    key!("tcp", "whether TCP passes", Passage, |s, p| s.tcp.blocked = p == Passage::Blocked, |s| {
        Passage::of(s.tcp.blocked).print()
    }),
    key!("keyed", "what a filter entry belongs to", Keying, keyed),
    key!("tracking", "state by mapping, or by flow as Linux does", Tracking, tracking),
    key!("ports", "how external ports are chosen", PortPolicy, ports.policy),
    key!("fallback", "second choice of a preserving NAT", Fallback, ports.fallback),
    key!("parity", "even ports stay even", bool, ports.parity),
    key!("step", "from one sequential port to the next", i32, ports.step),
    key!("range", "ports to choose from", (u16, u16), ports.range),
    key!("block", "ports in one host's block", u16, ports.block),
    key!("cross-traffic", "mappings a second that other hosts create", f64, ports.cross_traffic),
    key!("overload", "one port for several internal endpoints", bool, ports.overload),
    key!("hold", "how long a freed port is not reused", Duration, ports.hold),
    key!("ips", "number of external addresses", u8, pool.ips),
    key!("pooling", "which external address a mapping gets", Pooling, pool.pooling),
    key!(
        "timeout",
        "all three idle timeouts at once",
        Duration,
        |s, t| {
            s.timers.unreplied = t;
            s.timers.replied = t;
            s.timers.stream = t;
        },
        |s| s.timers.unreplied.print()
    ),
    key!("unreplied", "idle timeout of a mapping without responses", Duration, timers.unreplied),
    key!("replied", "idle timeout after a response", Duration, timers.replied),
    key!("stream", "idle timeout of a stream", Duration, timers.stream),
    key!("stream-after", "age at which a flow becomes a stream", Duration, timers.stream_after),
    key!("timer-per", "what a timer belongs to", Scope, timers.scope),
    key!("jitter", "random addition to a timer", Duration, timers.jitter),
    key!("sweep", "interval at which expired state is removed", Duration, timers.sweep),
    key!(
        "tcp-transitory",
        "idle timeout of a TCP connection that opens or closes",
        Duration,
        timers.tcp_transitory
    ),
    key!("tcp-established", "idle timeout of an open TCP connection", Duration, timers.tcp_established),
    key!("refresh", "packets that refresh a mapping", Refreshing, refresh),
    key!("quota", "limit of mappings per internal host", Option<u32>, quota),
    key!("keeps", "mappings kept per internal host: a further one ends the oldest", Option<u32>, keeps),
    key!("hairpin", "packets from inside to an external address", Hairpin, hairpin),
    key!("alg", "rewrites addresses in payloads, or in both forms in STUN answers", Alg, alg),
    key!("hops", "what becomes of the time to live", Hops, hops),
    key!("inbound-first", "unsolicited packets create state", bool, inbound_first),
    key!(
        "change-after",
        "mappings until the behaviour changes",
        u32,
        |s, n| s.change = Some(Change {
            after: n,
            mapping: s.change.map_or(Mapping::AddressAndPortDependent, |c| c.mapping)
        }),
        |s| s.change.map_or_else(|| "none".into(), |c| c.after.print())
    ),
    key!(
        "then-mapping",
        "the mapping after that change",
        Mapping,
        |s, m| s.change = Some(Change { after: s.change.map_or(0, |c| c.after), mapping: m }),
        |s| s.change.map_or_else(|| "none".into(), |c| c.mapping.print())
    ),
    key!("fragments", "how IP fragments are treated", Fragments, fragments),
    key!("syn", "response to an unsolicited TCP SYN", Refusal, unsolicited_syn),
    key!("syn-delay", "delay of that response", Duration, refuse_after),
    key!("port-mapping", "protocols by which hosts have ports opened", Serves, port_mapping.serves),
    key!("opens", "what becomes of such a request", Opens, port_mapping.opens),
    key!("lease", "longest time for which a port is opened", Duration, port_mapping.lease),
    key!("restarts", "when all opened ports are lost", Option<Duration>, port_mapping.restarts),
];

impl NatSpec {
    /// Reads a spec from settings on top of a named NAT or, without a name, of the default.
    ///
    /// # Errors
    /// Unknown names and settings, values out of range, settings that contradict each other.
    pub fn from_settings<'a>(
        base: Option<&str>,
        settings: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, SpecError> {
        let mut spec = Self::default();
        if let Some(name) = base {
            let preset = PRESETS.iter().find(|p| p.name == name);
            let Some(preset) = preset else { return Err(SpecError::Name { given: name.into() }) };
            spec.apply(preset.settings.split(',').filter_map(|s| s.split_once('=')))?;
        }
        spec.apply(settings)?;
        match spec.contradiction() {
            Some(why) => Err(SpecError::Contradiction(why)),
            None => Ok(spec),
        }
    }

    /// Applies settings in the order of [`KEYS`], whatever the order in which they come.
    fn apply<'a>(&mut self, settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), SpecError> {
        let mut given: Vec<Option<&str>> = vec![None; KEYS.len()];
        for (name, value) in settings {
            let Some(at) = KEYS.iter().position(|k| k.name == name) else {
                return Err(SpecError::Key { given: name.into() });
            };
            if given[at].replace(value).is_some() {
                return Err(SpecError::Twice { key: name.into() });
            }
        }
        for (key, value) in KEYS.iter().zip(given) {
            let Some(value) = value else { continue };
            (key.set)(self, value).ok_or_else(|| SpecError::Value {
                key: key.name,
                given: value.into(),
                takes: key.takes(),
            })?;
        }
        Ok(())
    }
}

impl FromStr for NatSpec {
    type Err = SpecError;

    /// A name (`symmetric`), settings (`mapping=apd,filtering=ad`), or a name with settings (`linux,stream=60`).
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let mut words = text.split(',').map(str::trim).filter(|w| !w.is_empty()).peekable();
        let base = words.next_if(|w| !w.contains('='));
        let settings = words
            .map(|w| {
                w.split_once('=')
                    .map(|(k, v)| (k.trim(), v.trim()))
                    .ok_or_else(|| SpecError::Name { given: w.into() })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if base.is_none() && settings.is_empty() {
            return Err(SpecError::Name { given: text.into() });
        }
        Self::from_settings(base, settings)
    }
}

impl fmt::Display for NatSpec {
    /// The settings that differ from the default, mapping and filtering in any case: what `from_str` reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut base = Self::default();
        for (n, key) in KEYS.iter().enumerate() {
            let value = (key.get)(self);
            let same = value == (key.get)(&base);
            if same && n > 1 || key.name == "timeout" {
                continue;
            }
            // What a general setting implies for specific ones is left out.
            (key.set)(&mut base, &value);
            write!(f, "{}{}={value}", if n == 0 { "" } else { "," }, key.name)?;
        }
        Ok(())
    }
}

impl Serialize for NatSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NatSpec {
    /// A text as for `from_str`, or a table of settings in which `like` names the NAT to begin with.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Scalar {
            Bool(bool),
            Int(i64),
            Float(f64),
            Text(String),
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Text(String),
            Table(std::collections::BTreeMap<String, Scalar>),
        }
        let spec = match Given::deserialize(deserializer)? {
            Given::Text(text) => text.parse(),
            Given::Table(table) => {
                let table: Vec<(String, String)> = table
                    .into_iter()
                    .map(|(key, value)| {
                        let text = match value {
                            Scalar::Bool(b) => b.print(),
                            Scalar::Int(i) => i.to_string(),
                            Scalar::Float(x) => x.to_string(),
                            Scalar::Text(t) => t,
                        };
                        (key, text)
                    })
                    .collect();
                let base = table.iter().find(|(k, _)| k == "like").map(|(_, v)| v.as_str());
                let settings =
                    table.iter().filter(|(k, _)| k != "like").map(|(k, v)| (k.as_str(), v.as_str()));
                Self::from_settings(base, settings)
            }
        };
        spec.map_err(serde::de::Error::custom)
    }
}

fn list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_nat_is_read_and_survives_being_printed() {
        for preset in PRESETS {
            let spec: NatSpec = preset.name.parse().expect(preset.name);
            assert_eq!(spec.to_string().parse(), Ok(spec), "{}", preset.name);
        }
    }

    #[test]
    fn a_name_can_be_refined_and_the_order_of_settings_does_not_matter() {
        let spec: NatSpec = "linux, stream=60s".parse().expect("spec");
        assert_eq!(spec.timers.stream, Duration::from_secs(60));
        assert_eq!(spec.timers.unreplied, Duration::from_secs(30));
        let a: NatSpec = "tcp-mapping=ei,mapping=apd".parse().expect("spec");
        assert_eq!(
            (a.udp.mapping, a.tcp.mapping),
            (Mapping::AddressAndPortDependent, Mapping::EndpointIndependent)
        );
        assert_eq!(a.to_string().parse(), Ok(a));
    }

    #[test]
    fn errors_say_what_is_known() {
        let error = |text: &str| text.parse::<NatSpec>().expect_err(text).to_string();
        assert!(error("cone").contains("full-cone"), "{}", error("cone"));
        assert!(error("").contains("full-cone"));
        assert!(error("maping=ei").contains("mapping"));
        assert_eq!(error("keyed=x"), "NAT setting `keyed` cannot be `x`; it takes mapping, endpoint, host");
        assert!(error("range=9-1").contains("range"));
        assert!(error("linux,filtering=ei").contains("tracking=flow"));
        assert!(error("hold=1,hold=2").contains("twice"));
    }
}
