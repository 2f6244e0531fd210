//! Scenarios as data: a NAT, a network, a server, and the expected part of the report. Each is a file in
//! `tests/scenarios/`; adding a scenario is adding a file.
//!
//! ```toml
//! about = "Linux masquerade that drops unsolicited packets"
//! nat = "linux"                     # or several, innermost first: ["linux", "carrier"]
//! drivers = ["sim", "tun", "kernel"] # drivers that support it
//!
//! [network]                          # all optional
//! delay_ms = 10
//! loss = 0.05                        # or { rate = 0.05, burst = 5 }
//!
//! [client]                           # optional
//! port_mapping = true                # asked for besides what runs by default
//!
//! [server]                           # optional
//! faults = ["alternate-dead", { slow = 0.3 }]
//!
//! [report]                           # paths and values of the JSON report; "unknown" = no value, "unsure" = at most weak
//! ipv4.udp.mapping = "endpoint-independent"
//! ```

use std::{fs, path::PathBuf, time::Duration};

use nat_check_core::net::sim::{Fault, Loss, PathSpec};
use serde::Deserialize;
use shared::nat::model::Stack;

/// A scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The name of its file.
    #[serde(skip)]
    pub name: String,
    /// What it is, in a line.
    pub about: String,
    /// The NATs, innermost first.
    pub nat: Stack,
    /// The drivers that support it.
    pub drivers: Vec<Driver>,
    /// The line between the NAT and the Internet.
    #[serde(default)]
    pub network: Network,
    /// What the client is asked for.
    #[serde(default)]
    pub client: ClientSide,
    /// The server.
    #[serde(default)]
    pub server: ServerSide,
    /// The expected part of the report.
    pub report: toml::Table,
}

/// The three ways to build a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Driver {
    /// In memory, in virtual time.
    Sim,
    /// The same model between network namespaces.
    Tun,
    /// The kernel's own NAT.
    Kernel,
}

/// The line between the NAT and the Internet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// One way, in milliseconds.
    pub delay_ms: f64,
    /// Random addition to it.
    pub jitter_ms: f64,
    /// Loss in each direction.
    pub loss: LossSpec,
    /// Share of packets that are reordered.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// How long nothing passes after the first packet, in milliseconds.
    pub dark_ms: f64,
    /// Kilobits a second that the uplink passes.
    pub uplink_kbit: Option<u32>,
    /// Packets a second that are let out.
    pub policed: Option<u32>,
    /// The port that a firewall lets out alone; only the simulated driver has it.
    pub only_port: Option<u16>,
    /// Whether host and server have IPv6, too.
    pub ipv6: bool,
}

impl Default for Network {
    fn default() -> Self {
        let loss = LossSpec::Independent(0.0);
        Self {
            delay_ms: 10.0,
            jitter_ms: 0.0,
            loss,
            reorder: 0.0,
            duplicate: 0.0,
            dark_ms: 0.0,
            uplink_kbit: None,
            policed: None,
            only_port: None,
            ipv6: false,
        }
    }
}

/// Loss, as a share or as a share in bursts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub enum LossSpec {
    /// Each packet by itself.
    Independent(f64),
    /// In bursts of this mean length.
    Bursty {
        /// Share of packets lost.
        rate: f64,
        /// Mean number in a row.
        burst: f64,
    },
}

/// The client.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientSide {
    /// Whether ports are opened at the gateway and tested.
    pub port_mapping: bool,
}

/// The probe server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSide {
    /// Its faults.
    pub faults: Vec<Fault>,
}

impl Network {
    /// The line in the terms of the simulation and the user-space driver.
    #[must_use]
    pub fn path(&self) -> PathSpec {
        let millis = |ms: f64| Duration::from_secs_f64(ms / 1000.0);
        let loss = match self.loss {
            LossSpec::Independent(0.0) => Loss::None,
            LossSpec::Independent(rate) => Loss::Independent(rate),
            LossSpec::Bursty { rate, burst } => Loss::Bursty { rate, burst },
        };
        PathSpec {
            delay: millis(self.delay_ms),
            jitter: millis(self.jitter_ms),
            reorder: self.reorder,
            duplicate: self.duplicate,
            uplink_bits_per_s: self.uplink_kbit.map(|kbit| kbit * 1000),
            policed_per_s: self.policed,
            dark: millis(self.dark_ms),
            only_port: self.only_port,
            ..PathSpec::default().with_loss(loss)
        }
    }

    /// Whether packets get lost.
    #[must_use]
    pub fn loses(&self) -> bool {
        self.path().loss_up != Loss::None
    }
}

impl Scenario {
    /// Reads one from the text of its file.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where.
    pub fn read(name: &str, text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|e| format!("{name}: {e}"))?;
        if scenario.report.is_empty() {
            return Err(format!("{name}: [report] is empty: nothing could ever be wrong"));
        }
        if scenario.drivers.is_empty() {
            return Err(format!("{name}: no driver would run it"));
        }
        Ok(Self { name: name.to_owned(), ..scenario })
    }

    /// All scenarios, in the order of their names.
    ///
    /// # Errors
    /// The first file that cannot be read, with the reason.
    pub fn all() -> Result<Vec<Self>, String> {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let told = |e: std::io::Error| format!("{}: {e}", folder.display());
        let mut files: Vec<PathBuf> = fs::read_dir(&folder)
            .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect())
            .map_err(told)?;
        files.retain(|file| file.extension().is_some_and(|e| e == "toml"));
        files.sort();
        files
            .iter()
            .map(|file| {
                let name = file.file_stem().unwrap_or_default().to_string_lossy();
                Self::read(&name, &fs::read_to_string(file).map_err(told)?)
            })
            .collect()
    }

    /// Those that a driver supports.
    ///
    /// # Errors
    /// As [`Scenario::all`].
    pub fn for_driver(driver: Driver) -> Result<Vec<Self>, String> {
        let mut all = Self::all()?;
        all.retain(|scenario| scenario.drivers.contains(&driver));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "about = \"x\"\nnat = \"linux\"\ndrivers = [\"sim\"]\n[report]\nipv4.udp.alg = false\n";

    #[test]
    fn a_mistake_in_a_file_is_named() {
        assert!(Scenario::read("good", GOOD).is_ok());
        let error = |from: &str, to: &str| Scenario::read("bad", &GOOD.replace(from, to)).expect_err(to);
        assert!(error("linux", "linus").contains("linux-random"), "{}", error("linux", "linus"));
        assert!(error("about", "abuot").contains("abuot"));
        assert!(error("sim", "smi").contains("kernel"));
        assert!(error("ipv4.udp.alg = false", "").contains("empty"));
        assert!(error("[report]", "[network]\ndelay = 3\n[report]").contains("delay_ms"));
        assert!(error("[report]", "[server]\nfaults = [\"rude\"]\n[report]").contains("change-ignored"));
    }

    #[test]
    fn a_table_describes_a_nat_as_well_as_a_text_does() {
        let table = "nat = { like = \"linux\", stream = 60, inbound-first = true }";
        let scenario = Scenario::read("table", &GOOD.replace("nat = \"linux\"", table)).expect("scenario");
        assert_eq!(Ok(scenario.nat), "linux,stream=60,inbound-first=yes".parse());
    }
}
