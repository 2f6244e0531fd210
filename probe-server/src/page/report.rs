//! The report of the page, in the form of nat-check's (JSON, version 1).

use std::{net::SocketAddr, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use shared::nat::{Filtering, Mapping, NatType, PortAllocation};

use super::{
    filter_test::Filter,
    message::HairpinState,
    observed::{Missing, Observed, Path},
    prospects,
};
use crate::{
    last_heard::{UNUSED_BEFORE, Unheard},
    topology::Endpoint,
};

/// What the report needs besides.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    /// When it began, RFC 3339.
    pub started_at: String,
    /// The name that the browser asked for.
    pub host: String,
    /// Whether the WebSocket came over IPv4: then this host has it.
    pub over_ipv4: bool,
    /// Whether a datagram from its address came to the ports of STUN meanwhile.
    pub heard_over_stun: bool,
}

/// The report on what was observed.
pub(crate) fn of(observed: &Observed, circumstances: &Circumstances) -> Value {
    let families = [true, false].map(|is_v4| {
        let of = |path: &Path| path.endpoints.iter().flatten().any(|at| at.is_ipv4() == is_v4);
        family(observed, observed.paths.iter().position(of), is_v4, circumstances)
    });
    let addresses = [true, false].map(|is_v4| addresses(observed, is_v4));
    let hole_punching = prospects::joint(&families);
    let [ipv4, ipv6] = families;
    let [ipv4_server, ipv6_server] = addresses;
    json!({
        "version": 1,
        "tool": concat!("probe-server ", env!("CARGO_PKG_VERSION"), " page"),
        "started_at": circumstances.started_at,
        "duration_s": seconds(observed.ended.saturating_sub(observed.started)),
        "simulated": false,
        "partial": false,
        "server": {
            "query": circumstances.host,
            "found_by": "address",
            "software": null,
            "ipv4": ipv4_server,
            "ipv6": ipv6_server,
            "features": {
                "change_request": elsewhere(),
                "response_port": elsewhere(),
                "classic": elsewhere(),
            },
            "faults": [],
        },
        "ipv4": ipv4,
        "ipv6": ipv6,
        "layers": null,
        "hole_punching": hole_punching,
        "warnings": [],
    })
}

/// A conclusion: the contract's shape of a finding.
#[derive(Serialize)]
struct Finding<T> {
    value: Option<T>,
    confidence: &'static str,
    reason: Option<String>,
    reason_code: Option<&'static str>,
    method: &'static str,
    evidence: Value,
}

