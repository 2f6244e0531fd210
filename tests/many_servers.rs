//! Servers with one address each, real ones, behind real NATs: two coturns; a list of public servers of which one is dead
//! and one lies.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
        process::ExitCode,
        time::Duration,
    };

    use natlab::{
        Lab, LabError,
        address::SERVER4,
        binaries::binary,
        client::json_of,
        harness::{self, trial},
        netns::Namespace,
        process::Running,
    };
    use serde_json::Value;
    use shared::{
        nat::model::{SpecError, Stack},
        stun::{Class, View, Writer, attr},
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            vec![
                trial("two_coturns::linux-random", || two_coturns("linux-random", Some("symmetric"))),
                trial("two_coturns::linux", || two_coturns("linux", None)),
                trial("public::linux", || public("linux", "mapping", "endpoint-independent")),
                trial("public::linux-random", || public("linux-random", "nat_type", "symmetric")),
            ]
        })
    }

    /// A symmetric NAT is one for certain, whatever two servers leave open; behind another the filter decides.
    fn two_coturns(nat: &str, nat_type: Option<&str>) -> Result<(), LabError> {
        let lab = behind(nat)?;
        let directory = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
        let servers = SERVER4.map(|ip| SocketAddrV4::new(ip, 3478));
        let _coturns: Vec<Running> =
            SERVER4.iter().map(|ip| coturn(&lab, *ip, directory.path())).collect::<Result<_, _>>()?;
        servers.iter().try_for_each(|server| answers(&lab, (*server).into()))?;
        let report = nat_check(&lab, &servers.map(|server| format!("--server={server}")))?;
        let udp = &report["ipv4"]["udp"];
        assert_eq!(udp["nat_type"]["value"].as_str(), nat_type, "{udp:#}");
        if nat_type.is_some() {
            assert_eq!(udp["nat_type"]["confidence"], "certain", "{udp:#}");
            assert_eq!(udp["external"].as_array().map(Vec::len), Some(2), "{udp:#}");
        } else {
            assert_eq!(udp["mapping"]["value"], "endpoint-independent", "{udp:#}");
        }
        let summary = report["hole_punching"]["summary"].as_str().unwrap_or_default();
        assert!(summary.starts_with("Hole punching works"), "{summary}");
        Ok(())
    }

    const LIAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 12);

    /// Of four servers one is dead and one lies: the rest goes on, at once.
    fn public(nat: &str, finding: &str, value: &str) -> Result<(), LabError> {
        let lab = behind(nat)?;
        let good = [SocketAddrV4::new(SERVER4[0], 3478), SocketAddrV4::new(SERVER4[1], 19_302)];
        // The liar has an address of its own: nobody else's word is doubted with its.
        let (dead, liar) = (SocketAddrV4::new(SERVER4[0], 4000), SocketAddrV4::new(LIAR, 5000));
        Namespace::ip(lab.server_host(), &format!("addr add {LIAR}/24 dev eth0\n"))?;
        let _servers: Vec<Running> =
            good.iter().map(|at| single_address(&lab, *at)).collect::<Result<_, _>>()?;
        lie(&lab, liar)?;
        let list = tempfile::NamedTempFile::new().map_err(LabError::io("making a file"))?;
        let lines: String = [good[0], dead, liar, good[1]].map(|at| format!("{at}  ipv4  lab\n")).concat();
        std::fs::write(&list, format!("# four servers\n{lines}"))
            .map_err(LabError::io("writing the list"))?;
        let report = nat_check(&lab, &[format!("--public={}", list.path().display())])?;
        let found = &report["ipv4"]["udp"][finding];
        let said = (found["value"].as_str(), found["confidence"].as_str());
        assert_eq!(said, (Some(value), Some("certain")), "{report:#}");
        let told = report.to_string();
        assert!(told.contains(&format!("{dead} answered none of")), "{report:#}");
        assert!(told.contains("it shows the same external endpoint, 192.0.2.77:7777"), "{report:#}");
        Ok(())
    }

    fn nat_check(lab: &Lab, arguments: &[String]) -> Result<Value, LabError> {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).chain(["-4"]).collect();
        let output = json_of(PATIENCE, lab.host(0), &arguments)?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        println!("{}", output.stdout);
        serde_json::from_str(&output.stdout).map_err(|e| LabError::Words(e.to_string()))
    }

    fn single_address(lab: &Lab, at: SocketAddrV4) -> Result<Running, LabError> {
        let command = lab.server_host().command(binary("probe-server")?);
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        let mut server = command.args(["--primary", &ip, "--port", &port]).start()?;
        server.line(PATIENCE, |line| line.starts_with("ready udp"))?;
        Ok(server)
    }

    /// Answers each request with an endpoint that is nobody's, till the laboratory is gone.
    fn lie(lab: &Lab, at: SocketAddrV4) -> Result<(), LabError> {
        let socket =
            lab.server_host().run(move || UdpSocket::bind(at)).map_err(LabError::io("opening a socket"))?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(LabError::io("setting a time-out"))?;
        std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let Ok(request) = View::parse(&buffer[..length]) else { continue };
                let mut answer = [0; 64];
                let mut writer = Writer::new(&mut answer, Class::Success, &request.id());
                let nobody = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 77), 7777));
                writer.xor_address(attr::XOR_MAPPED_ADDRESS, nobody);
                // Nobody may listen any more.
                let Ok(length) = writer.finish() else { return };
                let _ = socket.send_to(&answer[..length], from);
            }
        });
        Ok(())
    }

    fn coturn(lab: &Lab, ip: Ipv4Addr, directory: &std::path::Path) -> Result<Running, LabError> {
        let file = |name: &str| directory.join(format!("{name}-{ip}")).into_os_string();
        let command = lab.server_host().command("turnserver");
        let command = command.args(["-n", "--stun-only", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli"]);
        let command = command.args(["--relay-threads=1", "--log-file=stdout", "-L", &ip.to_string()]);
        command.arg("--pidfile").arg(file("pid")).arg("--userdb").arg(file("db")).start()
    }

    /// Waits until a server answers; coturn does not say when it begins to.
    fn answers(lab: &Lab, server: SocketAddr) -> Result<(), LabError> {
        let socket =
            lab.host(0).run(|| UdpSocket::bind(("0.0.0.0", 0))).map_err(LabError::io("opening a socket"))?;
        let each = Duration::from_millis(50);
        socket.set_read_timeout(Some(each)).map_err(LabError::io("setting a time-out"))?;
        let id = shared::stun::TransactionId::modern(&mut fastrand::Rng::with_seed(1));
        let mut request = [0; 32];
        let length = Writer::new(&mut request, Class::Request, &id).finish().expect("it fits");
        for _ in 0..PATIENCE.as_millis() / each.as_millis() {
            // While nobody listens there, sending may fail at once, too.
            let _ = socket.send_to(&request[..length], server);
            if socket.recv(&mut [0; 512]).is_ok() {
                return Ok(());
            }
        }
        let (operation, printed) = (format!("waiting for {server}"), String::new());
        Err(LabError::Timeout { operation, within: PATIENCE, printed })
    }

    fn behind(nat: &str) -> Result<Lab, LabError> {
        let nat: Stack = nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        Lab::kernel(&[nat])
    }
}
