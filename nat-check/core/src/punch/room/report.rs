//! What there is to be said of a room: the JSON of the contract. Pure.

use serde::{Deserialize, Serialize};
use shared::{nat::NatType, rendezvous::room::PairResult};

use crate::{
    report::{Reason, ReasonCode},
    technique::Technique,
};

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoomDocument {
    /// Version of this format: 1.
    pub version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// Whether it ended early, so that what is missing may only be unfinished.
    pub partial: bool,
    /// Who was there, and who reaches whom.
    pub room: RoomReport,
}

/// A room as one member knows it at the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoomReport {
    /// Its name; null where it was not entered.
    pub name: Option<String>,
    /// This side's number in it; null where it was not entered.
    pub you: Option<u32>,
    /// Everybody who was there, in the order in which they came.
    pub members: Vec<MemberReport>,
    /// Every two of them.
    pub pairs: Vec<PairReport>,
    /// Why it ended, in a sentence.
    pub ended: String,
    /// What a person should know besides.
    pub warnings: Vec<String>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MemberReport {
    /// Its number in the room.
    pub id: u32,
    /// What it wants to be called.
    pub name: Option<String>,
    /// The classic name of its NAT, as it says; null = not known.
    pub nat_type: Option<NatType>,
    /// Whether it is still there.
    pub here: bool,
}

/// Two members.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PairReport {
    /// The one that came first.
    pub a: u32,
    /// The other one.
    pub b: u32,
    /// The chance of a direct path as predicted before, 0 to 1, where both say the same.
    pub predicted: Option<f64>,
    /// Whether they reach each other.
    pub outcome: PairOutcome,
    /// What found the path, where both say the same.
    pub technique: Option<Technique>,
    /// The address family of the path, where both say the same.
    pub family: Option<PathFamily>,
    /// Round-trip time over the path, in seconds: the longer one of what the two measured.
    pub rtt_s: Option<f64>,
    /// Why it is not known, in a sentence.
    pub reason: Option<String>,
    /// The same for scripts.
    pub reason_code: Option<ReasonCode>,
    /// What each of the two says.
    pub said: SaidByBoth,
}

/// Whether two members reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PairOutcome {
    /// Both say that there is a direct path.
    Direct,
    /// Both say that there is none, although the prediction does not rule one out: another attempt may find one.
    Failed,
    /// Both say that there is none, and the prediction expected none: they need a relay.
    Relay,
    /// They do not say the same, or not enough.
    Unknown,
}

/// The address family of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PathFamily {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What each of two members says: whether there is a path; null = it has said nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SaidByBoth {
    /// The first one.
    pub a: Option<bool>,
    /// The other one.
    pub b: Option<bool>,
}

/// A chance below which no direct path is expected.
const EXPECTED: f64 = 0.5;

/// Puts together what two members say of their pair. Nobody is believed alone.
#[must_use]
pub(super) fn pair_report(
    (a, b): (u32, u32),
    said: [Option<&PairResult>; 2],
    are_both_here: bool,
) -> PairReport {
    let through = said.map(|said| said.and_then(|said| said.through));
    let both = said[0].zip(said[1]);
    let predicted = both.and_then(|(x, y)| x.predicted.filter(|_| x.predicted == y.predicted));
    let predicted = predicted.map(|millionths| f64::from(millionths.min(1_000_000)) / 1e6);
    let mut report = PairReport {
        a,
        b,
        predicted,
        outcome: PairOutcome::Unknown,
        technique: None,
        family: None,
        rtt_s: None,
        reason: None,
        reason_code: None,
        said: SaidByBoth { a: through[0], b: through[1] },
    };
    match (both, through) {
        (Some((x, y)), [Some(true), Some(true)]) => {
            report.outcome = PairOutcome::Direct;
            let technique = x.technique.filter(|_| x.technique == y.technique);
            report.technique = technique.and_then(Technique::of_wire);
            let family = if x.ipv6 { PathFamily::Ipv6 } else { PathFamily::Ipv4 };
            report.family = (x.ipv6 == y.ipv6).then_some(family);
            report.rtt_s = x.rtt_us.zip(y.rtt_us).map(|(x, y)| f64::from(x.max(y)) / 1e6);
        }
        (_, [Some(false), Some(false)]) => {
            let is_expected = predicted.is_some_and(|chance| chance < EXPECTED);
            report.outcome = if is_expected { PairOutcome::Relay } else { PairOutcome::Failed };
        }
        (_, through) => {
            let reason = why_unknown((a, b), through, both.is_some(), are_both_here);
            (report.reason, report.reason_code) = (Some(reason.text), Some(reason.code));
        }
    }
    report
}

