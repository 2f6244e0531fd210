//! The command line as it is typed. [`crate::plan`] turns it into something that can be run.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};

use shared::nat::model::PRESETS;

use crate::render;

/// Tells what kind of NAT or firewall stands in front of this host, and whether hole punching will work.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "nat-check", version, about, max_term_width = 100, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub struct Args {
    /// What to do, if it is not a check.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Probe server: a name or an address. Several give one verdict with the disagreements shown
    ///
    /// A name without a port is looked up as SRV (_stun-behavior._udp, then _stun._udp), then as an address with
    /// port 3478. An IPv6 address with a port is written in brackets. NAT_CHECK_SERVER in the environment stands in.
    #[arg(short, long = "server", value_name = "HOST[:PORT]", conflicts_with_all = ["local", "simulate"])]
    pub servers: Vec<String>,

    /// Run against an embedded probe server on loopback: nothing to set up, and no NAT to be found
    #[arg(long, conflicts_with = "simulate")]
    pub local: bool,

    /// Run against a simulated NAT: a name such as `symmetric`, or "mapping=apd,filtering=ad,ports=sequential"
    #[arg(long, value_name = "NAT", long_help = simulate_help())]
    pub simulate: Option<String>,

    /// Test IPv4 only
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6")]
    pub ipv4: bool,

    /// Test IPv6 only
    #[arg(short = '6', long = "ipv6")]
    pub ipv6: bool,

    /// Send from this local address; a port is used for the mapping test only
    #[arg(long, value_name = "IP[:PORT]")]
    pub bind: Option<String>,

    /// How to print the report
    #[arg(long, value_name = "FORMAT", default_value = "table", hide_default_value = true,
          value_parser = PossibleValuesParser::new(render::names()))]
    pub format: String,

    /// Short for --format json
    #[arg(long, conflicts_with = "format")]
    pub json: bool,

    /// Measure how long mappings live, looking at idle times up to this many seconds (180 without a number)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "180")]
    pub lifetime: Option<f64>,

    /// Run these tests only (and what they build on); --list names them
    #[arg(long, value_name = "TEST", value_delimiter = ',')]
    pub only: Vec<String>,

    /// Leave these tests out
    #[arg(long, value_name = "TEST", value_delimiter = ',', conflicts_with = "only")]
    pub skip: Vec<String>,

    /// List the tests and end
    #[arg(long)]
    pub list: bool,

    /// Exit with 1 unless the report says so, e.g. ipv4.udp.mapping=endpoint-independent
    ///
    /// KEY is a path in the JSON report; a finding is compared by its value. hole-punching=LEVEL holds at that level
    /// or a better one: any-peer, most-peers, some-peers, none.
    #[arg(long = "require", value_name = "KEY=VALUE")]
    pub requires: Vec<String>,

    /// Random seed, for reproducible runs; transaction ids ignore it
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// End after this many seconds with what is known by then (default: 15)
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<f64>,

    /// No progress, no logs
    #[arg(short, long)]
    pub quiet: bool,

    /// Show the evidence behind each finding; twice, show log lines as well
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// Print a man page, a shell completion or a JSON Schema and end
    #[arg(long, value_name = "WHAT", exclusive = true)]
    pub generate: Option<Generate>,
}

/// What there is beside a check.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Really try a hole punch with a peer that gives the same code
    #[command(after_help = AFTER_PUNCH)]
    Punch(PunchArgs),
}

/// What a punch takes.
#[derive(Clone, Debug, clap::Args)]
pub struct PunchArgs {
    /// Probe server that introduces the two. NAT_CHECK_SERVER in the environment stands in
    #[arg(short, long, value_name = "HOST[:PORT]")]
    pub server: Option<String>,

    /// The code that the other side was given
    #[arg(long, value_name = "CODE")]
    pub code: Option<String>,

    /// Meet over TLS, at the port of SRV or 5349 if none is given; the server has to prove its name
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub tls: Option<Option<u16>>,

    /// Trust the certificates in this PEM file and no others, instead of those that the system trusts
    #[arg(long, value_name = "FILE", requires = "tls")]
    pub ca: Option<PathBuf>,

    /// How long to wait for the peer
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    pub wait: f64,

    /// How long to hold a path that was found; the shorter one of both sides counts
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    pub hold: f64,

    /// Try these only: lan, simultaneous, low-ttl, ipv6, prediction, tcp, birthday. The last one sends up to 2000
    /// packets and opens hundreds of mappings
    #[arg(long, value_name = "TECHNIQUE", value_delimiter = ',')]
    pub techniques: Vec<String>,

    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,

    /// Random seed, for reproducible runs; transaction ids ignore it
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// No progress, no logs
    #[arg(short, long)]
    pub quiet: bool,

    /// Show each measurement; twice, show log lines as well
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

fn simulate_help() -> String {
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    format!(
        "Run against a simulated NAT: a name, settings such as \"mapping=apd,filtering=ad,ports=sequential\", or a \
         name with settings (\"linux,stream=60\"). Several in a row are joined by `+`, the innermost first: \
         \"linux+symmetric\"\n\nNames: {}",
        names.join(", ")
    )
}

/// What `--generate` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generate {
    /// The manual page nat-check(1)
    Man,
    /// The manual page nat-check-punch(1)
    PunchMan,
    /// The JSON Schema of the report
    Schema,
    /// The JSON Schema of what came of a punch
    PunchSchema,
    /// Completions for bash
    Bash,
    /// Completions for elvish
    Elvish,
    /// Completions for fish
    Fish,
    /// Completions for PowerShell
    Powershell,
    /// Completions for zsh
    Zsh,
}

const AFTER_PUNCH: &str = "\
Without --code it prints one, and the line to run on the other machine.

Exit codes:
  0  there is a direct path
  1  there is none
  2  usage
  3  no server could be reached, or no peer came";

const AFTER_HELP: &str = "\
Exit codes:
  0  the report is complete, whatever the NAT is
  1  a --require does not hold, or the report could not be written
  2  usage
  3  no probe server could be reached over any transport, or its name did not resolve";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn lifetime_takes_its_seconds_only_behind_an_equals_sign() {
        let lifetime = |argv: &[&str]| Args::try_parse_from(argv).map(|args| args.lifetime);
        assert_eq!(lifetime(&["nat-check", "--lifetime"]).unwrap(), Some(180.0));
        assert_eq!(lifetime(&["nat-check", "--lifetime=300"]).unwrap(), Some(300.0));
        assert_eq!(lifetime(&["nat-check"]).unwrap(), None);
        assert!(lifetime(&["nat-check", "--lifetime", "300"]).is_err());
    }
}
