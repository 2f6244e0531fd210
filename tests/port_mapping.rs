//! Ports opened at a real router and tested from outside: the real client and the real server, miniupnpd on the kernel's NAT,
//! and daemons that are less honest.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
#[path = "port_mapping"]
mod linux {
    mod chain;
    mod home;
    mod layers;
    mod pinholes;
    mod scripted;

    use std::{
        io::{ErrorKind, Write},
        net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
        process::ExitCode,
        time::Duration,
    };

    use natlab::{
        Lab, LabError,
        address::SERVER4,
        client::{ClientRun, nat_check},
        harness::{self, trial},
        tun::TunSite,
    };
    use rustix::process::Signal;
    use serde_json::Value;
    use shared::nat::model::Stack;
    use tokio::time::Instant;

    use home::{Home, PATIENCE, protocol, says};
    use scripted::Device;

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            vec![
                trial("miniupnpd::ports_are_opened_reached_and_closed", opened_reached_and_closed),
                trial("miniupnpd::pinholes_are_opened_reached_and_closed", pinholes::opened_and_closed),
                trial("miniupnpd::a_pinhole_that_is_asked_for_twice_ends_soon", pinholes::asked_for_twice),
                trial("map::a_pinhole_stays_open_until_it_is_stopped", pinholes::kept_open),
                trial("layers::a_router_is_asked_by_upnp", layers::told_by_upnp),
                trial("layers::a_router_that_was_told_wrongly_is_not_believed", layers::told_wrongly_by_upnp),
                trial("miniupnpd::an_interrupted_run_closes_them", interrupted),
                // Two minutes, which is the lease.
                trial("miniupnpd::they_end_by_themselves_after_a_kill", end_after_a_kill)
                    .with_ignored_flag(true),
                trial("miniupnpd::behind_a_carrier_it_refuses", behind_a_carrier),
                trial("chain::both_nats_are_opened_and_closed", chain::opened_and_closed),
                trial("chain::the_second_is_told_the_first_ones_address", chain::told_the_address),
                trial("chain::an_interrupted_run_closes_both", chain::interrupted),
                trial("chain::a_second_router_without_a_daemon_is_not_asked", chain::without_a_daemon),
                trial("chain::a_carriers_nat_is_not_asked", chain::carrier),
                trial("user_space::a_gateway_that_closes_nothing_is_found_out", closes_nothing),
                trial("map::a_port_stays_open_until_it_is_stopped", kept_open),
                trial("map::a_foreign_program_comes_in", foreign_program),
                trial("map::of_a_port_in_use_the_server_is_asked", kept_open_for_another),
                trial("map::without_a_gateway_that_opens_ports_it_ends", nobody_keeps_open),
                trial("scripted::granted_is_not_reachable", granted_without_effect),
                trial("scripted::a_refusal_is_told_by_its_name", refused),
                trial("scripted::nobody_answers", nobody_answers),
                trial("scripted::a_location_elsewhere_is_not_asked", || {
                    let answer = ok(DESCRIPTION.as_bytes());
                    let run = hostile(Device {
                        location: "http://127.0.0.1:5000/d.xml",
                        answer,
                        pause: Duration::ZERO,
                    })?;
                    // What answers instead is the device itself, whose description will do; its actions make no sense.
                    assert!(
                        protocol(&run, "upnp").is_none_or(|upnp| upnp["mapping"].is_null()),
                        "{:#}",
                        run.report
                    );
                    Ok(())
                }),
                trial("scripted::a_redirect_is_not_followed", || {
                    let answer =
                        format!("HTTP/1.1 302 Found\r\nLocation: http://{ELSEWHERE}/\r\n\r\n").into();
                    is_unusable(Device { answer, ..DEVICE }, "redirect")
                }),
                trial("scripted::huge_descriptions_are_cut_off", || {
                    is_unusable(
                        Device { answer: ok(&vec![b'x'; 8_000_000]), ..DEVICE },
                        "longer than 262144 bytes",
                    )
                }),
                trial("scripted::documents_that_grow_are_rejected", || {
                    let bomb =
                        b"<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;&a;\">]><root>&b;</root>";
                    is_unusable(Device { answer: ok(bomb), ..DEVICE }, "no sound XML")
                }),
                trial("scripted::garbage_is_no_http", || {
                    is_unusable(Device { answer: vec![0xff; 5000], ..DEVICE }, "not HTTP")
                }),
                trial("scripted::slow_bytes_are_not_waited_for", || {
                    let pause = Duration::from_millis(100);
                    is_unusable(
                        Device { answer: ok(DESCRIPTION.as_bytes()), pause, ..DEVICE },
                        "no answer in time",
                    )
                }),
            ]
        })
    }

    const PROTOCOLS: [&str; 3] = ["pcp", "nat_pmp", "upnp"];

    fn with_miniupnpd(settings: &str) -> Result<Home, LabError> {
        home::is_installed("/usr/sbin/miniupnpd")?;
        Home::new()?.with_miniupnpd(settings)
    }

    fn opened_reached_and_closed() -> Result<(), LabError> {
        let home = with_miniupnpd("")?;
        let before = home.rules()?;
        let run = home.measure(&[])?;
        assert_eq!(run.output.code, 0, "{}", run.output.stderr);
        for name in PROTOCOLS {
            let Some(it) = protocol(&run, name) else { continue };
            assert_eq!(it["gateway"], home::GATEWAY);
            assert_eq!(it["external_address"], "5.5.5.1", "{it:#}");
            for finding in ["external_address_agrees", "reachable_udp", "reachable_tcp", "deleted"] {
                says(it, finding, true);
            }
            // The daemon translates the way in only: what leaves keeps its own port (RFC 6886 section 3.9 wants it otherwise).
            says(it, "outbound_uses_mapping", false);
            assert_eq!(it["mapping"]["lifetime_s"], 120, "{it:#}");
            assert_eq!(it["error"], Value::Null);
        }
        if let Some(upnp) = protocol(&run, "upnp") {
            let software = upnp["software"].as_str().unwrap_or_default();
            assert!(software.contains("MiniUPnPd/2."), "{software}");
        }
        home.until_rules(PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    /// Ctrl-C while ports are open: they are closed before the program ends.
    fn interrupted() -> Result<(), LabError> {
        let home = with_miniupnpd("")?;
        home.let_nobody_through_mappings()?;
        let before = home.rules()?;
        let client = home.start(&[])?;
        home.until_opened(&client, "dnat ip to")?;
        client.signal(Signal::INT)?;
        let output = client.finish(PATIENCE)?;
        assert_eq!(output.code, 130, "{}", output.stderr);
        // A daemon that has too much to do obeys later; the leases are longer than this waits.
        home.until_rules(PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    /// What is killed closes nothing: the lease does.
    fn end_after_a_kill() -> Result<(), LabError> {
        let home = with_miniupnpd("")?;
        home.let_nobody_through_mappings()?;
        let before = home.rules()?;
        let client = home.start(&[])?;
        home.until_opened(&client, "dnat ip to")?;
        client.signal(Signal::KILL)?;
        client.finish(PATIENCE)?;
        home.until_rules(3 * PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    /// A deletion that is answered with success, and not done: whoever knocks from outside finds out.
    fn closes_nothing() -> Result<(), LabError> {
        let nat = "linux,port-mapping=both,opens=kept".parse::<Stack>();
        let nat = nat.map_err(|e| LabError::Words(e.to_string()))?;
        let lab = Lab::tun(&[TunSite::new(nat)], 1)?;
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &["-4", "--only", "port-mapping,filtering"])?;
        assert_eq!(run.output.code, 0, "{}", run.output.stderr);
        for name in ["pcp", "nat_pmp"] {
            let Some(it) = protocol(&run, name) else { continue };
            says(it, "deleted", false);
        }
        Ok(())
    }

    /// With an address of a carrier's network on its outside the daemon opens nothing, and says so by name.
    fn behind_a_carrier() -> Result<(), LabError> {
        home::is_installed("/usr/sbin/miniupnpd")?;
        let home = Home::with_address("100.64.0.2", "100.64.0.1")?.with_miniupnpd("")?;
        let before = home.rules()?;
        let run = home.measure(&[])?;
        for (name, error) in PROTOCOLS.into_iter().zip(["NO_RESOURCES", "network failure", "501"]) {
            let Some(it) = protocol(&run, name) else { continue };
            assert!(it["error"].as_str().is_some_and(|it| it.contains(error)), "{name}: {it:#}");
            assert_eq!(it["reachable_udp"]["reason_code"], "mapping-refused", "{it:#}");
            assert_eq!(it["mapping"], Value::Null);
        }
        home.until_rules(PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    /// Tested from outside, then used by programs of others on both sides.
    fn kept_open() -> Result<(), LabError> {
        let home = with_miniupnpd("")?;
        let before = home.rules()?;
        let mut map = home.map(&["22000"])?;
        for wanted in ["UDP 5.5.5.1:22000: reached from outside", "TCP 5.5.5.1:22000: reached from outside"] {
            map.line(PATIENCE, |line| line == wanted)?;
        }
        let io = |what: &str| LabError::io(what.to_owned());
        let inside = home.lab.host(0).run(|| {
            let datagrams = UdpSocket::bind(("0.0.0.0", 22_000))?;
            datagrams.set_read_timeout(Some(PATIENCE))?;
            Ok((datagrams, TcpListener::bind(("0.0.0.0", 22_000))?))
        });
        let (datagrams, listener) = inside.map_err(io("opening sockets inside"))?;
        let outside = home.lab.server_host().run(|| {
            UdpSocket::bind(("0.0.0.0", 0))?.send_to(b"from outside", ("5.5.5.1", 22_000))?;
            TcpStream::connect(("5.5.5.1", 22_000))?.local_addr()
        });
        let from = outside.map_err(io("reaching the port from outside"))?;
        let mut buffer = [0; 32];
        let length = datagrams.recv(&mut buffer).map_err(io("hearing from outside"))?;
        assert_eq!(&buffer[..length], b"from outside");
        assert_eq!(accept(&listener)?.1, from);
        map.signal(Signal::INT)?;
        let output = map.finish(PATIENCE)?;
        assert_eq!(output.code, 130, "{}", output.stderr);
        assert!(
            output.stdout.ends_with("UDP port 22000: closed\nTCP port 22000: closed\n"),
            "{}",
            output.stdout
        );
        home.until_rules(PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    /// Scripts read what happens, and a program that knows nothing of all this comes in from the Internet.
    fn foreign_program() -> Result<(), LabError> {
        let home = with_miniupnpd("")?;
        let before = home.rules()?;
        let mut map = home.map(&["22000", "--json"])?;
        let mut lines = Vec::new();
        let tested =
            |line: &Value, transport: &str| line["event"] == "tested" && line["transport"] == transport;
        while !lines.iter().any(|line| tested(line, "tcp")) {
            let line = map.line(PATIENCE, |_| true)?;
            lines.push(
                serde_json::from_str::<Value>(&line).map_err(|e| LabError::Words(format!("{line}: {e}")))?,
            );
        }
        let opened = &lines[0];
        assert_eq!((&opened["version"], &opened["event"]), (&1.into(), &"opened".into()), "{opened}");
        // On a busy machine the daemon does not answer in every protocol in time.
        let protocol = opened["protocol"].as_str().unwrap_or_default();
        assert!(["pcp", "nat-pmp", "upnp"].contains(&protocol), "{opened}");
        assert_eq!(opened["external"], 22_000, "{opened}");
        for transport in ["udp", "tcp"] {
            let found = lines.iter().find(|line| tested(line, transport)).map(|line| &line["reachable"]);
            let found =
                found.ok_or_else(|| LabError::Words(format!("{transport} was not tested: {lines:?}")))?;
            assert_eq!((&found["value"], &found["confidence"]), (&true.into(), &"certain".into()), "{found}");
        }
        let listener = home.lab.host(0).run(|| TcpListener::bind(("0.0.0.0", 22_000)));
        let listener = listener.map_err(LabError::io("listening inside"))?;
        let script = "exec 3<>/dev/tcp/5.5.5.1/22000 && read -r line <&3 && echo \"heard $line\"";
        let outside = home.lab.server_host().command("bash").args(["-c", script]).start()?;
        let (mut stream, from) = accept(&listener)?;
        assert_eq!(from.ip().to_string(), "198.51.100.10");
        stream.write_all(b"hello\n").map_err(LabError::io("writing"))?;
        assert_eq!(outside.finish(PATIENCE)?.stdout, "heard hello\n");
        map.signal(Signal::INT)?;
        let output = map.finish(PATIENCE)?;
        assert_eq!(output.code, 130, "{}", output.stderr);
        let closed: Vec<Value> =
            output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(closed.iter().filter(|line| line["event"] == "closed").count(), 2, "{}", output.stdout);
        home.until_rules(PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    /// The next connection, waited for no longer than anything takes.
    fn accept(listener: &TcpListener) -> Result<(TcpStream, SocketAddr), LabError> {
        listener.set_nonblocking(true).map_err(LabError::io("accepting"))?;
        let begun = Instant::now();
        loop {
            match listener.accept() {
                Ok((stream, from)) => {
                    stream.set_nonblocking(false).map_err(LabError::io("accepting"))?;
                    return Ok((stream, from));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                    std::thread::sleep(LOOK);
                }
                Err(error) => return Err(LabError::io("accepting")(error)),
            }
        }
    }

    /// Between two looks at a listener.
    const LOOK: Duration = Duration::from_millis(20);

    /// A program listens already: what the server connects to is not seen by this one.
    fn kept_open_for_another() -> Result<(), LabError> {
        let home = with_miniupnpd("")?;
        let before = home.rules()?;
        let listening = home.lab.host(0).run(|| TcpListener::bind(("0.0.0.0", 22_000)));
        let _listening = listening.map_err(LabError::io("listening"))?;
        let output = home.map(&["22000", "--tcp", "--for", "2s"])?.finish(PATIENCE)?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert!(
            output.stdout.contains("TCP 5.5.5.1:22000: probably reached from outside"),
            "{}",
            output.stdout
        );
        assert!(!output.stdout.contains("UDP"), "{}", output.stdout);
        home.until_rules(PATIENCE, |rules| rules == before)?;
        Ok(())
    }

    fn nobody_keeps_open() -> Result<(), LabError> {
        let output = Home::new()?.map(&["22000"])?.finish(PATIENCE)?;
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(output.stderr.contains("192.168.77.1 answers neither PCP nor NAT-PMP"), "{}", output.stderr);
        let home = Home::new()?;
        let _gateway = scripted::over_datagrams(home.router(), 2)?;
        let output = home.map(&["22000"])?.finish(PATIENCE)?;
        assert_eq!(output.code, 1, "{}", output.stderr);
        assert!(output.stderr.contains("PCP: NOT_AUTHORIZED; NAT-PMP: not authorized"), "{}", output.stderr);
        Ok(())
    }

    /// The gateway says yes and does nothing.
    fn granted_without_effect() -> Result<(), LabError> {
        let home = Home::new()?;
        let _gateway = scripted::over_datagrams(home.router(), 0)?;
        let run = home.measure(&[])?;
        for name in ["pcp", "nat_pmp"] {
            let Some(it) = protocol(&run, name) else { continue };
            assert_eq!(it["mapping"]["lifetime_s"], 120, "{it:#}");
            says(it, "external_address_agrees", true);
            for finding in ["reachable_udp", "reachable_tcp"] {
                // On a busy machine controls come late, and then silence counts for less; it is never called reachable.
                assert_ne!(it[finding]["value"], true, "{it:#}");
            }
            says(it, "reachable_udp", false);
            let is_known = it["reachable_udp"]["value"] == false;
            assert!(!is_known || it["reachable_udp"]["reason_code"] == "granted-without-effect", "{it:#}");
        }
        assert_eq!(run.report["port_mapping"]["upnp"], Value::Null);
        Ok(())
    }

    fn refused() -> Result<(), LabError> {
        let home = Home::new()?;
        let _gateway = scripted::over_datagrams(home.router(), 2)?;
        let run = home.measure(&[])?;
        for (name, error) in [("pcp", "NOT_AUTHORIZED"), ("nat_pmp", "not authorized or refused")] {
            let Some(it) = protocol(&run, name) else { continue };
            assert_eq!(it["error"], error, "{it:#}");
            assert_eq!(it["reachable_udp"]["reason_code"], "mapping-refused");
        }
        Ok(())
    }

    /// Discovery ends by itself.
    fn nobody_answers() -> Result<(), LabError> {
        let home = Home::new()?;
        let run = home.measure(&[])?;
        let found = &run.report["port_mapping"];
        assert_eq!(found["gateway"], home::GATEWAY, "{found:#}");
        assert!(PROTOCOLS.iter().all(|name| found[name].is_null()), "{found:#}");
        Ok(())
    }

    const DEVICE: Device =
        Device { location: "http://192.168.77.1:5000/d.xml", answer: Vec::new(), pause: Duration::ZERO };
    /// A server in the Internet that nothing may be sent to.
    const ELSEWHERE: &str = "198.51.100.10:8080";
    const DESCRIPTION: &str = "<root><device><serviceList><service>\
        <serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/c</controlURL>\
        </service></serviceList></device></root>";

    fn ok(body: &[u8]) -> Vec<u8> {
        [b"HTTP/1.1 200 OK\r\n\r\n", body].concat()
    }

    fn is_unusable(device: Device, why: &str) -> Result<(), LabError> {
        let run = hostile(device)?;
        let Some(it) = protocol(&run, "upnp") else { return Ok(()) };
        assert!(it["error"].as_str().is_some_and(|error| error.contains(why)), "{it:#}");
        assert_eq!(it["reachable_udp"]["reason_code"], "gateway-answer-unusable", "{it:#}");
        Ok(())
    }

    /// Measures behind this device, and sees to it that nothing else is asked: neither this host nor the Internet.
    fn hostile(device: Device) -> Result<ClientRun, LabError> {
        let home = Home::new()?;
        let listen = |at: &str| {
            let at: SocketAddr = at.parse().map_err(|_| LabError::Words(format!("{at} is no address")))?;
            Ok::<_, LabError>(move || TcpListener::bind(at))
        };
        let listening = LabError::io("listening");
        let here = home.lab.host(0).run(listen("127.0.0.1:5000")?).map_err(listening)?;
        let elsewhere = home.lab.server_host().run(listen(ELSEWHERE)?).map_err(LabError::io("listening"))?;
        let _device = device.start(home.router())?;
        let run = home.measure(&[])?;
        assert_eq!(run.output.code, 0, "{}", run.output.stderr);
        for spy in [here, elsewhere] {
            spy.set_nonblocking(true).map_err(LabError::io("listening"))?;
            let asked = spy.accept().map(|(_, from)| from);
            assert!(asked.is_err(), "{spy:?} was asked from {asked:?}");
        }
        Ok(run)
    }
}
