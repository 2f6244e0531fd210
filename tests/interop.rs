//! Programs that others wrote, through the router hop: our client against coturn and stund, and coturn's natdiscovery and
//! the classic `stun` client against our server; proxies. Versions: Debian's coturn 4.6.1, stun-client and stun-server 0.97.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
#[path = "interop"]
mod linux {
    mod proxies;

    use std::{net::UdpSocket, process::ExitCode, time::Duration};

    use natlab::{
        Lab, LabError,
        address::{SERVER4, server_endpoint},
        client::nat_check,
        harness::{self, trial},
        oracle,
        process::Running,
        tun::TunSite,
    };
    use shared::{
        nat::model::{SpecError, Stack},
        stun::{Class, TransactionId, View, Writer},
    };

    const PATIENCE: Duration = Duration::from_secs(60);

    /// What other people's clients call a NAT.
    struct Row {
        nat: &'static str,
        /// natdiscovery's two verdicts.
        mapping: &'static str,
        filtering: &'static str,
        /// The first words of the classic client's verdict.
        classic: &'static str,
    }

    /// natdiscovery 4.6.1 knows no "direct": it compares the reflexive address with 0.0.0.0. In its third mapping test
    /// it asks the address that the *second* answer called the other one, so it comes back to the first IP address
    /// and takes address-dependent mapping for address-and-port-dependent.
    const ROWS: [Row; 6] = [
        Row { nat: "open", mapping: EIM, filtering: EIF, classic: "Open" },
        Row { nat: "firewall", mapping: EIM, filtering: APDF, classic: "Firewall" },
        Row {
            nat: "full-cone",
            mapping: EIM,
            filtering: EIF,
            classic: "Independent Mapping, Independent Filter",
        },
        Row {
            nat: "restricted-cone",
            mapping: EIM,
            filtering: ADF,
            classic: "Independent Mapping, Address Dependent Filter",
        },
        Row {
            nat: "linux",
            mapping: EIM,
            filtering: APDF,
            classic: "Independent Mapping, Port Dependent Filter",
        },
        Row { nat: "linux-random", mapping: APDM, filtering: APDF, classic: "Dependent Mapping" },
    ];
    const EIM: &str = "NAT with Endpoint Independent Mapping!";
    const APDM: &str = "NAT with Address and Port Dependent Mapping!";
    const EIF: &str = "NAT with Endpoint Independent Filtering!";
    const ADF: &str = "NAT with Address Dependent Filtering!";
    const APDF: &str = "NAT with Address and Port Dependent Filtering!";

    /// Where our client is tried against coturn. It asks for changes of address only at coturn's first IP address: at
    /// the second, coturn names an OTHER-ADDRESS on that same address and answers change-IP from it.
    const BEFORE_COTURN: [&str; 9] = [
        "open",
        "firewall",
        "full-cone",
        "restricted-cone",
        "port-restricted-cone",
        "linux",
        "linux-open-input",
        "linux-random",
        "linux+linux",
    ];

