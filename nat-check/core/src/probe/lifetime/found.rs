//! The lifetime in the report: its slot, its text, and what follows from it for keepalives.

use shared::nat::{Bracket, ExpiryStyle, Granularity, Lifetime};

use super::conclude;
use crate::{
    observation::ObservationLog,
    probe::{Found, Measured, Merge, Probe, slot},
    report::{Finding, number},
};

/// What the measurement finds out.
pub(super) struct MappingLifetime;

impl Measured for MappingLifetime {
    type Value = Lifetime;
    const KEY: &'static str = "lifetime";
    const LABEL: &'static str = "Mapping lifetime";
    const LINE_KEY: Option<&'static str> = None;
    slot!(udp.lifetime);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<Lifetime> {
        conclude(log, found)
    }

    // The conclusion itself knows whether it was asked for and how far it came.
    fn finish(_probe: &Probe, log: &ObservationLog, found: &Found) -> Finding<Lifetime> {
        conclude(log, found)
    }

    fn text(value: &Lifetime) -> String {
        let mut parts = Vec::new();
        if let Some(bracket) = value.unreplied {
            parts.push(format!("{} before any reply", span(bracket)));
        }
        if let Some(bracket) = value.stream {
            parts.push(format!("{} after traffic in both directions", span(bracket)));
        }
        match (value.refresh.outbound, value.refresh.inbound) {
            (Some(true), Some(true)) => parts.push("packets in either direction refresh it".into()),
            (Some(true), Some(false)) => parts.push("only outbound packets refresh it".into()),
            (Some(false), Some(true)) => parts.push("only inbound packets refresh it".into()),
            (Some(false), Some(false)) => parts.push("no packet refreshes it".into()),
            (Some(true), None) => parts.push("outbound packets refresh it".into()),
            (None, Some(true)) => parts.push("inbound packets refresh it".into()),
            (Some(false), None) => parts.push("outbound packets do not refresh it".into()),
            (None, Some(false)) => parts.push("inbound packets do not refresh it".into()),
            (None, None) => {}
        }
        match value.refresh.elsewhere {
            Some(true) => parts.push("traffic to one destination refreshes all".into()),
            Some(false) => parts.push("each destination has its own timer".into()),
            None => {}
        }
        match value.granularity {
            Some(Granularity { style: ExpiryStyle::Swept, seconds, sure }) => {
                let likely = if sure { "" } else { " (likely)" };
                parts.push(format!("expired mappings are removed about every {} s{likely}", number(seconds)));
            }
            Some(Granularity { style: ExpiryStyle::Jittered, seconds, sure }) => {
                let likely = if sure { "" } else { " (likely)" };
                parts.push(format!("lifetimes vary by about {} s{likely}", number(seconds)));
            }
            Some(Granularity { style: ExpiryStyle::Exact, .. }) | None => {}
        }
        parts.join("; ")
    }

    fn remark(value: &Lifetime) -> Option<(&'static str, String)> {
        keepalives(value).map(|text| ("Keepalive", text))
    }

    // Measured with one server only, as a rule.
    fn merge(merge: Merge<'_>, mine: &mut Finding<Lifetime>, other: &Finding<Lifetime>) {
        merge.surest(mine, other);
    }
}

/// What a keepalive every 15, 25 or 30 seconds would do, by the shorter of the timers.
fn keepalives(value: &Lifetime) -> Option<String> {
    let alive = value.survived_s()?;
    let gone =
        [value.unreplied, value.stream].into_iter().flatten().filter_map(|b| b.expired_s).reduce(f64::min);
    let does = |every: f64| match gone {
        _ if every <= alive * 0.8 => "keeps it open",
        _ if every <= alive => "keeps it open, with little margin",
        Some(gone) if every >= gone => "loses it",
        Some(_) | None => "may lose it",
    };
    let intervals = [15.0, 25.0, 30.0].map(|every| format!("every {every} s {}", does(every)));
    Some(format!("a packet {}", intervals.join("; ")))
}

/// "30.7 to 31.6 s", "more than 60 s".
fn span(bracket: Bracket) -> String {
    match bracket.expired_s {
        Some(expired) => format!("{} to {} s", number(bracket.alive_s), number(expired)),
        None => format!("more than {} s", number(bracket.alive_s)),
    }
}

#[cfg(test)]
mod tests {
    use shared::nat::Refresh;

    use super::*;

    #[test]
    fn lifetimes_read_as_spans() {
        let lifetime = Lifetime {
            unreplied: Some(Bracket { alive_s: 30.0, expired_s: Some(31.62) }),
            stream: Some(Bracket { alive_s: 60.0, expired_s: None }),
            refresh: Refresh { outbound: Some(true), inbound: None, elsewhere: None },
            granularity: None,
        };
        assert_eq!(
            MappingLifetime::text(&lifetime),
            "30 to 31.6 s before any reply; more than 60 s after traffic in both directions; outbound packets refresh it"
        );
    }
}
