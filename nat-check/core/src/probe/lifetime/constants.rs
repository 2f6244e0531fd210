//! Every number that the lifetime measurement goes by, with its unit and its reason (RFC 4787 section 4.3).
//!
//! `nat-check/docs/lifetime.md` shows the same table; a test keeps them equal. "Tuned" means chosen with
//! `cargo bench -p natlab --bench lifetime`, which any change has to be checked against.

use std::time::Duration;

/// Declares the constants and, for the page, the table of them.
macro_rules! constants {
    ($($section:literal: { $($(#[doc = $reason:literal])+ $name:ident: $type:ty = $value:expr, $unit:literal;)+ })+) => {
        $($($(#[doc = $reason])+ pub(super) const $name: $type = $value;)+)+

        #[cfg(test)]
        fn table() -> Vec<(&'static str, Vec<Row>)> {
            vec![$(($section, vec![$(Row {
                name: stringify!($name),
                value: tests::Shown::shown(&$name),
                unit: $unit,
                reason: concat!($($reason),+).trim(),
            }),+])),+]
        }
    };
}

constants! {
    "Preparation": {
        /// A mapping through which nothing has come back is ready as soon as its socket is opened.
        UNREPLIED_SETUP: f64 = 0.0, "s";
        /// A stream is ready this long after its socket is opened: `STREAM_AFTER`, and a round trip.
        STREAM_SETUP: f64 = 2.2, "s";
        /// Linux makes a flow a stream when a packet passes 2 s after its first one; 50 ms for a coarse clock (nf_conntrack_proto_udp).
        STREAM_AFTER: Duration = Duration::from_millis(2050), "s";
        /// A mapping whose preparation was not answered by then never will be ready.
        SETUP_GIVES_UP: Duration = Duration::from_secs(6), "s";
        /// Requests to set up one mapping; a stream takes twice as many. At 20 % loss each way, 4 fail in 1 of 60.
        SETUP_TRIES: usize = 4, "packets";
        /// A reused socket that was idle for longer than this beyond `STREAM_AFTER` is left out: its mapping may have expired.
        REUSE_WITHIN: Duration = Duration::from_millis(300), "s";
        /// Sockets tried as the requester: one may have an external port that the server does not talk to.
        REQUESTERS: usize = 2, "sockets";
        /// Requests until the requester's external endpoint has to be known.
        REQUESTER_TRIES: usize = 6, "packets";
    }
    "Schedule: checkpoints": {
        /// The first checkpoint. Lifetimes below it are bracketed by fine probes alone.
        FIRST_CHECKPOINT: f64 = 3.9, "s";
        /// Checkpoints below `LONG_LIFETIME` are farther apart by this share of the idle time ...
        STEP_SHARE: f64 = 0.1, "share";
        /// ... plus this ...
        STEP_BASE: f64 = 2.4, "s";
        /// ... less this share of the setup time, so that the result is known after 1.15 L + 5 s all the same ...
        STEP_LESS_SETUP: f64 = 0.9, "share";
        /// ... but never closer than this, as each costs a socket.
        STEP_LEAST: f64 = 2.2, "s";
        /// Checkpoints beyond are farther apart by this share of the idle time ...
        LONG_STEP_SHARE: f64 = 0.085, "share";
        /// ... plus this.
        LONG_STEP_BASE: f64 = 1.0, "s";
        /// From this idle time on, brackets may be wider and checkpoints farther apart.
        LONG_LIFETIME: f64 = 60.0, "s";
        /// The longer steps begin a little below it, at this share of it.
        LONG_STEPS_FROM: f64 = 0.95, "share";
        /// The last checkpoint before the longest idle time is at most this share of it.
        LAST_BEFORE_LONGEST: f64 = 0.97, "share";
        /// Mappings for checkpoints up to here are opened at once ...
        OPENED_AT_ONCE: f64 = 9.0, "s";
        /// ... those for later ones later by this for each second above it, as the budget allows no more at the start.
        OPENED_LATER: f64 = 0.04, "s per s";
        /// Later checkpoints need no mapping of their own: the oldest fine probes serve, a few seconds late.
        OWN_MAPPING_UP_TO: f64 = 38.0, "s";
        /// Unreplied mappings need no setup time, so those of late checkpoints let the streams go first.
        UNREPLIED_AFTER_STREAMS: Duration = Duration::from_millis(600), "s";
        /// The first new stream where others are reused: these are streams earlier, and the gap is to be closed.
        FIRST_NEW_STREAM: Duration = Duration::from_micros(87_500), "s";
        /// Between it and the next ones.
        NEW_STREAMS_APART: Duration = Duration::from_millis(350), "s";
    }
    "Schedule: fine probes": {
        /// The first fine probe; the checkpoints' own mappings fill the time before.
        FIRST_FINE_PROBE: f64 = 0.8, "s";
        /// How far fine probes reach beyond the gap between checkpoints: the time that deciding and checking again take.
        REACH_BEYOND_GAP: f64 = 1.8, "s";
        /// Distance of fine probes by offset: (up to, apart). Gives 1 s resolution for lifetimes up to a minute ...
        FINE_PROBES_APART: [(f64, f64); 3] = [(2.5, 0.7), (11.5, 0.66), (25.0, 1.6)], "s";
        /// ... and 5 % or 5 s for longer ones, which have wider gaps.
        FINE_PROBES_APART_BEYOND: f64 = 3.0, "s";
        /// When the mapping whose socket also talks to another destination is opened.
        ELSEWHERE_OPENED: Duration = Duration::from_millis(1500), "s";
        /// When the mapping that is refreshed from inside is opened: younger than all that a checkpoint finds alive.
        OUTBOUND_OPENED: Duration = Duration::from_millis(2600), "s";
    }
    "Search": {
        /// Brackets up to `LONG_LIFETIME` are narrowed to this: 1 s, less the time that a check takes.
        FINE_BRACKET: Duration = Duration::from_millis(950), "s";
        /// Brackets beyond are narrowed to the idle time divided by this ...
        LONG_BRACKET_DIVISOR: u32 = 24, "";
        /// ... and to no more than this, 5 s less the time that a check takes.
        LONG_BRACKET_MOST: Duration = Duration::from_millis(4800), "s";
        /// How often a bracket is narrowed: each time halves it.
        NARROWED: u32 = 3, "times";
        /// A check that narrows a bracket has to be due this soon, or the result would be late.
        NARROWED_WITHIN: Duration = Duration::from_millis(2000), "s";
        /// Checks that are useful but not necessary end after this many lifetimes from the start ...
        LATEST_LIFETIMES: f64 = 1.15, "lifetimes";
        /// ... and this: a lifetime of L is to be known after 1.15 L + 5 s.
        LATEST_MORE: Duration = Duration::from_millis(4500), "s";
        /// A mapping with an idle time this close to a checked one shows nothing new.
        INDISTINCT: Duration = Duration::from_millis(100), "s";
        /// Mappings checked in one instant differ by at least this.
        CHECKED_APART: Duration = Duration::from_millis(300), "s";
        /// Mappings between alive and silent that are checked in one instant: divides the gap by five.
        CHECKED_AT_ONCE: usize = 4, "mappings";
        /// Unanswered checks at a checkpoint before the fine search begins, where no packet was lost so far ...
        SILENT_LOSSLESS: u32 = 1, "checks";
        /// ... and where some were: a few checks are cheaper than a fine search that finds nothing.
        SILENT_LOSSY: u32 = 3, "checks";
        /// Checks of each mapping in an instant while the budget is ample: repeating before the first can be answered narrows the bracket.
        CHECKED_TWICE: u32 = 2, "checks";
        /// Unanswered checks beyond this are not counted: more would prove nothing either.
        CHECKS_MOST: u32 = 14, "checks";
        /// Unanswered checks needed beyond those of the conclusion while the run goes on and packets get lost.
        CHECKS_MARGIN: u32 = 1, "checks";
        /// Checks of one mapping before it is given up: `CHECKS_MOST`, and some whose control was lost.
        CHECKS_GIVE_UP: usize = CHECKS_MOST as usize + 6, "checks";
    }
    "How mappings expire": {
        /// How often it is verified that the timer is exact.
        VERIFIED: u32 = 3, "times";
        /// Mappings far older than the timer that are checked then: with jitter some would exist.
        OLD_MAPPINGS: usize = 4, "mappings";
        /// Unanswered checks that count for the style: it needs many mappings rather than certain ones.
        STYLE_CHECKS: u32 = 2, "checks";
        /// While mappings expire apart, one is checked at intervals of the lifetime divided by this ...
        SAMPLING_DIVISOR: u32 = 60, "";
        /// ... plus this.
        SAMPLING_BASE: Duration = Duration::from_millis(600), "s";
        /// Sampling ends after the lifetime divided by this ...
        SAMPLING_MOST_DIVISOR: u32 = 2, "";
        /// ... plus this: longer sweeps are rare.
        SAMPLING_MOST: Duration = Duration::from_secs(14), "s";
        /// An explanation this many times as probable as the others together is reported as likely ...
        LIKELY: f64 = 30.0, "";
        /// ... and this many times as sure: a chance of error of 1 in 10,000.
        SURE: f64 = 10_000.0, "";
        /// Sweeps and jitter shorter than this ...
        FINEST: f64 = 3.0, "s";
        /// ... or than this share of the lifetime are not told from an exact timer.
        FINEST_SHARE: f64 = 0.12, "share";
        /// Sweep intervals tried: (from, to, apart).
        SWEEPS: [(f64, f64, f64); 2] = [(1.0, 19.5, 0.5), (20.0, 60.0, 2.0)], "s";
        /// Phases of a sweep tried are this far apart.
        SWEEP_PHASES_APART: f64 = 0.2, "s";
        /// Ranges of jitter tried: (from, to, apart).
        JITTERS: (f64, f64, f64) = (0.5, 40.0, 0.5), "s";
        /// Lifetimes tried with jitter are this far apart.
        JITTERED_LIFETIMES_APART: f64 = 0.25, "s";
        /// They end above the longest that was survived by this many ranges of the jitter ...
        JITTERED_LIFETIMES_RANGES: f64 = 3.0, "ranges";
        /// ... and this.
        JITTERED_LIFETIMES_BEYOND: f64 = 20.0, "s";
        /// An interval is known well enough when nearly all of the weight is within this share of the mean ...
        PRECISE_SHARE: f64 = 0.1, "share";
        /// ... or this, if that is more ...
        PRECISE: f64 = 1.0, "s";
        /// ... nearly all being this.
        PRECISE_WEIGHT: f64 = 0.9, "share";
        /// No timer is longer than this: the upper end of the average over all lifetimes.
        LONGEST_LIFETIME: f64 = 4000.0, "s";
    }
    "Packet budget": {
        /// A run sends no more than this on average, over both timers: more might itself disturb the NAT.
        AVERAGE: f64 = 10.0, "packets/s";
        /// Packets that may leave at the start, when as many mappings are made.
        START: f64 = 75.0, "packets";
        /// Rate over the first seconds, so that the burst and it together stay near the average ...
        FIRST_RATE: f64 = 2.9, "packets/s";
        /// ... these being the first seconds ...
        FIRST_SECONDS: Duration = Duration::from_secs(10), "s";
        /// ... and the rate after, a hair below the average.
        LATER_RATE: f64 = 9.9, "packets/s";
        /// Packets that may leave at once after a quiet time: one burst like the first.
        DEPTH: f64 = 75.0, "packets";
        /// With fewer packets left, only necessary checks are made.
        SPARE: usize = 20, "packets";
        /// With more than this left, checks need not wait for one another's answers.
        AMPLE: usize = 32, "packets";
        /// Checks worth waiting for so that they leave in one instant: one control serves them all.
        TOGETHER: usize = 6, "packets";
        /// Packets kept back for checks grow from this time on, when the first mappings may expire ...
        RESERVE_FROM: f64 = 2.0, "s";
        /// ... by this rate ...
        RESERVE_RATE: f64 = 4.0, "packets/s";
        /// ... up to this when a fine probe is to be opened, which is of less use late ...
        RESERVE_FINE_PROBE: f64 = 8.0, "packets";
        /// ... and up to this when the mapping of a late checkpoint is, which can wait.
        RESERVE_CHECKPOINT: f64 = 20.0, "packets";
        /// A wake-up for the budget comes this much later, so that rounding does not leave it just short.
        ROUNDING: Duration = Duration::from_micros(10), "s";
    }
    "Refresh": {
        /// Keepalives of the mappings that show what refreshes one: at intervals of an eighth of the run so far ...
        KEEPALIVE_DIVISOR: u32 = 8, "";
        /// ... but no shorter than this, for the budget's sake ...
        KEEPALIVE_LEAST: Duration = Duration::from_secs(3), "s";
        /// ... and no longer than this, as each gap has to be far below the lifetime.
        KEEPALIVE_MOST: Duration = Duration::from_secs(5), "s";
        /// Margin beyond the expired bound before a refreshed mapping is checked.
        REFRESH_MARGIN: Duration = Duration::from_millis(50), "s";
        /// Checks of the inbound mapping at the end, though keepalives have found it alive all along.
        INBOUND_CHECKS: usize = 3, "checks";
    }
    "End of a run": {
        /// A run ends this long after the longest idle time: setup, late checkpoints, two decisions, a wide margin ...
        ENDS_AFTER: Duration = Duration::from_secs(15), "s";
        /// ... and the longest idle time divided by this.
        ENDS_AFTER_DIVISOR: u32 = 10, "";
        /// What the caller allows beyond that before it gives up.
        CALLER_ALLOWS: Duration = Duration::from_secs(2), "s";
        /// With nothing else to do, the runner looks at the log this often.
        WAKES_AFTER: Duration = Duration::from_secs(5), "s";
        /// And at the most this often.
        WAKES_NO_SOONER: Duration = Duration::from_millis(1), "s";
        /// A last checkpoint this much below the longest idle time counts as the longest.
        LONGEST_WITHIN: Duration = Duration::from_secs(1), "s";
    }
    "Invalidation": {
        /// A suspend up to this is not told from a clock that was read a little late.
        SUSPEND_IGNORED: Duration = Duration::from_millis(500), "s";
        /// No NAT expires a mapping this soon: it lost its state.
        SHORTEST_LIFETIME: Duration = Duration::from_secs(2), "s";
        /// All mappings were gone at an idle time below this share of one survived before: the NAT lost its state.
        STATE_LOST_TENTHS: u32 = 9, "tenths";
        /// Mappings that have to be gone together for that: one or two may be lost packets.
        STATE_LOST_MAPPINGS: usize = 2, "more than";
        /// Sockets without a mapping that mean a limit of mappings per host: fewer may be lost packets.
        UNMAPPED: usize = 4, "more than";
        /// Only lifetimes below this are held against evictions and a restart: most mappings are opened before.
        CONFIRMED_BELOW: Duration = Duration::from_secs(15), "s";
        /// Mappings that were gone no more than this share later than the first ones show what ended those ...
        BOUNDARY_SHARE: f64 = 0.15, "share";
        /// ... and this.
        BOUNDARY_MARGIN: Duration = Duration::from_secs(1), "s";
        /// Mappings on another external address that mean arbitrary pooling (RFC 4787 section 4.1).
        ELSEWHERE_MAPPED: usize = 4, "more than";
    }
}

/// One constant, for the page.
#[cfg(test)]
struct Row {
    name: &'static str,
    value: String,
    unit: &'static str,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    /// A value as the page shows it; times in seconds.
    pub(super) trait Shown {
        fn shown(&self) -> String;
    }

    impl Shown for Duration {
        fn shown(&self) -> String {
            self.as_secs_f64().to_string()
        }
    }

    macro_rules! shown_by_debug {
        ($($type:ty),+) => {$(
            impl Shown for $type {
                fn shown(&self) -> String {
                    format!("{self:?}")
                }
            }
        )+};
    }
    shown_by_debug!(f64, u32, usize, (f64, f64, f64), [(f64, f64); 3], [(f64, f64, f64); 2]);

    #[test]
    fn the_page_shows_this_table() {
        let mut expected = String::new();
        for (section, rows) in table() {
            write!(expected, "### {section}\n\n| constant | value | unit | reason |\n|---|---|---|---|\n")
                .unwrap();
            for Row { name, value, unit, reason } in rows {
                writeln!(expected, "| `{name}` | {value} | {unit} | {reason} |").unwrap();
            }
            expected.push('\n');
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/lifetime.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (_, rest) = page.split_once("<!-- constants -->\n\n").unwrap();
        let (shown, _) = rest.split_once("<!-- end of constants -->").unwrap();
        assert_eq!(shown, expected, "the page's table is to be:\n{expected}");
    }
}