    /// The classes of NAT, where our client is tried against the servers of others, which give no receipts.
    const CLASSES: [&str; 10] = [
        "open",
        "firewall",
        "firewall-address",
        "full-cone",
        "restricted-cone",
        "port-restricted-cone",
        "mapping=ad,filtering=ad",
        "mapping=ad,filtering=apd,ports=random",
        "mapping=apd,filtering=ad,ports=random",
        "symmetric",
    ];

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = proxies::trials();
            for row in &ROWS {
                trials.push(trial(format!("natdiscovery::{}", row.nat), || natdiscovery_agrees(row)));
                trials.push(trial(format!("stun_client::{}", row.nat), || the_classic_client_agrees(row)));
            }
            for nat in BEFORE_COTURN {
                trials.push(trial(format!("coturn::{nat}"), || our_client_agrees_about_coturn(nat)));
            }
            for nat in CLASSES {
                for (server, start) in [("coturn", coturn as StartServer), ("stund", stund)] {
                    let name = format!("{server}::tun::{nat}");
                    trials.push(trial(name, move || our_client_is_right_with(nat, start)));
                }
            }
            trials
        })
    }

    fn natdiscovery_agrees(row: &Row) -> Result<(), LabError> {
        let lab = behind(row.nat)?;
        let _server = lab.server()?;
        let client =
            lab.host(0).command("turnutils_natdiscovery").args(["-m", "-f", &SERVER4[0].to_string()]);
        let printed = client.output(PATIENCE)?.stdout;
        let verdicts: Vec<_> = printed.lines().filter(|line| line.ends_with('!')).collect();
        assert_eq!(verdicts, [row.mapping, row.filtering], "{printed}");
        Ok(())
    }

    fn the_classic_client_agrees(row: &Row) -> Result<(), LabError> {
        let lab = behind(row.nat)?;
        let _server = lab.server()?;
        let printed = lab.host(0).command("stun").arg(SERVER4[0].to_string()).output(PATIENCE)?.stdout;
        let verdict = printed.lines().find_map(|line| line.strip_prefix("Primary: "));
        assert!(verdict.is_some_and(|verdict| verdict.starts_with(row.classic)), "{printed}");
        Ok(())
    }

    fn our_client_agrees_about_coturn(nat: &str) -> Result<(), LabError> {
        let lab = behind(nat)?;
        let directory = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
        let _coturn = coturn(&lab, directory.path())?;
        let expected = nat.parse::<Stack>().map_err(|e| LabError::Words(e.to_string()))?.behaviour();
        nat_check(lab.host(0), SERVER4[0].into(), &[])?.must_say(&expected);
        Ok(())
    }

    /// Starts a server, and waits until it answers. It may put files into the directory.
    type StartServer = fn(&Lab, &std::path::Path) -> Result<Running, LabError>;

    /// Right in everything, the rewriting of payloads included, though not everything can be known.
    fn our_client_is_right_with(nat: &str, start: StartServer) -> Result<(), LabError> {
        let nat: Stack = nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        let lab = Lab::tun(&[TunSite::new(nat.clone())], 1)?;
        let directory = tempfile::tempdir().map_err(LabError::io("making a directory"))?;
        let _server = start(&lab, directory.path())?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &[])?;
        run.must_say(&nat.behaviour());
        let wrong = oracle::judge_json(&oracle::expected(&nat), &run.report).wrong;
        assert!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }

    /// Starts Vovida's stund on two addresses.
    fn stund(lab: &Lab, _: &std::path::Path) -> Result<Running, LabError> {
        let [first, second] = SERVER4.map(|ip| ip.to_string());
        let command = lab.server_host().command("stund").args(["-h", &first, "-a", &second]);
        answering(lab, command.start()?, "stund")
    }

    /// Starts coturn on two addresses as a STUN server.
    fn coturn(lab: &Lab, directory: &std::path::Path) -> Result<Running, LabError> {
        let file = |name: &str| directory.join(name).into_os_string();
        let mut command =
            lab.server_host().command("turnserver").args(["-n", "--stun-only", "--no-tcp", "--no-tls"]);
        command = command.args(["--no-dtls", "--no-cli", "--relay-threads=1", "--log-file=stdout"]);
        for ip in SERVER4 {
            command = command.arg(format!("--listening-ip={ip}"));
        }
        command = command.arg("--pidfile").arg(file("pid")).arg("--userdb").arg(file("db"));
        answering(lab, command.start()?, "coturn")
    }

    /// Waits until a server answers.
    fn answering(lab: &Lab, server: Running, name: &str) -> Result<Running, LabError> {
        // It says nothing when it begins to answer, so it is asked until it does.
        let socket =
            lab.host(0).run(|| UdpSocket::bind(("0.0.0.0", 0))).map_err(LabError::io("opening a socket"))?;
        let each = Duration::from_millis(50);
        socket.set_read_timeout(Some(each)).map_err(LabError::io("setting a time-out"))?;
        let id = TransactionId::modern(&mut fastrand::Rng::with_seed(1));
        let mut request = [0; 32];
        let length = Writer::new(&mut request, Class::Request, &id).finish().expect("it fits");
        for _ in 0..PATIENCE.as_millis() / each.as_millis() {
            let mut answer = [0; 512];
            // While nobody listens there, sending may fail at once, too.
            let _ = socket.send_to(&request[..length], server_endpoint(false, 0, 0));
            match socket.recv(&mut answer) {
                Ok(n) if View::parse(&answer[..n]).is_ok_and(|answer| answer.id() == id) => {
                    return Ok(server);
                }
                Ok(_) | Err(_) => {}
            }
        }
        Err(LabError::Timeout {
            operation: format!("waiting for {name}"),
            within: PATIENCE,
            printed: server.printed(),
        })
    }

    fn behind(nat: &str) -> Result<Lab, LabError> {
        let nat: Stack = nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        Lab::kernel(&[nat])
    }
}
