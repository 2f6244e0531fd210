//! The command line as it is typed. [`crate::plan`] turns it into something that can be run.

mod reference;
mod room;

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum, builder::PossibleValuesParser};

use shared::nat::model::PRESETS;

use crate::render;
pub use reference::{CHECK, MAP, PUNCH, ROOM, Reference};
pub use room::RoomArgs;

/// Headings of the help, in the order in which they appear.
const SERVERS: &str = "Servers";
const WHAT: &str = "What to measure";
const OUTPUT: &str = "Output";
const CI: &str = "Checks for CI";
const PEER: &str = "Peer";
const OTHER: &str = "Other";

/// Find out what kind of NAT or firewall this host is behind, and whether hole punching will work
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "nat-check", version, about, max_term_width = 100)]
#[command(after_help = CHECK.short(), after_long_help = CHECK.long())]
#[command(args_conflicts_with_subcommands = true, args_override_self = true)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct Args {
    /// What to do, if it is not a check.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Probe server, a name or an address, or @FILE with one a line; may be repeated [default: $NAT_CHECK_SERVER]
    ///
    /// Several servers are asked together: results are merged and disagreements shown. Two with one address each tell whether
    /// the mapping depends on the destination; filtering takes one with two addresses. A name without a port is looked up as SRV
    /// (_stun-behavior._udp, then _stun._udp), then as an address with port 3478. An IPv6 address with a port is written
    /// in brackets: `[2001:db8::1]:3478`.
    #[arg(short, long = "server", value_name = "HOST[:PORT]", conflicts_with_all = ["local", "simulate"],
          help_heading = SERVERS)]
    pub servers: Vec<String>,

    /// Ask five well-known public STUN servers, chosen at random, a few packets each
    ///
    /// They tell mapping and port allocation, not filtering. The names are built in; --public=FILE takes them from a file with
    /// one server a line. They are strangers' machines, and learn this host's address.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
          conflicts_with_all = ["local", "simulate"], help_heading = SERVERS)]
    pub public: Option<Option<PathBuf>>,

    /// Use an embedded probe server on loopback: no setup needed; there is no NAT on this path
    #[arg(long, conflicts_with = "simulate", help_heading = SERVERS)]
    pub local: bool,

    /// Measure a simulated NAT: a name such as `symmetric`, or "mapping=apd,filtering=ad,ports=sequential"
    #[arg(long, value_name = "NAT", long_help = simulate_help(), help_heading = SERVERS)]
    pub simulate: Option<String>,

    /// Test IPv4 only
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6", help_heading = WHAT)]
    pub ipv4: bool,

    /// Test IPv6 only
    #[arg(short = '6', long = "ipv6", help_heading = WHAT)]
    pub ipv6: bool,

    /// Send from this local address; a port is used for the mapping test only
    #[arg(long, value_name = "IP[:PORT]", help_heading = WHAT)]
    pub bind: Option<String>,

    /// Run these tests only, and what they build on; --list names them
    #[arg(long, value_name = "TEST", value_delimiter = ',', help_heading = WHAT)]
    pub only: Vec<String>,

    /// Leave these tests out
    #[arg(long, value_name = "TEST", value_delimiter = ',', conflicts_with = "only", help_heading = WHAT)]
    pub skip: Vec<String>,

    /// Measure how long mappings live, up to this idle time [180 without a number]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "180", value_parser = seconds,
          help_heading = WHAT)]
    pub lifetime: Option<f64>,

    /// Measure how long idle TCP connections live, up to this time; s, m and h may follow a number [15m without one]
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "15m", value_parser = idle_time,
          help_heading = WHAT)]
    pub tcp_idle: Option<f64>,

    /// Have the gateway open ports (PCP, NAT-PMP, UPnP) for up to two minutes, test them from outside, close them again
    #[arg(long, help_heading = WHAT)]
    pub port_mapping: bool,

    /// The same through both routers, where two of your own translate addresses one after the other; the carrier's is never asked
    #[arg(long, help_heading = WHAT)]
    pub chain: bool,

    /// Measure through this proxy, too: socks5://HOST:PORT or socks5://USER:PASSWORD@HOST:PORT, socks4://, socks4a://, http://;
    /// those of the environment without a URL; may be repeated
    ///
    /// Connections, names, IPv6 and ports that it allows; through the relay of a SOCKS5 proxy the UDP measurements as well, beside
    /// those without it. A name is looked up here. Without --proxy, proxies that the environment names are told and not used.
    #[arg(long = "proxy", value_name = "URL", num_args = 0..=1, default_missing_value = "", conflicts_with = "simulate",
          help_heading = WHAT)]
    pub proxies: Vec<String>,

    /// Say which requirements of RFC 4787, 5382, 7857, 5508, 6888 and 6092 are met, by what is found; no packets of its own
    ///
    /// Timers are judged where --lifetime and --tcp-idle have measured them. --require checklist.4787.REQ-1=met asks for it, too.
    #[arg(long, help_heading = WHAT)]
    pub checklist: bool,

    /// All tests on request that take at most 15 s and change nothing that is not changed back: --port-mapping, --checklist
    #[arg(long, help_heading = WHAT)]
    pub all: bool,

    /// End after this time with what is known by then; --lifetime, --tcp-idle, --port-mapping, --chain and --proxy come on top [default: 15]
    #[arg(long, value_name = "SECONDS", value_parser = seconds, help_heading = WHAT)]
    pub timeout: Option<f64>,

    /// Random seed, for reproducible runs; transaction ids ignore it
    #[arg(long, value_name = "N", help_heading = WHAT)]
    pub seed: Option<u64>,

    /// List the tests and exit
    #[arg(long, help_heading = WHAT)]
    pub list: bool,

    /// Format of the report
    #[arg(long, value_name = "FORMAT", default_value = "table", overrides_with = "json",
          value_parser = PossibleValuesParser::new(render::names()), help_heading = OUTPUT)]
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

    /// Exit with 1 unless the report says so, e.g. hole-punching=most-peers; may be repeated
    ///
    /// CONDITION is KEY=VALUE, KEY!=VALUE, or, for numbers, one of KEY<N, KEY<=N, KEY>N, KEY>=N (to be quoted in a shell).
    /// KEY is a path in the JSON report, e.g. ipv4.udp.mapping=endpoint-independent or 'ipv4.udp.rtt_s<0.2'; a finding is
    /// compared by its value. What is not known meets no condition but KEY=null.
    ///
    /// hole-punching=LEVEL holds at that level or a better one (any-peer, most-peers, some-peers, none), and so do
    /// ipv4.hole-punching=LEVEL and ipv6.hole-punching=LEVEL; hole_punching.level=LEVEL holds at exactly that level.
    #[arg(long = "require", value_name = "CONDITION", help_heading = CI)]
    pub requires: Vec<String>,

    /// Print a man page, a shell completion or a JSON Schema and exit
    #[arg(long, value_name = "WHAT", exclusive = true, help_heading = OTHER)]
    pub generate: Option<Generate>,

    /// Print help: -h in short, --help in full
    #[arg(short, long, action = ArgAction::Help, help_heading = OTHER)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = OTHER)]
    version: Option<bool>,
}

