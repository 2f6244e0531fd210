//! The firewall for IPv6, opened by PCP and by WANIPv6FirewallControl, and as it was afterwards.

use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

use natlab::{LabError, address::SERVER6, harness};
use rustix::process::Signal;

use super::{
    home::{Home, PATIENCE, is_installed, says},
    with_miniupnpd,
};

/// Drops the first two answers to PCP's MAP, so that the client asks again.
const FIRST_ANSWERS_LOST: &str = "table ip6 lossy {
    chain out {
        type filter hook output priority 0; policy accept;
        udp sport 5351 udp length 68 quota until 250 bytes drop
    }
}
";

pub(super) fn opened_and_closed() -> Result<(), LabError> {
    let home = with_miniupnpd("ext_ifname6=wan\n")?;
    let before = home.rules()?;
    let run = home.measure_over_ipv6()?;
    assert_eq!(run.output.code, 0, "{}", run.output.stderr);
    let found = &run.report["port_mapping"]["ipv6"];
    for name in ["pcp", "upnp"] {
        let it = &found[name];
        if !harness::is_decided(it.is_object()) {
            continue;
        }
        says(it, "reachable_udp", true);
        says(it, "reachable_tcp", true);
        assert_eq!(it["mapping"]["internal"], it["mapping"]["external"], "{it:#}");
    }
    says(&found["upnp"], "deleted", true);
    // A daemon that has too much to do obeys later; the leases are longer than this waits.
    home.until_rules(PATIENCE, |rules| rules == before)?;
    Ok(())
}

/// miniupnpd 2.3.1 forgets whose a pinhole is that is asked for again, and refuses to close it.
pub(super) fn asked_for_twice() -> Result<(), LabError> {
    is_installed("/usr/sbin/miniupnpd")?;
    let home = Home::new()?.with_miniupnpd("ext_ifname6=wan\n")?;
    home.router().nft(FIRST_ANSWERS_LOST)?;
    let lossy = || {
        home.router().command("nft").args(["list", "chain", "inet", "filter", "miniupnpd"]).output(PATIENCE)
    };
    let before = lossy()?.stdout;
    let run = home.measure_over_ipv6()?;
    let it = &run.report["port_mapping"]["ipv6"]["pcp"];
    let told = format!("{it:#}");
    assert!(told.contains("NOT_AUTHORIZED"), "it was not asked for twice: {told}");
    says(it, "reachable_udp", true);
    // Its lease is 120 s; this waits for less.
    home.until_rules(PATIENCE, |_| lossy().is_ok_and(|output| output.stdout == before))?;
    Ok(())
}

/// `nat-check map -6`, with programs of others on both sides.
pub(super) fn kept_open() -> Result<(), LabError> {
    let home = with_miniupnpd("ext_ifname6=wan\n")?;
    let before = home.rules()?;
    let mut map = home.map_tested_by(SERVER6[0].into(), &["22000", "-6"])?;
    let own = home.lab.host(0).ip(true);
    for transport in ["UDP", "TCP"] {
        let wanted = format!("{transport} [{own}]:22000: reached from outside");
        map.line(PATIENCE, |line| line == wanted)?;
    }
    let io = |what: &str| LabError::io(what.to_owned());
    let inside = home.lab.host(0).run(|| {
        let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 22_000))?;
        datagrams.set_read_timeout(Some(PATIENCE))?;
        Ok((datagrams, TcpListener::bind((Ipv6Addr::UNSPECIFIED, 22_000))?))
    });
    let (datagrams, listener) = inside.map_err(io("opening sockets inside"))?;
    let outside = home.lab.server_host().run(move || {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?.send_to(b"from outside", (own, 22_000))?;
        TcpStream::connect((own, 22_000))?.local_addr()
    });
    let from = outside.map_err(io("reaching the port from outside"))?;
    let mut buffer = [0; 32];
    let length = datagrams.recv(&mut buffer).map_err(io("hearing from outside"))?;
    assert_eq!(&buffer[..length], b"from outside");
    assert_eq!(super::accept(&listener)?.1, from);
    map.signal(Signal::INT)?;
    let output = map.finish(PATIENCE)?;
    assert_eq!(output.code, 130, "{}", output.stderr);
    assert!(output.stdout.contains(&format!("as [{own}]:22000, for 600 s")), "{}", output.stdout);
    // A daemon that was too busy to answer at once has been asked twice, and then takes a shorter lease instead.
    home.until_rules(PATIENCE, |rules| rules == before)?;
    Ok(())
}
