//! Runs `nat-check` on a host and reads its report.

use std::{env, net::IpAddr, time::Duration};

use serde_json::{Value, json};
use shared::nat::model::{Behaviour, Stack};

use crate::{
    LabError,
    binaries::binary,
    harness,
    host::Host,
    process::Output,
    requirements::{self, Held},
};

/// Far longer than a run takes, so that a busy machine fails no test.
const PATIENCE: Duration = Duration::from_secs(90);

/// The outcome of a run of the client.
#[derive(Clone, Debug)]
pub struct ClientRun {
    /// Its exit code and outputs.
    pub output: Output,
    /// The report, or null where there is none.
    pub report: Value,
    v6: bool,
}

/// Runs `nat-check --json` on a host against the server at this address, with further arguments.
///
/// # Errors
/// When it cannot be started or does not end.
pub fn nat_check(host: &Host, server: IpAddr, arguments: &[&str]) -> Result<ClientRun, LabError> {
    nat_check_within(PATIENCE, host, server, arguments)
}

/// The same, for what takes longer than usual.
///
/// # Errors
/// When it cannot be started or does not end by then.
pub fn nat_check_within(
    patience: Duration,
    host: &Host,
    server: IpAddr,
    arguments: &[&str],
) -> Result<ClientRun, LabError> {
    let server_argument = format!("--server={server}");
    let arguments: Vec<&str> =
        [server_argument.as_str()].into_iter().chain(arguments.iter().copied()).collect();
    let output = json_of(patience, host, &arguments)?;
    let report = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
    Ok(ClientRun { output, report, v6: server.is_ipv6() })
}

/// Runs `nat-check --json` on a host with these arguments. With the environment variable `SHOW_REPORTS` set the report for
/// people is printed, too, by a run of its own before.
///
/// # Errors
/// When it cannot be started or does not end by then.
pub fn json_of(patience: Duration, host: &Host, arguments: &[&str]) -> Result<Output, LabError> {
    let run = |format| host.command(binary("nat-check")?).args([format]).args(arguments).output(patience);
    if env::var_os("SHOW_REPORTS").is_some() {
        println!("nat-check {}\n{}", arguments.join(" "), run("--format=table")?.stdout);
    }
    run("--json")
}

impl ClientRun {
    /// The part of the report about the family of the server's address.
    #[must_use]
    pub fn family(&self) -> &Value {
        &self.report[if self.v6 { "ipv6" } else { "ipv4" }]
    }

    /// The value of a finding about UDP, as text: `mapping`, `filtering`, `nat_type`.
    #[must_use]
    pub fn finding(&self, name: &str) -> Option<&str> {
        self.family()["udp"][name]["value"].as_str()
    }

    /// Checks what follows from the report for the requirements of the RFCs against what these NATs do.
    ///
    /// # Panics
    /// When it is no report, or says of a requirement that it is met and it is not, or the other way round.
    pub fn must_judge(&self, nats: &Stack) {
        let report = serde_json::from_value(self.report.clone()).expect("a report");
        let Held { wrong, .. } = requirements::hold(nats, &report);
        assert!(wrong.is_empty(), "{}", wrong.join("; "));
    }

    /// Checks mapping, filtering and classic name in the report, as [`harness::shows`] does.
    ///
    /// # Panics
    /// When the report surely has others.
    pub fn must_say(&self, expected: &Behaviour) {
        assert_eq!(self.output.code, 0, "exit code; {}", self.output.stderr);
        assert_eq!(self.family()["status"], "tested", "{}", self.family());
        let udp = &self.family()["udp"];
        if let Some(expected) = &expected.udp {
            harness::shows(&udp["mapping"], &json!(expected.mapping));
            harness::shows(&udp["filtering"], &json!(expected.filtering));
        }
        harness::shows(&udp["nat_type"], &json!(expected.nat_type));
    }
}