/// What there is beside a check.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Try hole punching with a peer that uses the same code
    #[command(after_help = PUNCH.short(), after_long_help = PUNCH.long())]
    Punch(PunchArgs),
    /// Keep a port open at the gateway, tested from outside, until it is stopped
    #[command(after_help = MAP.short(), after_long_help = MAP.long())]
    Map(MapArgs),
    /// Meet several others in a room and show who reaches whom
    #[command(after_help = ROOM.short(), after_long_help = ROOM.long())]
    Room(RoomArgs),
}

/// What a punch takes.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct PunchArgs {
    /// Probe server where the two peers meet [default: $NAT_CHECK_SERVER]
    #[arg(short, long, value_name = "HOST[:PORT]", help_heading = SERVERS)]
    pub server: Option<String>,

    /// Use TLS (port from SRV, default 5349); the server's certificate is verified
    #[arg(long, value_name = "PORT", num_args = 0..=1, value_parser = clap::value_parser!(u16).range(1..),
          help_heading = SERVERS)]
    pub tls: Option<Option<u16>>,

    /// Do not use TLS, even where the server offers it and can prove itself
    #[arg(long, conflicts_with = "tls", help_heading = SERVERS)]
    pub no_tls: bool,

    /// Trust the certificates in this PEM file instead of the system's, e.g. a self-signed one
    #[arg(long, value_name = "FILE", requires = "tls", help_heading = SERVERS)]
    pub ca: Option<PathBuf>,

    /// Meet the peer and reach it through this proxy, which has to relay UDP: socks5://HOST:PORT or
    /// socks5://USER:PASSWORD@HOST:PORT
    #[arg(long, value_name = "URL", help_heading = WHAT)]
    pub proxy: Option<String>,

    /// The code or the link that the peer printed, or `-` to read it from standard input; without it, print one for the peer
    /// [default: $NAT_CHECK_CODE]
    #[arg(long, value_name = "CODE", help_heading = PEER)]
    pub code: Option<String>,

    /// Show the link for a browser as a QR code even where standard error is no terminal
    #[arg(long, help_heading = PEER)]
    pub qr: bool,

    /// How long to wait for the peer
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value_t = 60.0, help_heading = PEER)]
    pub wait: f64,

    /// How long to keep a direct path open; the shorter time of both sides counts
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value_t = 5.0, help_heading = PEER)]
    pub hold: f64,

    /// Try these only: lan, simultaneous, low-ttl, ipv6, prediction, tcp, birthday. The last one sends up to 2000
    /// packets and opens hundreds of mappings
    #[arg(long, value_name = "TECHNIQUE", value_delimiter = ',', help_heading = WHAT)]
    pub techniques: Vec<String>,

    /// Random seed, for reproducible runs; transaction ids ignore it
    #[arg(long, value_name = "N", help_heading = WHAT)]
    pub seed: Option<u64>,

    /// Format of the report
    #[arg(long, value_name = "FORMAT", default_value = "table", overrides_with = "json",
          value_parser = ["table", "json", "html"], help_heading = OUTPUT)]
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

