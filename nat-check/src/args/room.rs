//! The command line of `nat-check room` as it is typed.

use std::path::PathBuf;

use clap::ArgAction;

use super::{OTHER, OUTPUT, PunchArgs, SERVERS, WHAT, idle_time, seconds};

/// Heading of the help.
const ROOMS: &str = "Room";

/// What a room takes.
#[derive(Clone, Debug, clap::Args)]
pub struct RoomArgs {
    /// Name of the room: a code that another member printed, or a word that all agree on, which others may guess; without it,
    /// make one that nobody guesses
    #[arg(value_name = "NAME")]
    pub room: Option<String>,

    /// Probe server that has the room [default: $NAT_CHECK_SERVER]
    #[arg(short, long, value_name = "HOST[:PORT]", help_heading = SERVERS)]
    pub server: Option<String>,

    /// Use TLS (port from SRV, default 5349); the server's certificate is verified
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true,
          value_parser = clap::value_parser!(u16).range(1..), help_heading = SERVERS)]
    pub tls: Option<Option<u16>>,

    /// Do not use TLS, even where the server offers it and can prove itself
    #[arg(long, conflicts_with = "tls", help_heading = SERVERS)]
    pub no_tls: bool,

    /// Trust the certificates in this PEM file instead of the system's, e.g. a self-signed one
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = SERVERS)]
    pub ca: Option<PathBuf>,

    /// What the others see this host called; without it, a number
    #[arg(long = "as", value_name = "NAME", help_heading = ROOMS)]
    pub called: Option<String>,

    /// End when N members, this one included, are there and all pairs are settled; without it and --for, when all pairs of
    /// at least two are settled and nothing has happened for 10 s
    #[arg(long, value_name = "N", conflicts_with = "stay", help_heading = ROOMS)]
    pub members: Option<usize>,

    /// Stay so long; s, m and h may follow a number
    #[arg(long = "for", value_name = "TIME", value_parser = idle_time, help_heading = ROOMS)]
    pub stay: Option<f64>,

    /// How long to wait for others
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value_t = 60.0, help_heading = ROOMS)]
    pub wait: f64,

    /// Try these only: lan, simultaneous, low-ttl, ipv6, prediction, tcp, birthday. The last one sends up to 2000
    /// packets and opens hundreds of mappings, for each pair that needs it
    #[arg(long, value_name = "TECHNIQUE", value_delimiter = ',', help_heading = WHAT)]
    pub techniques: Vec<String>,

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

    /// Show each measurement; -vv shows log lines as well
    #[arg(short, long, action = ArgAction::Count, overrides_with = "quiet", help_heading = OUTPUT)]
    pub verbose: u8,

    /// Print help: -h in short, --help in full
    #[arg(short, long, action = ArgAction::Help, help_heading = OTHER)]
    help: Option<bool>,
}

impl RoomArgs {
    /// What each pair of it takes.
    #[must_use]
    pub fn as_punch(&self) -> PunchArgs {
        PunchArgs {
            server: self.server.clone(),
            tls: self.tls,
            no_tls: self.no_tls,
            ca: self.ca.clone(),
            wait: self.wait,
            techniques: self.techniques.clone(),
            format: self.format.clone(),
            json: self.json,
            quiet: self.quiet,
            verbose: self.verbose,
            ..PunchArgs::default()
        }
    }
}