fn why_unknown(
    (a, b): (u32, u32),
    through: [Option<bool>; 2],
    have_both_said: bool,
    are_here: bool,
) -> Reason {
    let (code, text) = match through {
        [Some(true), Some(false)] => {
            (ReasonCode::OneSideSays, format!("{a} says that there is a direct path, {b} that there is none"))
        }
        [Some(false), Some(true)] => {
            (ReasonCode::OneSideSays, format!("{b} says that there is a direct path, {a} that there is none"))
        }
        [Some(true), None] => (ReasonCode::OneSideSays, format!("only {a} says that there is a direct path")),
        [None, Some(true)] => (ReasonCode::OneSideSays, format!("only {b} says that there is a direct path")),
        _ if have_both_said => (ReasonCode::AttemptBroken, "their attempt did not come to its end".into()),
        _ if are_here => (ReasonCode::EndedEarly, "they had not finished when this side left".into()),
        _ => (ReasonCode::MemberLeft, "one of the two left before they had finished".into()),
    };
    Reason { code, text }
}

#[cfg(test)]
mod tests {
    use shared::rendezvous::peer::WireTechnique;

    use super::*;

    fn said(through: impl Into<Option<bool>>, predicted: u32) -> PairResult {
        let technique = Some(WireTechnique::Simultaneous);
        let through = through.into();
        PairResult { through, technique, ipv6: false, rtt_us: Some(20_000), predicted: Some(predicted) }
    }

    fn outcome(a: Option<PairResult>, b: Option<PairResult>) -> (PairOutcome, Option<ReasonCode>) {
        let report = pair_report((1, 2), [a.as_ref(), b.as_ref()], true);
        assert_eq!(report.outcome == PairOutcome::Unknown, report.reason_code.is_some());
        assert_eq!(report.reason.is_some(), report.reason_code.is_some());
        assert!(
            report.outcome == PairOutcome::Direct || report.technique.is_none() && report.rtt_s.is_none()
        );
        (report.outcome, report.reason_code)
    }

    #[test]
    fn a_path_counts_only_if_both_say_so() {
        use PairOutcome as O;
        use ReasonCode as R;
        let (yes, no, open) = (said(true, 990_000), said(false, 990_000), said(None, 990_000));
        assert_eq!(outcome(Some(yes), Some(yes)), (O::Direct, None));
        assert_eq!(outcome(Some(no), Some(no)), (O::Failed, None));
        assert_eq!(outcome(Some(said(false, 0)), Some(said(false, 0))), (O::Relay, None));
        assert_eq!(
            outcome(Some(no), Some(said(false, 0))),
            (O::Failed, None),
            "they predict different things"
        );
        for (a, b) in [(Some(yes), Some(no)), (Some(no), Some(yes)), (Some(yes), None), (None, Some(yes))] {
            assert_eq!(outcome(a, b), (O::Unknown, Some(R::OneSideSays)));
        }
        assert_eq!(outcome(Some(yes), Some(open)), (O::Unknown, Some(R::OneSideSays)));
        assert_eq!(outcome(Some(open), Some(no)), (O::Unknown, Some(R::AttemptBroken)));
        assert_eq!(outcome(None, Some(no)), (O::Unknown, Some(R::EndedEarly)));
        let left = pair_report((1, 2), [None, Some(&no)], false);
        assert_eq!(left.reason_code, Some(R::MemberLeft));
    }

    #[test]
    fn what_only_one_says_of_a_path_is_left_out() {
        let (a, b) = (said(true, 990_000), said(true, 990_000));
        let report = pair_report((1, 2), [Some(&a), Some(&b)], true);
        assert_eq!((report.technique, report.rtt_s), (Some(Technique::Simultaneous), Some(0.02)));
        assert_eq!((report.family, report.predicted), (Some(PathFamily::Ipv4), Some(0.99)));
        let b = PairResult { technique: None, ipv6: true, rtt_us: Some(90_000), predicted: None, ..b };
        let report = pair_report((1, 2), [Some(&a), Some(&b)], true);
        assert_eq!((report.technique, report.rtt_s), (None, Some(0.09)));
        assert_eq!((report.family, report.predicted), (None, None));
        let b = PairResult { predicted: Some(u32::MAX), ..b };
        assert_eq!(pair_report((1, 2), [Some(&b), Some(&b)], true).predicted, Some(1.0));
    }
}