/// What keeping a port open takes.
#[derive(Clone, Debug, clap::Args)]
pub struct MapArgs {
    /// The port of this host; the gateway is asked for the same one outside
    #[arg(value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,

    /// For UDP; without --udp and --tcp for both
    #[arg(long, help_heading = WHAT)]
    pub udp: bool,

    /// For TCP
    #[arg(long, help_heading = WHAT)]
    pub tcp: bool,

    /// Over IPv4, which is the default: a port of the gateway's external address
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6", help_heading = WHAT)]
    pub ipv4: bool,

    /// Over IPv6: a pinhole in the gateway's firewall to this host's own address
    #[arg(short = '6', long = "ipv6", help_heading = WHAT)]
    pub ipv6: bool,

    /// For how long; s, m and h may follow a number [default: until Ctrl-C]
    #[arg(long = "for", value_name = "TIME", value_parser = idle_time, help_heading = WHAT)]
    pub hold: Option<f64>,

    /// Probe server that tests from outside whether the port is reached [default: $NAT_CHECK_SERVER]
    #[arg(short, long, value_name = "HOST[:PORT]", help_heading = SERVERS)]
    pub server: Option<String>,

    /// A JSON object on one line for each thing that happens
    #[arg(long, overrides_with = "json", help_heading = OUTPUT)]
    pub json: bool,

    /// Nothing but what happens to the port; of -q and -v the last one counts
    #[arg(short, long, overrides_with = "verbose", help_heading = OUTPUT)]
    pub quiet: bool,

    /// Log lines, where it is given twice: -vv
    #[arg(short, long, action = ArgAction::Count, overrides_with = "quiet", help_heading = OUTPUT)]
    pub verbose: u8,

    /// Print help: -h in short, --help in full
    #[arg(short, long, action = ArgAction::Help, help_heading = OTHER)]
    help: Option<bool>,
}

/// What makes sense is for [`crate::plan`] to decide.
fn seconds(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "not a number of seconds")
}

