//! Proxies of others in an office whose router runs them: dante with both classes of its relay, microsocks, tinyproxy.
//! Versions: Debian's dante-server 1.4.2, microsocks 1.0.3, tinyproxy-bin 1.11.1.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use natlab::{
    Lab, LabError,
    address::SERVER4,
    binaries::binary,
    harness::{self, Trial, trial},
    netns::Namespace,
    process::Running,
};
use serde_json::Value;
use shared::nat::model::{SpecError, Stack};
use tempfile::TempDir;
use tokio::time::Instant;

/// Far longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("proxies::dante_lets_in_whom_it_was_asked_for", || dante("", "address-and-port-dependent")),
        trial("proxies::dante_without_connectdst_lets_everybody_in", || {
            dante("udp.connectdst: no\n", "endpoint-independent")
        }),
        trial("proxies::a_punch_through_dante_meets_its_peer", punch),
        trial("proxies::microsocks_relays_no_datagrams", microsocks),
        trial("proxies::tinyproxy_allows_ports", tinyproxy),
    ]
}

/// The router's address on the local network.
const ROUTER: &str = "192.168.77.1";
/// Between two looks at a port that nobody tells of.
const LOOK: Duration = Duration::from_millis(20);

/// A host, a router with a proxy, the Internet with the probe server.
struct Office {
    // Programs end before the networks that they run in.
    _daemon: Running,
    _server: Running,
    lab: Lab,
    _folder: TempDir,
}

impl Office {
    /// With this proxy, which gets a file with this text, by its path as `{}` among the arguments.
    fn new(
        rules: &str,
        program: &str,
        package: &'static str,
        arguments: &[&str],
        text: &str,
    ) -> Result<Self, LabError> {
        if !Path::new(program).exists() {
            return Err(LabError::Missing { program: program.into(), package: Some(package) });
        }
        let nat: Stack = "linux".parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        // Somebody else has the same kind of router at home.
        let lab = Lab::kernel(&[nat.clone(), nat])?;
        let folder = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
        let file = folder.path().join("configuration").display().to_string();
        std::fs::write(&file, text).map_err(LabError::io("writing a configuration"))?;
        let router = &lab.routers()[1];
        router.nft(rules)?;
        let server = lab.server()?;
        let arguments = arguments.iter().map(|argument| argument.replace("{}", &file));
        let daemon = router.command(program).args(arguments).start()?;
        listening(router, PORT)?;
        Ok(Self { _daemon: daemon, _server: server, lab, _folder: folder })
    }

    /// The report of a run through the proxy, and all that was printed.
    fn measure(&self, url: &str) -> Result<(Value, String), LabError> {
        let server = SERVER4[0].to_string();
        let client = self.lab.host(0).command(binary("nat-check")?);
        let run =
            client.args(["--json", "-4", "-vv", "--server", &server, "--proxy", url]).output(PATIENCE)?;
        let report: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
        assert!(report["proxy"][0].is_object(), "{}{}", run.stdout, run.stderr);
        Ok((report["proxy"][0].clone(), run.stdout + &run.stderr))
    }
}

const PORT: u16 = 1080;

/// Waits until somebody listens there, which these programs do not tell.
fn listening(router: &Namespace, port: u16) -> Result<(), LabError> {
    let at: SocketAddr = format!("{ROUTER}:{port}").parse().expect("an address");
    let is_there = router.run(move || {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if TcpStream::connect(at).is_ok() {
                return true;
            }
            std::thread::sleep(LOOK);
        }
        false
    });
    if is_there { Ok(()) } else { Err(LabError::Words(format!("nobody listens at {at}"))) }
}

/// Holds a finding of the proxy against the truth.
#[track_caller]
fn says(proxy: &Value, path: &str, expected: impl Into<Value>) {
    harness::says(proxy.pointer(path).unwrap_or(&Value::Null), &expected.into());
}

fn dante(setting: &str, filtering: &str) -> Result<(), LabError> {
    let text = format!("{DANTE}{setting}{DANTE_RULES}");
    let office =
        Office::new(NO_WAY_OUT, "/usr/sbin/danted", "dante-server", &["-f", "{}", "-p", "/dev/null"], &text)?;
    let (proxy, _) = office.measure("socks5://192.168.77.1")?;
    says(&proxy, "/connect", "works");
    assert_eq!(proxy["exit_address"], "203.0.113.1", "{proxy:#}");
    says(&proxy, "/bind", "granted");
    says(&proxy, "/udp_associate", "works");
    says(&proxy, "/udp/mapping", "endpoint-independent");
    says(&proxy, "/udp/filtering", filtering);
    Ok(())
}

