//! What help and manual pages tell beside the options: exit codes, environment, examples. One table for both.

/// The end of a help text or of a manual page.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    /// Exit codes and what they mean.
    pub exit_status: &'static [(&'static str, &'static str)],
    /// Environment variables and what they do.
    pub environment: &'static [(&'static str, &'static str)],
    /// Command lines and what they are for.
    pub examples: &'static [(&'static str, &'static str)],
}

/// `nat-check`.
pub const CHECK: Reference = Reference {
    exit_status: &[
        ("0", "the report is complete, whatever the NAT is"),
        ("1", "a --require does not hold, or the report could not be written"),
        ("2", "usage error"),
        ("3", "no probe server could be reached over any transport, or its name did not resolve"),
        ("130", "interrupted (143: by SIGTERM): the report is partial; a second signal ends at once"),
    ],
    environment: &[
        ("NAT_CHECK_SERVER", "the probe server, if there is neither --server nor --public"),
        ("NAT_CHECK_CODE", "the peer's code of punch, if there is no --code"),
        ("COLUMNS", "width of the report; 40 to 120"),
        ("NO_COLOR", "no colour, even on a terminal"),
        ("CLICOLOR_FORCE", "colour, even if it is not a terminal"),
        ("RUST_LOG", "which log lines -vv shows, e.g. nat_check_core=trace"),
        // Last, as the other commands leave it out.
        ("ALL_PROXY, HTTPS_PROXY, http_proxy, NO_PROXY", "proxies, which the report names and --proxy uses"),
    ],
    examples: &[
        ("nat-check --local", "a first try, without any setup"),
        ("nat-check --server probe.example.org", "this network, asked about by a probe server"),
        ("nat-check --public", "this network, asked about by public STUN servers"),
        ("nat-check --simulate symmetric", "what the report of a symmetric NAT looks like"),
        ("nat-check --lifetime 120 --only lifetime", "how long mappings live, up to two minutes idle"),
        ("nat-check --proxy socks5://127.0.0.1:1080", "what a proxy lets through, beside the way without it"),
        ("nat-check --json | jq -r .hole_punching.level", "one value, for a script"),
        ("nat-check --require hole-punching=most-peers --require 'ipv4.udp.rtt_s<0.2'", "a check for CI"),
    ],
};

/// What all commands read from the environment: all but the proxies.
const ENVIRONMENT_OF_ALL: &[(&str, &str)] = match CHECK.environment {
    [of_all @ .., _proxies] => of_all,
    [] => &[],
};

/// `nat-check map`.
pub const MAP: Reference = Reference {
    exit_status: &[
        ("0", "the time is over, and the port is closed"),
        ("1", "no gateway has opened the port"),
        ("2", "usage error"),
        ("3", "the name of the probe server did not resolve"),
        ("130", "interrupted (143: by SIGTERM): the port is closed; a second signal ends at once"),
    ],
    environment: ENVIRONMENT_OF_ALL,
    examples: &[
        ("nat-check map 42000 --server probe.example.org", "open for UDP and TCP, tested from outside"),
        ("nat-check map 8080 --tcp --for 2h", "TCP alone, for two hours"),
        ("nat-check map 42000 -6", "a pinhole in the firewall for IPv6"),
    ],
};

/// `nat-check punch`.
pub const PUNCH: Reference = Reference {
    exit_status: &[
        ("0", "there is a direct path"),
        ("1", "there is none, or the report could not be written"),
        ("2", "usage error"),
        ("3", "no server could be reached, or no peer came"),
        ("130", "interrupted (143: by SIGTERM)"),
    ],
    environment: ENVIRONMENT_OF_ALL,
    examples: &[
        ("nat-check punch --server probe.example.org", "on the first machine: prints a code"),
        ("nat-check punch --server probe.example.org --code CODE", "on the second machine, with that code"),
        (
            "nat-check punch --server probe.example.org --tls --ca server.pem",
            "over TLS, self-signed certificate",
        ),
    ],
};

/// `nat-check room`.
pub const ROOM: Reference = Reference {
    exit_status: &[
        ("0", "every two members reach each other directly"),
        ("1", "not all do, or it is not known, or too few came; or the report could not be written"),
        ("2", "usage error"),
        ("3", "no server could be reached, it has no such room, or nobody else came"),
        ("130", "interrupted (143: by SIGTERM): the report shows what is known"),
    ],
    environment: ENVIRONMENT_OF_ALL,
    examples: &[
        ("nat-check room --server probe.example.org", "on the first machine: prints the name of a new room"),
        (
            "nat-check room NAME --server probe.example.org --as berlin",
            "on every other machine, with that name",
        ),
        (
            "nat-check room NAME --server probe.example.org --members 8 --json",
            "a test fleet of 8, for a script",
        ),
    ],
};

impl Reference {
    /// For `-h`.
    #[must_use]
    pub fn short(&self) -> String {
        section("Exit codes", self.exit_status)
    }

    /// For `--help`.
    #[must_use]
    pub fn long(&self) -> String {
        let mut text = String::from("Examples:\n");
        for (command, purpose) in self.examples {
            text += &format!("  # {purpose}\n  {command}\n");
        }
        text + "\n" + &section("Environment", self.environment) + "\n\n" + &self.short()
    }
}

fn section(heading: &str, entries: &[(&str, &str)]) -> String {
    let width = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = entries.iter().map(|(name, text)| format!("  {name:<width$}  {text}")).collect();
    format!("{heading}:\n{}", lines.join("\n"))
}
