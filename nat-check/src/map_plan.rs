//! `nat-check map`: its command line, checked and completed.

use std::time::Duration;

use nat_check_core::{
    port_mapping::{Transport, keep::Kept},
    resolve::Query,
};

use crate::{
    args::MapArgs,
    usage::{self, UsageError, Verbosity},
};

/// What is to be kept open, and who tests it.
#[derive(Clone, Debug)]
pub struct MapPlan {
    /// The port; its server is not looked up yet.
    pub kept: Kept,
    /// The probe server; none = it is not tested.
    pub server: Option<Query>,
    /// Whether what happens is told as JSON.
    pub json: bool,
    /// How much is told.
    pub verbosity: Verbosity,
}

/// More than a week is a typing error.
const LONGEST_S: f64 = 604_800.0;

impl MapPlan {
    /// Checks and completes the command line.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(args: &MapArgs, from_environment: Option<&str>) -> Result<Self, UsageError> {
        let server = args.server.as_deref().or(from_environment.filter(|server| !server.is_empty()));
        let transports = match (args.udp, args.tcp) {
            (true, false) => vec![Transport::Udp],
            (false, true) => vec![Transport::Tcp],
            (true, true) | (false, false) => Transport::ALL.to_vec(),
        };
        let hold: Option<Duration> =
            args.hold.map(|seconds| usage::seconds("for", seconds, 1.0, LONGEST_S)).transpose()?;
        Ok(Self {
            kept: Kept { port: args.port, transports, hold, over_ipv6: args.ipv6, server: None },
            server: server.map(usage::server).transpose()?,
            json: args.json,
            verbosity: Verbosity::new(args.quiet, args.verbose),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn plan(line: &str, environment: Option<&str>) -> Result<MapPlan, UsageError> {
        let argv = ["nat-check", "map"].into_iter().chain(line.split_whitespace());
        let Some(Command::Map(args)) = Args::try_parse_from(argv).unwrap().command else { panic!("{line}") };
        MapPlan::new(&args, environment)
    }

    #[test]
    fn a_port_is_enough() {
        let port = plan("42000", Some("probe.example.org")).unwrap();
        assert_eq!((port.kept.port, port.kept.hold, port.json), (42_000, None, false));
        assert!(plan("42000 --json --json", None).unwrap().json);
        assert!(!port.kept.over_ipv6 && plan("42000 -6", None).unwrap().kept.over_ipv6);
        assert_eq!(port.kept.transports, Transport::ALL);
        assert_eq!(port.server, Some(Query::parse("probe.example.org").unwrap()));
        let tcp = plan("42000 --tcp --for 2h -s a.example", Some("b.example")).unwrap();
        assert_eq!(
            (tcp.kept.transports, tcp.kept.hold),
            (vec![Transport::Tcp], Some(Duration::from_secs(7200)))
        );
        assert_eq!(tcp.server, Some(Query::parse("a.example").unwrap()));
        assert_eq!(plan("42000", Some("")).unwrap().server, None);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert!(plan("42000 --for 0", None).unwrap_err().to_string().contains("--for 0"));
        assert!(Args::try_parse_from(["nat-check", "map", "42000", "-4", "-6"]).is_err());
        assert!(Args::try_parse_from(["nat-check", "map", "0"]).is_err());
        assert!(Args::try_parse_from(["nat-check", "map", "70000"]).is_err());
    }
}