/// The office lets nothing out but through the proxy; the peer is at home behind a router of its own.
fn punch() -> Result<(), LabError> {
    let text = format!("{DANTE}{DANTE_RULES}");
    let office =
        Office::new(NO_WAY_OUT, "/usr/sbin/danted", "dante-server", &["-f", "{}", "-p", "/dev/null"], &text)?;
    let start = |host: usize, more: &[&str]| {
        let client = office.lab.host(host).command(binary("nat-check")?);
        let server = SERVER4[0].to_string();
        client.args(["punch", "--json", "--hold", "1", "--no-tls", "--server", &server]).args(more).start()
    };
    let mut first = start(0, &["--proxy", "socks5://192.168.77.1"])?;
    let line = first.error_line(PATIENCE, |line| line.starts_with("code: "))?;
    let second = start(1, &["--code", line.trim_start_matches("code: ")])?;
    for (client, remote) in [(first, "203.0.113.2:"), (second, "203.0.113.1:")] {
        let run = client.finish(PATIENCE)?;
        let report: Value = serde_json::from_str(&run.stdout).unwrap_or(Value::Null);
        assert_eq!(report["punch"]["outcome"], "direct", "{}{}", run.stdout, run.stderr);
        let met = report["punch"]["remote"].as_str().unwrap_or_default();
        assert!(met.starts_with(remote), "{}", run.stdout);
    }
    Ok(())
}

fn microsocks() -> Result<(), LabError> {
    let arguments = ["-i", ROUTER, "-p", "1080", "-u", "somebody", "-P", "s3cret"];
    let office = Office::new(MASQUERADE, "/usr/bin/microsocks", "microsocks", &arguments, "")?;
    let (proxy, all) = office.measure("socks5://somebody:s3cret@192.168.77.1")?;
    says(&proxy, "/connect", "works");
    says(&proxy, "/udp_associate", "refused");
    assert_eq!(proxy["udp"], Value::Null);
    assert!(!all.contains("s3cret") && !all.contains("somebody"), "a password in {all}");
    let (proxy, all) = office.measure("socks5://somebody:wr0ng@192.168.77.1")?;
    assert_eq!(proxy["connect"]["reason_code"], "proxy-refuses-credentials", "{proxy:#}");
    assert!(!all.contains("wr0ng"), "a password in {all}");
    let (proxy, _) = office.measure("socks5://192.168.77.1")?;
    assert_eq!(proxy["connect"]["reason_code"], "proxy-wants-credentials", "{proxy:#}");
    Ok(())
}

fn tinyproxy() -> Result<(), LabError> {
    let office =
        Office::new(MASQUERADE, "/usr/bin/tinyproxy", "tinyproxy-bin", &["-d", "-c", "{}"], TINYPROXY)?;
    let (proxy, _) = office.measure("http://192.168.77.1:1080")?;
    says(&proxy, "/connect", "works");
    says(&proxy, "/udp_associate", "refused");
    says(&proxy, "/connect_udp", false);
    let ports = proxy["connect_ports"].as_array().into_iter().flatten();
    let allowed = ports.map(|it| (it["port"].as_u64().unwrap_or_default(), it["allowed"].as_bool()));
    assert_eq!(allowed.collect::<Vec<_>>()[..2], [(3478, Some(true)), (22, Some(false))], "{proxy:#}");
    Ok(())
}

/// The router translates; what it sends itself leaves as it is.
const MASQUERADE: &str = r#"flush ruleset
table ip nat {
    chain postrouting {
        type nat hook postrouting priority 100;
        iifname "lan" oifname "wan" masquerade
    }
}
"#;

/// The router forwards nothing: all that gets out does so through the proxy.
const NO_WAY_OUT: &str = r#"flush ruleset
table ip filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
    }
}
"#;

const DANTE: &str = "internal: 192.168.77.1 port = 1080
external: 203.0.113.1
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: root
";
const DANTE_RULES: &str = "client pass { from: 192.168.77.0/24 to: 0.0.0.0/0 }
socks pass { from: 192.168.77.0/24 to: 0.0.0.0/0 command: bind connect udpassociate }
socks pass { from: 0.0.0.0/0 to: 192.168.77.0/24 command: bindreply udpreply }
";

const TINYPROXY: &str = "Port 1080
Listen 192.168.77.1
Allow 192.168.77.0/24
ConnectPort 3478
ConnectPort 443
";