/// Seconds, or numbers with units: `900`, `15m`, `2h04m`.
fn idle_time(text: &str) -> Result<f64, &'static str> {
    const WRONG: &str = "not a time such as 900, 15m or 2h04m";
    let (mut seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let count: f64 = rest[..end].parse().map_err(|_| WRONG)?;
        let mut after = rest[end..].chars();
        let unit = match after.next() {
            None | Some('s') => 1.0,
            Some('m') => 60.0,
            Some('h') => 3600.0,
            Some(_) => return Err(WRONG),
        };
        seconds += count * unit;
        rest = after.as_str();
    }
    if text.is_empty() { Err(WRONG) } else { Ok(seconds) }
}

fn simulate_help() -> String {
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    format!(
        "Measure a simulated NAT: a name, settings such as \"mapping=apd,filtering=ad,ports=sequential\", or a name \
         with settings (\"linux,stream=60\"). Nested NATs are joined by `+`, the innermost first: \
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
    /// The manual page nat-check-map(1)
    MapMan,
    /// The manual page nat-check-room(1)
    RoomMan,
    /// The JSON Schema of the report
    Schema,
    /// The JSON Schema of the report of a punch
    PunchSchema,
    /// The JSON Schema of the report of a room
    RoomSchema,
    /// What hole punching is worth by behaviour: the table of probe-server's page
    Prospects,
    /// What comes of two browsers by behaviour: a table of probe-server's page
    BrowserPairs,
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parsed(line: &str) -> Args {
        Args::try_parse_from(std::iter::once("nat-check").chain(line.split_whitespace())).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn an_optional_value_may_stand_behind_a_space_or_an_equals_sign() {
        assert_eq!(parsed("--lifetime").lifetime, Some(180.0));
        assert_eq!(parsed("--lifetime=300").lifetime, Some(300.0));
        assert_eq!(parsed("--lifetime 300 --json").lifetime, Some(300.0));
        assert_eq!(parsed("--lifetime --json").lifetime, Some(180.0));
        assert_eq!(parsed("--json").lifetime, None);
        assert_eq!(parsed("--tcp-idle").tcp_idle, Some(900.0));
        assert_eq!(parsed("--tcp-idle=2h04m").tcp_idle, Some(7440.0));
        assert_eq!(parsed("--tcp-idle 90 --json").tcp_idle, Some(90.0));
        let tls = |line: &str| match parsed(line).command {
            Some(Command::Punch(punch)) => punch.tls,
            Some(Command::Map(_) | Command::Room(_)) | None => panic!("no punch"),
        };
        assert_eq!(tls("punch --tls"), Some(None));
        assert_eq!(tls("punch --tls=444"), Some(Some(444)));
        assert_eq!(tls("punch --tls 444 --json"), Some(Some(444)));
    }

    #[test]
    fn the_list_of_public_servers_stands_behind_an_equals_sign() {
        assert_eq!(parsed("--public --json").public, Some(None));
        assert_eq!(parsed("--public=list.txt").public, Some(Some("list.txt".into())));
        assert_eq!(parsed("").public, None);
    }

    #[test]
    fn what_is_repeated_counts_once_and_the_last_of_two_opposites_wins() {
        let loudness = |line: &str| (parsed(line).quiet, parsed(line).verbose);
        assert_eq!(loudness("-q -q"), (true, 0));
        assert_eq!(loudness("-q -v"), (false, 1));
        assert_eq!(loudness("-v -q"), (true, 0));
        assert_eq!(loudness("-v -q -vv"), (false, 2));
        assert_eq!(parsed("--timeout 1 --timeout 2").timeout, Some(2.0));
        assert_eq!(parsed("--server a --server b").servers, ["a", "b"]);
        let format = |line: &str| (parsed(line).json, parsed(line).format);
        assert_eq!(format("--json --format line"), (false, "line".into()));
        assert!(format("--format line --json").0);
        let Some(Command::Punch(punch)) = parsed("punch -q -q -v --json --json").command else {
            panic!("no punch")
        };
        assert_eq!((punch.quiet, punch.verbose, punch.json), (false, 1, true));
    }
}
