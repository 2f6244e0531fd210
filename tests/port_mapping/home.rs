//! A home router of the kernel's NAT, on which a daemon may open ports: miniupnpd (Debian's 2.3.1), or one of a test.

use std::{net::IpAddr, path::Path, time::Duration};

use natlab::{
    Lab, LabError,
    address::{SERVER4, SERVER6},
    binaries::binary,
    client::{ClientRun, nat_check},
    harness,
    netns::Namespace,
    process::Running,
};
use serde_json::Value;
use shared::nat::model::SpecError;
use tempfile::TempDir;
use tokio::time::Instant;

/// Far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The router's address on the local network.
pub(crate) const GATEWAY: &str = "192.168.77.1";
/// Between two looks at something that nobody tells of.
const LOOK: Duration = Duration::from_millis(20);

/// The network: a host, its router or two in a row, the Internet with the probe server.
pub(crate) struct Home {
    // Programs end before the networks that they run in.
    daemons: Vec<(Running, TempDir)>,
    _server: Running,
    pub(crate) lab: Lab,
}

impl Home {
    /// A home router with a public address. It takes ranges that are not for documents: miniupnpd opens no ports on those.
    pub(crate) fn new() -> Result<Self, LabError> {
        Self::with_address("5.5.5.1", "5.5.5.254")
    }

    /// The same with this external address and this next hop.
    pub(crate) fn with_address(address: &str, next: &str) -> Result<Self, LabError> {
        let nat = "linux".parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        let lab = Lab::kernel(&[nat])?;
        let [core, router, ..] = lab.routers() else {
            return Err(LabError::Words("a laboratory without routers".into()));
        };
        core.ip(&format!("addr add {next}/24 dev wan\n"))?;
        router.ip(&format!(
            "addr add {address}/24 dev wan\nroute replace default via {next}\naddr del 203.0.113.1/32 dev wan\n"
        ))?;
        router.nft(RULES)?;
        let server = lab.server()?;
        Ok(Self { lab, _server: server, daemons: Vec::new() })
    }

    /// Two routers in a row, with this network between them: the outer one's address there, and the inner one's.
    pub(crate) fn double([between, inside]: [&str; 2]) -> Result<Self, LabError> {
        let nat = "linux+linux".parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        let lab = Lab::kernel(&[nat])?;
        let [core, outer, inner] = lab.routers() else {
            return Err(LabError::Words("a laboratory without two routers".into()));
        };
        core.ip("addr add 5.5.5.254/24 dev wan\n")?;
        outer.ip(&format!(
            "addr add 5.5.5.1/24 dev wan\nroute replace default via 5.5.5.254\naddr del 203.0.113.1/32 dev wan\n\
             addr flush dev lan scope global\naddr add {between}/24 dev lan\n"
        ))?;
        inner.ip(&format!(
            "addr add {inside}/24 dev wan\nroute replace default via {between} src {inside}\n\
             addr del 100.64.0.2/32 dev wan\n"
        ))?;
        outer.nft(RULES)?;
        inner.nft(RULES)?;
        let server = lab.server()?;
        Ok(Self { lab, _server: server, daemons: Vec::new() })
    }

    /// The router of the host's own network.
    pub(crate) fn router(&self) -> &Namespace {
        &self.lab.routers()[self.lab.routers().len() - 1]
    }

    /// The router that faces the Internet: of one the same.
    pub(crate) fn outer(&self) -> &Namespace {
        &self.lab.routers()[1]
    }

    /// Starts miniupnpd on the router, with further settings.
    pub(crate) fn with_miniupnpd(mut self, settings: &str) -> Result<Self, LabError> {
        let daemon = miniupnpd(self.router(), settings)?;
        self.daemons.push(daemon);
        Ok(self)
    }

    /// The same on the outer router.
    pub(crate) fn with_outer_miniupnpd(mut self) -> Result<Self, LabError> {
        let daemon = miniupnpd(self.outer(), "")?;
        self.daemons.push(daemon);
        Ok(self)
    }

    /// Measures port mapping alone, over IPv6.
    pub(crate) fn measure_over_ipv6(&self) -> Result<ClientRun, LabError> {
        nat_check(self.lab.host(0), SERVER6[0].into(), &["-6", "--only", "port-mapping"])
    }

    /// Measures port mapping alone.
    pub(crate) fn measure(&self, more: &[&str]) -> Result<ClientRun, LabError> {
        let arguments = [&["-4", "--only", "port-mapping"], more].concat();
        nat_check(self.lab.host(0), SERVER4[0].into(), &arguments)
    }

    /// The same, and leaves it running.
    pub(crate) fn start(&self, more: &[&str]) -> Result<Running, LabError> {
        let server = SERVER4[0].to_string();
        let client = self.lab.host(0).command(binary("nat-check")?);
        client.args(["--json", "--server", &server, "-4", "--only", "port-mapping"]).args(more).start()
    }

    /// Starts `nat-check map`.
    pub(crate) fn map(&self, arguments: &[&str]) -> Result<Running, LabError> {
        self.map_tested_by(SERVER4[0].into(), arguments)
    }

