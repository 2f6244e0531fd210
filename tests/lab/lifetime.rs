//! Judges lifetime findings (RFC 4787 section 4.3) of a NAT whose timers are known.

use nat_check_core::report::{Confidence, Finding};
use shared::nat::{Bracket, Lifetime};

/// How a finding compares with the true timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Brackets that contain the true values.
    Inside,
    /// Only a lower bound, which is true, or nothing at all.
    Unknown,
    /// A false bound in a weak finding.
    Doubtful,
    /// A false bound in a strong finding.
    Wrong,
}

/// Compares a finding with the true timers, in seconds.
#[must_use]
pub fn judge(finding: &Finding<Lifetime>, unreplied: f64, stream: f64) -> Verdict {
    let Some(lifetime) = &finding.value else { return Verdict::Unknown };
    let sure = finding.confidence >= Confidence::Strong;
    let brackets = [(lifetime.unreplied, unreplied), (lifetime.stream, stream)];
    brackets
        .into_iter()
        .map(|(bracket, truth)| judge_bracket(bracket, truth, sure))
        .max()
        .unwrap_or(Verdict::Unknown)
}

fn judge_bracket(bracket: Option<Bracket>, truth: f64, sure: bool) -> Verdict {
    let Some(Bracket { alive_s, expired_s }) = bracket else { return Verdict::Unknown };
    let holds = alive_s < truth && expired_s.is_none_or(|expired| truth <= expired);
    match (holds, sure, expired_s) {
        (false, true, _) => Verdict::Wrong,
        (false, false, _) => Verdict::Doubtful,
        (true, _, Some(_)) => Verdict::Inside,
        (true, _, None) => Verdict::Unknown,
    }
}

/// The width of the wider bracket, in seconds.
#[must_use]
pub fn width(lifetime: &Lifetime) -> Option<f64> {
    let width = |b: Bracket| Some(b.expired_s? - b.alive_s);
    [lifetime.unreplied, lifetime.stream].into_iter().flatten().filter_map(width).reduce(f64::max)
}

/// The time that measuring a timer of so many seconds may take, in seconds: a short one may have to be confirmed by a
/// mapping that is opened when all else is done.
#[must_use]
pub fn bound(timer: f64) -> f64 {
    if timer < 15.0 { 2.3 * timer + 10.0 } else { 1.15 * timer + 5.0 }
}
