//! The report as rows for people: what tables, lines and pages are made of.

use serde::Serialize;
use shared::nat::NatType;

use super::{Confidence, Evidence, Finding, UdpReport};
use crate::probe::{Found, REGISTRY};

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The path in the JSON report, such as `ipv4.udp.mapping`.
    pub key: String,
    /// What it is about.
    pub label: &'static str,
    /// What was found, in a sentence, with the reason where that matters.
    pub text: String,
    /// The key in the line format, if it stands there.
    pub line_key: Option<&'static str>,
    /// The value in one word.
    pub word: Option<String>,
    /// What it rests on; none where it is no finding of its own.
    pub basis: Option<Basis>,
}

/// What a finding rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// How sure it is.
    pub confidence: Confidence,
    /// Why it is not known, or what to know about it.
    pub reason: Option<String>,
    /// The procedure.
    pub method: String,
    /// Facts.
    pub evidence: Evidence,
}

impl Row {
    /// The row of a finding.
    pub fn of<T>(key: &str, label: &'static str, finding: &Finding<T>, text: impl Fn(&T) -> String) -> Self {
        // What is not sure needs its reason.
        let reason = finding.reason.as_ref();
        let text = match (&finding.value, reason.filter(|_| finding.confidence <= Confidence::Weak)) {
            (Some(value), Some(reason)) => format!("{} ({reason})", text(value)),
            (Some(value), None) => text(value),
            (None, Some(reason)) => format!("not known: {reason}"),
            (None, None) => "not known".into(),
        };
        let basis = Basis {
            confidence: finding.confidence,
            reason: finding.reason.clone(),
            method: finding.method.clone(),
            evidence: finding.evidence.clone(),
        };
        Self { key: key.into(), label, text, line_key: None, word: None, basis: Some(basis) }
    }

    /// A row that is no finding of its own.
    #[must_use]
    pub fn plain(key: &str, label: &'static str, text: String) -> Self {
        Self { key: key.into(), label, text, line_key: None, word: None, basis: None }
    }
}

/// The rows about UDP; `prefix` is its path in the report, such as `ipv4.udp`.
#[must_use]
pub fn udp(prefix: &str, udp: &UdpReport) -> Vec<Row> {
    let found = Found { udp: udp.clone(), ..Found::default() };
    let mut rows = vec![nat_type(udp)];
    rows.extend(udp.local.map(|local| Row::plain("local", "Local address", local.to_string())));
    if !udp.external.is_empty() {
        let seen: Vec<String> = udp.external.iter().map(ToString::to_string).collect();
        rows.push(Row::plain("external", "External address", seen.join(", ")));
    }
    rows.extend(REGISTRY.iter().flat_map(|probe| probe.udp).flat_map(|slot| slot.rows(&found)));
    rows.extend(path(udp));
    for row in &mut rows {
        row.key = format!("{prefix}.{}", row.key);
    }
    rows
}

fn nat_type(udp: &UdpReport) -> Row {
    let finding = &udp.nat_type;
    let mut row = Row::of("nat_type", "NAT type", finding, |t| nat_type_text(*t).into());
    row.line_key = Some("nat_type");
    row.word = finding.value.as_ref().map(json_word);
    if finding.value == Some(NatType::UdpBlocked)
        && let Some(reason) = finding.reason.as_ref().filter(|_| finding.confidence > Confidence::Weak)
    {
        // It may also be the server that does not serve UDP.
        row.text = format!("{} ({reason})", row.text);
    }
    row
}

fn nat_type_text(nat_type: NatType) -> &'static str {
    match nat_type {
        NatType::UdpBlocked => "UDP blocked",
        NatType::OpenInternet => "no NAT, no firewall (open internet)",
        NatType::SymmetricUdpFirewall => "firewall without NAT (symmetric UDP firewall)",
        NatType::FullCone => "full-cone NAT",
        NatType::RestrictedCone => "restricted-cone NAT",
        NatType::PortRestrictedCone => "port-restricted cone NAT (typical home router)",
        NatType::Symmetric => "symmetric NAT",
    }
}

fn path(udp: &UdpReport) -> Option<Row> {
    let round_trip = udp.rtt_s.map(|rtt| format!("round trip {} ms", number(rtt * 1000.0)));
    let loss = udp.loss.map(|loss| format!("packet loss {}", percent(loss)));
    let parts: Vec<String> = [round_trip, loss].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| Row::plain("rtt_s", "Path to server", parts.join(", ")))
}

/// A share in percent, never rounded up to certainty.
#[must_use]
pub fn percent(share: f64) -> String {
    if share >= 1.0 {
        "100 %".into()
    } else if share > 0.99 {
        "over 99 %".into()
    } else if share > 0.0 && share < 0.01 {
        "under 1 %".into()
    } else {
        format!("{:.0} %", share * 100.0)
    }
}

/// At most one decimal place.
#[must_use]
pub fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The word that the JSON report has for a value.
pub fn json_word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_never_rounded_to_certainty() {
        let text: Vec<String> = [1.0, 0.998, 0.99, 0.5, 0.004, 0.0].into_iter().map(percent).collect();
        assert_eq!(text, ["100 %", "over 99 %", "99 %", "50 %", "under 1 %", "0 %"]);
    }

    #[test]
    fn every_finding_has_a_row_under_its_key() {
        let json = serde_json::to_value(UdpReport::default()).unwrap();
        let is_finding = |part: &serde_json::Value| part.get("confidence").is_some();
        let wanted: Vec<String> = json
            .as_object()
            .unwrap()
            .iter()
            .filter(|(_, part)| is_finding(part))
            .map(|(key, _)| format!("ipv4.udp.{key}"))
            .collect();
        let rows = udp("ipv4.udp", &UdpReport::default());
        let mut keys: Vec<_> =
            rows.iter().filter(|row| row.basis.is_some()).map(|row| row.key.clone()).collect();
        keys.sort();
        assert_eq!(keys, {
            let mut wanted = wanted;
            wanted.sort();
            wanted
        });
    }
}