    /// The same, with the server at this address.
    pub(crate) fn map_tested_by(&self, server: IpAddr, arguments: &[&str]) -> Result<Running, LabError> {
        let client = self.lab.host(0).command(binary("nat-check")?);
        client.args(["map", "--server", &server.to_string()]).args(arguments).start()
    }

    /// The rules of all routers.
    pub(crate) fn rules(&self) -> Result<String, LabError> {
        let rules = |router: &Namespace| router.command("nft").args(["list", "ruleset"]).output(PATIENCE);
        let of_all: Result<Vec<_>, LabError> = self.lab.routers()[1..].iter().map(rules).collect();
        Ok(of_all?.into_iter().map(|output| output.stdout).collect())
    }

    /// From now on nobody outside gets through a mapping, so that each stays open for as long as silence takes to be decided.
    pub(crate) fn let_nobody_through_mappings(&self) -> Result<(), LabError> {
        self.outer().nft("insert rule inet filter forward iifname \"wan\" ct status dnat drop\n")
    }

    /// Waits until the client has opened something that the rules show so.
    pub(crate) fn until_opened(&self, client: &Running, rule: &str) -> Result<(), LabError> {
        // The kernel tells nobody in a way that is worth it here.
        while !self.rules()?.contains(rule) {
            if client.ends_within(LOOK)? {
                return Err(LabError::Words(format!("it opened nothing: {}", client.printed())));
            }
        }
        Ok(())
    }

    /// Waits until the rules are such, for so long at the most.
    pub(crate) fn until_rules(
        &self,
        within: Duration,
        are: impl Fn(&str) -> bool,
    ) -> Result<String, LabError> {
        let begun = Instant::now();
        while begun.elapsed() < within {
            let rules = self.rules()?;
            if are(&rules) {
                return Ok(rules);
            }
            // The kernel tells nobody in a way that is worth it here.
            std::thread::sleep(LOOK);
        }
        Err(LabError::Words(format!("the rules stay as they are: {}", self.rules()?)))
    }
}

/// Starts miniupnpd on a router.
fn miniupnpd(router: &Namespace, settings: &str) -> Result<(Running, TempDir), LabError> {
    let folder = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let text = format!("{CONFIGURATION}lease_file={}\n{settings}", path("leases"));
    std::fs::write(path("configuration"), text).map_err(LabError::io("writing a configuration"))?;
    let arguments = ["-d", "-f", &path("configuration"), "-P", &path("pid")];
    let mut daemon = router.command("/usr/sbin/miniupnpd").args(arguments).start()?;
    // It says so once it listens for PCP and NAT-PMP, which comes last.
    daemon.error_line(PATIENCE, |line| line.contains("Listening for NAT-PMP/PCP traffic"))?;
    Ok((daemon, folder))
}

/// Whether a file of the system is there, as a program that a package brings.
pub(crate) fn is_installed(program: &str) -> Result<(), LabError> {
    match Path::new(program).exists() {
        true => Ok(()),
        false => {
            Err(LabError::Missing { program: program.into(), package: Some("miniupnpd miniupnpd-nftables") })
        }
    }
}

/// What a protocol came to; none where a busy daemon did not answer in it in time.
pub(crate) fn protocol<'a>(run: &'a ClientRun, name: &str) -> Option<&'a Value> {
    let protocol = &run.report["port_mapping"][name];
    if !protocol.is_object() {
        eprintln!("{name}: {:#}; {}", run.report["port_mapping"], run.output.stderr);
    }
    harness::is_decided(protocol.is_object()).then_some(protocol)
}

/// Holds a finding against the truth.
#[track_caller]
pub(crate) fn says(protocol: &Value, finding: &str, expected: bool) {
    harness::says(&protocol[finding], &expected.into());
}

/// Masquerade, with the chains that miniupnpd writes to.
const RULES: &str = r#"flush ruleset
table inet filter {
    chain miniupnpd {
    }
    chain prerouting_miniupnpd {
    }
    chain postrouting_miniupnpd {
    }
    chain input {
        type filter hook input priority 0; policy accept;
        iifname "wan" ct state new drop
    }
    chain forward {
        type filter hook forward priority 0; policy drop;
        jump miniupnpd
        ct state established,related accept
        iifname "lan" accept
    }
    chain prerouting {
        type nat hook prerouting priority -100;
        jump prerouting_miniupnpd
    }
    chain postrouting {
        type nat hook postrouting priority 100;
        jump postrouting_miniupnpd
        meta nfproto ipv4 oifname "wan" masquerade
    }
}
"#;

const CONFIGURATION: &str = "ext_ifname=wan
listening_ip=lan
enable_natpmp=yes
min_lifetime=2
upnp_table_name=filter
upnp_nat_table_name=filter
upnp_forward_chain=miniupnpd
upnp_nat_chain=prerouting_miniupnpd
upnp_nat_postrouting_chain=postrouting_miniupnpd
secure_mode=yes
uuid=d68c3783-7721-44ac-b1cb-7bdaa955b8d4
allow 1024-65535 192.168.77.0/24 1024-65535
allow 1024-65535 192.168.1.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
";