type Reason = (&'static str, String);

impl<T: Serialize> Finding<T> {
    fn known(value: T, confidence: &'static str, method: &'static str) -> Self {
        Self { value: Some(value), confidence, reason: None, reason_code: None, method, evidence: json!({}) }
    }

    fn unknown((code, text): Reason, method: &'static str) -> Self {
        let (reason, reason_code) = (Some(text), Some(code));
        Self { value: None, confidence: "unknown", reason, reason_code, method, evidence: json!({}) }
    }

    fn doubted(mut self, doubt: Option<Reason>) -> Self {
        if let Some((code, text)) = doubt {
            (self.confidence, self.reason, self.reason_code) = ("weak", Some(text), Some(code));
        }
        self
    }

    fn with(mut self, evidence: Value) -> Self {
        self.evidence = evidence;
        self
    }

    fn json(&self) -> Value {
        // Words, numbers and maps with names as keys: this cannot fail.
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// What a browser cannot tell.
fn elsewhere() -> Value {
    const TEXT: &str = "a browser cannot measure it; nat-check does";
    Finding::<()>::unknown(("not-in-a-browser", TEXT.into()), "").json()
}

fn addresses(observed: &Observed, is_v4: bool) -> Value {
    let at = |endpoint: Endpoint| {
        let mut all = observed.paths.iter().filter_map(|path| path.endpoints[endpoint.index()]);
        all.find(|at| at.is_ipv4() == is_v4)
    };
    match at(Endpoint::Primary) {
        Some(primary) => json!({ "primary": primary, "alternate": at(Endpoint::Alternate) }),
        None => Value::Null,
    }
}

fn family(observed: &Observed, family: Option<usize>, is_v4: bool, circumstances: &Circumstances) -> Value {
    let untested = |(code, text): (&str, &str)| {
        let (reason, code) = (text, code);
        json!({
            "status": "unavailable", "reason": reason, "reason_code": code,
            "udp": null, "tcp": null, "hole_punching": null,
        })
    };
    let silent = || {
        untested((
            "server-endpoint-silent",
            "UDP passes to the server's STUN port, but not to the ports of this page: a firewall may let out other ports \
             only",
        ))
    };
    let Some(number) = family else {
        return untested(("server-has-no-address", "the server has no address in this family"));
    };
    if observed.paths[number].client.is_some() {
        let udp = udp(observed, number);
        let hole_punching = prospects::of(&udp);
        return tested(&udp, &hole_punching);
    }
    let has_family = is_v4 == circumstances.over_ipv4;
    let is_loopback = observed.paths[number].endpoints.iter().flatten().any(|at| at.ip().is_loopback());
    if is_loopback {
        return untested(("no-route", "this browser sends nothing to its own machine"));
    }
    if !observed.connections[0].bases.is_empty() && has_family && !observed.any_contact() {
        return match observed.hairpin.map(|(state, _)| state) {
            // The port of STUN was reached, so it is the page's port that is not.
            Some(HairpinState::Trying | HairpinState::Connected) => silent(),
            Some(HairpinState::NoAddress) if circumstances.heard_over_stun => silent(),
            Some(HairpinState::NoAddress) if observed.ready.is_some() => blocked(),
            Some(HairpinState::NoAddress) | None => {
                untested(("ended-early", "the measurement ended before it was clear whether UDP passes"))
            }
        };
    }
    if observed.connections[0].gathered && observed.connections[0].bases.is_empty() {
        return untested((
            "browser-forbids-udp",
            "the browser offers no UDP at all: a setting, a policy or an extension forbids it",
        ));
    }
    untested(("no-route", "no connectivity check of this browser came over this family"))
}

fn tested(udp: &Value, hole_punching: &Value) -> Value {
    json!({
        "status": "tested", "reason": null, "reason_code": null,
        "udp": udp, "tcp": null, "hole_punching": hole_punching,
    })
}

/// The page was loaded over TCP, and no datagram came.
fn blocked() -> Value {
    let text = "the browser offers UDP and the page came over TCP, but neither a connectivity check nor a STUN request \
                came through: UDP is blocked on the way";
    let nat_type =
        Finding::known(NatType::UdpBlocked, "strong", "RFC 3489 10.1, test I, beside TCP").doubt_free(text);
    let nothing = |_: &str| Finding::<()>::unknown(("udp-blocked", "UDP is blocked".into()), "").json();
    let udp = json!({
        "local": null, "external": [], "rtt_s": null, "loss": null, "nat_type": nat_type.json(),
        "mapping": nothing("mapping"), "filtering": nothing("filtering"),
        "port_allocation": nothing("port_allocation"), "hairpinning": nothing("hairpinning"),
        "alg": elsewhere(), "inbound_first_remap": nothing("inbound_first_remap"),
        "distance": elsewhere(), "lifetime": elsewhere(),
    });
    let hole_punching = prospects::of(&udp);
    tested(&udp, &hole_punching)
}

impl Finding<NatType> {
    /// The same with what is to be known about it.
    fn doubt_free(mut self, text: &str) -> Self {
        (self.reason, self.reason_code) = (Some(text.into()), Some("udp-blocked"));
        self
    }
}

fn udp(observed: &Observed, number: usize) -> Value {
    let path = &observed.paths[number];
    let (sent, answered) = path.filter.control_counts(observed.ended);
    let mapping = mapping(observed, number);
    let filtering = filtering(path);
    let is_direct = mapping.value == Some(Mapping::Direct);
    let external = observed.external(number);
    json!({
        "local": if is_direct { external.first() } else { None },
        "external": external,
        "rtt_s": path.filter.round_trip().map(seconds),
        "loss": (sent > 0).then(|| (1.0 - f64::from(answered) / f64::from(sent) * 1.0).max(0.0)).map(round4),
        "nat_type": nat_type(&mapping, &filtering).json(),
        "mapping": mapping.json(),
        "filtering": filtering.json(),
        "port_allocation": ports(observed, number).json(),
        "hairpinning": hairpinning(observed, number).json(),
        "alg": elsewhere(),
        "inbound_first_remap": inbound_first(observed, number).json(),
        "distance": elsewhere(),
        "lifetime": elsewhere(),
    })
}

fn mapping(observed: &Observed, number: usize) -> Finding<Mapping> {
    const METHOD: &str = "RFC 5780 4.3, as an ICE peer with four endpoints";
    let seen = observed.connections[super::session::ROLES.1].seen[number];
    let names = ["A1:P1", "A1:P2", "A2:P1", "A2:P2"];
    let seen: serde_json::Map<String, Value> = names
        .iter()
        .zip(seen)
        .filter_map(|(name, seen)| Some(((*name).to_owned(), json!(seen?.from))))
        .collect();
    let finding = match observed.mapping(number) {
        Ok(mapping) => Finding::known(mapping, "certain", METHOD),
        Err(missing) => Finding::unknown(reason(missing), METHOD),
    };
    finding.with(json!({ "seen_at": seen, "translated": observed.is_translated(number) }))
}

fn filtering(path: &Path) -> Finding<Filtering> {
    const METHOD: &str = "RFC 5780 4.4, connectivity checks from endpoints that were not contacted, silence judged beside controls";
    let count = |from| {
        let (sent, answered) = path.filter.sent_and_answered(from);
        json!({ "sent": sent, "answered": answered })
    };
    let evidence = json!({
        "controls": count(Endpoint::Primary),
        "from_other_port": count(Endpoint::PrimaryAlternatePort),
        "from_other_address": count(Endpoint::AlternatePrimaryPort),
        "from_both_other": count(Endpoint::Alternate),
    });
    let finding = if path.endpoints.iter().any(Option::is_none) {
        Finding::unknown(reason(Missing::NoAlternate), METHOD)
    } else {
        match path.found {
            Some(Filter::Known(filtering)) => {
                let is_open = filtering == Filtering::EndpointIndependent;
                let sure = if is_open { "certain" } else { "strong" };
                Finding::known(filtering, sure, METHOD).doubted(stale(path, filtering))
            }
            Some(Filter::NoClass) => Finding::unknown(reason(Missing::NoClass), METHOD),
            Some(Filter::TooMuchLoss) => Finding::unknown(reason(Missing::Loss), METHOD),
            None => Finding::unknown(
                (
                    "no-answer",
                    "the browser did not answer a connectivity check from the address that it contacted"
                        .into(),
                ),
                METHOD,
            ),
        }
    };
    finding.with(evidence)
}

/// What was let in proves nothing where a filter may remember, for the whole host, that it was contacted before.
fn stale(path: &Path, filtering: Filtering) -> Option<Reason> {
    let Unheard(seconds) = path.client?.1;
    let is_fresh = seconds >= UNUSED_BEFORE || filtering == Filtering::AddressAndPortDependent;
    (!is_fresh).then(|| {
        let text = "something was sent from here to the server's other address in the last ten minutes, or the server has \
                    not run for that long, and some filters remember that for the whole host: try again in ten minutes";
        ("alternate-not-fresh", text.into())
    })
}

fn nat_type(mapping: &Finding<Mapping>, filtering: &Finding<Filtering>) -> Finding<NatType> {
    const DERIVED: &str = "RFC 3489 5, derived from mapping and filtering";
    let moving = mapping.value.filter(|it| !matches!(it, Mapping::Direct | Mapping::EndpointIndependent));
    match (mapping.value, filtering.value) {
        (Some(m), Some(f)) => {
            let sure = if moving.is_some() { mapping.confidence } else { filtering.confidence };
            let finding = Finding::known(NatType::derive(m, f), sure, DERIVED);
            let doubt = filtering.reason_code.zip(filtering.reason.clone());
            if moving.is_none() && sure == "weak" { finding.doubted(doubt) } else { finding }
        }
        // With a mapping that moves, every filter has the same name.
        (Some(_), None) if moving.is_some() => {
            Finding::known(NatType::Symmetric, mapping.confidence, DERIVED)
        }
        (None, _) => Finding::unknown(("mapping-unknown", "the mapping is not known".into()), DERIVED),
        (_, None) => Finding::unknown(("filtering-unknown", "the filtering is not known".into()), DERIVED),
    }
}

fn ports(observed: &Observed, number: usize) -> Finding<PortAllocation> {
    const METHOD: &str = "RFC 4787 4.2, local and external ports of several connections";
    let pairs: Vec<Value> = observed
        .samples(number)
        .into_iter()
        .map(|(local, external): (u16, SocketAddr)| json!([local, external.port()]))
        .collect();
    let finding = match observed.ports(number) {
        Ok(ports) => Finding::known(ports, "strong", METHOD),
        Err(missing) => Finding::unknown(reason(missing), METHOD),
    };
    finding.with(json!({ "local_and_external": pairs }))
}

fn hairpinning(observed: &Observed, number: usize) -> Finding<bool> {
    const METHOD: &str =
        "RFC 4787 6, two connections of one page that know each other's external addresses only";
    let is_v4 = observed.paths[number].endpoints.iter().flatten().any(SocketAddr::is_ipv4);
    let fixed = observed.mapping(number) == Ok(Mapping::EndpointIndependent);
    let state = observed.hairpin.map(|(state, _)| state);
    let is_over = observed.hairpin_deadline().is_some_and(|deadline| observed.ended >= deadline);
    match state {
        _ if !is_v4 => Finding::unknown(("not-in-a-browser", "it is tested over IPv4 only".into()), METHOD),
        Some(HairpinState::Connected) if observed.is_translated(number) == Some(true) => {
            Finding::known(true, "certain", METHOD)
        }
        _ if observed.is_translated(number) == Some(false) => {
            Finding::unknown(reason(Missing::NoTranslation), METHOD)
        }
        Some(HairpinState::Trying) if fixed && is_over => Finding::known(false, "strong", METHOD),
        Some(HairpinState::Trying) if observed.mapping(number).is_ok() => {
            Finding::unknown(reason(Missing::MovingMapping), METHOD)
        }
        Some(_) | None => {
            Finding::unknown(("no-answer", "the browser found no external address in time".into()), METHOD)
        }
    }
}

fn inbound_first(observed: &Observed, number: usize) -> Finding<bool> {
    const METHOD: &str = "the addresses of a socket that got packets first, beside those of one that did not";
    match observed.inbound_first_remap(number) {
        Ok(remaps) => Finding::known(remaps, "certain", METHOD),
        Err(missing) => Finding::unknown(reason(missing), METHOD),
    }
}

fn reason(missing: Missing) -> Reason {
    let (code, text) = match missing {
        Missing::NoAlternate => ("server-has-no-alternate", "the server has no alternate address"),
        Missing::Loss => ("too-much-loss", "too many packets were lost"),
        Missing::Translation => {
            ("no-answer", "the browser did not say whether its own address is the one that is seen")
        }
        Missing::NoClass => ("no-class", "RFC 4787 has no class for this behaviour"),
        Missing::NoTranslation => ("no-translation", "nothing translates addresses here"),
        Missing::MovingMapping => {
            ("mapping-depends-on-destination", "the mapping depends on the destination")
        }
        Missing::TooFew => ("too-few-samples", "too few connections for a conclusion"),
        Missing::PartlyKept => ("ports-partly-kept", "some ports were kept, others were not"),
    };
    (code, text.into())
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

fn round4(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}
