//! The command line of `nat-check lan` as it is typed.

use std::net::Ipv4Addr;

use clap::ArgAction;

use super::{OTHER, OUTPUT, WHAT, idle_time, seconds};

/// What a look at the local network takes.
#[derive(Clone, Debug, clap::Args)]
pub struct LanArgs {
    /// How long to wait for another host that runs nat-check lan
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value_t = 2.0, help_heading = WHAT)]
    pub wait: f64,

    /// Go on for so long at least, without joining groups again; s, m and h may follow a number. At 330 it shows whether a
    /// switch forgets who is a member
    #[arg(long, value_name = "TIME", value_parser = idle_time, help_heading = WHAT)]
    pub hold: Option<f64>,

    /// Speak to this host of the local network from the beginning, where neither multicast nor broadcast finds it; may be
    /// repeated
    #[arg(long = "peer", value_name = "IP", help_heading = WHAT)]
    pub peers: Vec<Ipv4Addr>,

    /// Format of the report
    #[arg(long, value_name = "FORMAT", default_value = "table", overrides_with = "json",
          value_parser = ["table", "json"], help_heading = OUTPUT)]
    pub format: String,

    /// The same as --format json
    #[arg(long, overrides_with = "format", help_heading = OUTPUT)]
    pub json: bool,

    /// No progress, no logs; of -q and -v the last one counts
    #[arg(short, long, overrides_with = "verbose", help_heading = OUTPUT)]
    pub quiet: bool,

    /// Show the evidence behind each finding; -vv shows log lines as well
    #[arg(short, long, action = ArgAction::Count, overrides_with = "quiet", help_heading = OUTPUT)]
    pub verbose: u8,

    /// Print help: -h in short, --help in full
    #[arg(short, long, action = ArgAction::Help, help_heading = OTHER)]
    help: Option<bool>,
}
