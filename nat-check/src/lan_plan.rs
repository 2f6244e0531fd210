//! `nat-check lan`: its command line, checked and completed.

use std::time::Duration;

use nat_check_core::lan::{LanSetup, PORT};

use crate::{
    args::LanArgs,
    usage::{self, UsageError, Verbosity},
};

/// A look at the local network, ready to go.
#[derive(Clone, Debug)]
pub struct LanPlan {
    /// How long, and whom besides.
    pub setup: LanSetup,
    /// Whether the report is JSON.
    pub json: bool,
    /// How much is told.
    pub verbosity: Verbosity,
}

/// Longest time, in seconds.
const LONGEST_S: f64 = 3600.0;
/// Hosts that may be named.
const MOST_PEERS: usize = 16;

impl LanPlan {
    /// Checks and completes the command line.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(args: &LanArgs) -> Result<Self, UsageError> {
        let hold = args.hold.map(|time| usage::seconds("hold", time, 1.0, LONGEST_S)).transpose()?;
        if let Some(peer) = args.peers.iter().find(|peer| !peer.is_private()) {
            return Err(UsageError::value("peer", peer, "not a private address"));
        }
        if let Some(peer) = args.peers.get(MOST_PEERS) {
            return Err(UsageError::value("peer", peer, format!("more than {MOST_PEERS} hosts")));
        }
        Ok(Self {
            setup: LanSetup {
                wait: usage::seconds("wait", args.wait, 0.0, LONGEST_S)?,
                hold: hold.unwrap_or(Duration::ZERO),
                peers: args.peers.clone(),
                port: PORT,
            },
            json: args.json || args.format == "json",
            verbosity: Verbosity::new(args.quiet, args.verbose),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn plan(line: &str) -> Result<LanPlan, UsageError> {
        let argv = ["nat-check", "lan"].into_iter().chain(line.split_whitespace());
        let Some(Command::Lan(args)) = Args::try_parse_from(argv).unwrap().command else { panic!("{line}") };
        LanPlan::new(&args)
    }

    #[test]
    fn times_and_peers_are_taken() {
        let alone = plan("").unwrap();
        assert_eq!((alone.setup.wait, alone.setup.hold), (Duration::from_secs(2), Duration::ZERO));
        assert!(!alone.json && plan("--json").unwrap().json && plan("--format json").unwrap().json);
        let long = plan("--hold 5m30s --wait 60 --peer 192.168.1.7 --peer 10.0.0.1").unwrap();
        assert_eq!((long.setup.wait, long.setup.hold), (Duration::from_secs(60), Duration::from_secs(330)));
        assert_eq!(long.setup.peers.len(), 2);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for wrong in ["--hold 0", "--hold 2h", "--wait 3601", "--peer 8.8.8.8", "--peer 224.0.0.1"] {
            assert!(plan(wrong).unwrap_err().to_string().contains("--"), "{wrong}");
        }
        assert!(plan(&"--peer 10.0.0.1 ".repeat(17)).is_err());
        assert!(Args::try_parse_from(["nat-check", "lan", "--peer", "printer"]).is_err());
    }
}
