//! `nat-check punch`: its command line, checked and completed.

use std::time::Duration;

use shared::rendezvous::{Code, Technique};

use super::PunchSetup;
use crate::{
    args::PunchArgs,
    plan::{UsageError, Verbosity},
    resolve::Query,
};

/// An attempt, ready to go.
#[derive(Clone, Debug)]
pub struct PunchPlan {
    /// The probe server that introduces.
    pub server: Query,
    /// What is to be tried.
    pub setup: PunchSetup,
    /// Whether the report is JSON.
    pub json: bool,
    /// How much is told besides the report.
    pub verbosity: Verbosity,
}

/// What a plan needs to know beside the command line.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// NAT_CHECK_SERVER, if it is set.
    pub server: Option<&'a str>,
    /// The seed, where none is given.
    pub seed: u64,
    /// Random bytes that nobody can predict.
    pub nonce: [u8; 16],
}

impl PunchPlan {
    /// Checks and completes the command line.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(args: &PunchArgs, around: Around<'_>) -> Result<Self, UsageError> {
        let given = args.server.as_deref().or(around.server.filter(|server| !server.is_empty()));
        let value = given.ok_or(UsageError::NoRendezvous)?;
        let server = Query::parse(value)
            .map_err(|reason| UsageError::Server { value: value.to_owned(), reason: reason.to_string() })?;
        let code: Option<Code> = match &args.code {
            Some(code) => Some(code.parse().map_err(|e| UsageError::Code(format!("{e}")))?),
            None => None,
        };
        let techniques = match args.techniques.as_slice() {
            [] => Technique::ALL.to_vec(),
            named => {
                named.iter().map(|n| n.parse().map_err(UsageError::Technique)).collect::<Result<_, _>>()?
            }
        };
        let setup = PunchSetup {
            code,
            wait: seconds("wait", args.wait, 600)?,
            hold: seconds("hold", args.hold, 3600)?,
            techniques,
            seed: args.seed.unwrap_or(around.seed),
            nonce: around.nonce,
            ..PunchSetup::default()
        };
        let verbosity = match (args.quiet, args.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, 1) => Verbosity::Evidence,
            (false, _) => Verbosity::Logs,
        };
        Ok(Self { server, setup, json: args.json, verbosity })
    }
}

fn seconds(flag: &'static str, value: f64, max: u32) -> Result<Duration, UsageError> {
    if (0.0..=f64::from(max)).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(UsageError::Seconds { flag, value: value.to_string(), min: 0, max })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn plan(argv: &[&str]) -> Result<PunchPlan, UsageError> {
        let argv = [&["nat-check", "punch"], argv].concat();
        let Some(Command::Punch(args)) = Args::try_parse_from(argv).unwrap().command else {
            panic!("no punch")
        };
        PunchPlan::new(&args, Around { server: None, seed: 1, nonce: [0; 16] })
    }

    #[test]
    fn what_is_given_is_taken_and_what_is_wrong_is_named() {
        let given = [
            "--server",
            "probe.example",
            "--code",
            "TABO kiru lama dosu",
            "--techniques",
            "lan,tcp",
            "--wait=5",
        ];
        let made = plan(&given).unwrap();
        assert_eq!(made.setup.code.unwrap().to_string(), Code::EXAMPLE);
        assert_eq!(made.setup.techniques, [Technique::Lan, Technique::Tcp]);
        assert_eq!(made.setup.wait, Duration::from_secs(5));
        let wrong = |argv: &[&str]| plan(argv).unwrap_err().to_string();
        assert!(wrong(&[]).contains("--server"));
        assert!(wrong(&["--server", "x", "--code", "abc"]).contains("`abc`"));
        assert!(wrong(&["--server", "x", "--techniques", "magic"]).contains("`magic`"));
        assert!(wrong(&["--server", "x", "--hold", "1e9"]).contains("--hold"));
        assert!(wrong(&["--server", "x", "--wait=-1"]).contains("--wait"));
    }
}
