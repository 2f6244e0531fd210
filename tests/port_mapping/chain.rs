//! Both NATs of a double NAT, opened by one host: where they are the user's own, and never where they are not.

use natlab::{LabError, client::ClientRun, harness};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    home::{Home, PATIENCE, is_installed, says},
    scripted,
};

/// A network of the user's own between the two routers.
const OWN: [&str; 2] = ["192.168.1.1", "192.168.1.2"];
/// All that comes in goes to the host, with its port kept.
const ALL_TO_HOST: &str = "table ip everything {
    chain prerouting {
        type nat hook prerouting priority -110;
        iifname \"wan\" meta l4proto { tcp, udp } th dport >= 1024 dnat to 192.168.77.2
    }
    chain forward {
        type filter hook forward priority -10;
        iifname \"wan\" accept
    }
}
table inet filter {
    chain forward {
        iifname \"wan\" ct status dnat accept
    }
}
";

/// Two daemons in a row. The inner one was told the address of the outside, since it opens nothing with a private one.
fn two_daemons() -> Result<Home, LabError> {
    is_installed("/usr/sbin/miniupnpd")?;
    Home::double(OWN)?.with_outer_miniupnpd()?.with_miniupnpd("ext_ip=5.5.5.1\n")
}

fn chain(run: &ClientRun) -> &Value {
    assert_eq!(run.output.code, 0, "{}", run.output.stderr);
    &run.report["port_mapping"]["chain"]
}

fn is_reached(run: &ClientRun) {
    let it = chain(run);
    let told = || format!("{it:#}\n{:#}", run.report["layers"]);
    if !harness::is_decided(it["reason"].is_null()) {
        return eprintln!("{}", told());
    }
    says(it, "reachable_udp", true);
    says(it, "reachable_tcp", true);
    says(&it["outer"], "deleted", true);
    assert_eq!((&it["inner"]["gateway"], &it["outer"]["gateway"]), (&"192.168.77.1".into(), &OWN[0].into()));
    assert_eq!(it["outer"]["mapping"]["internal"], it["inner"]["mapping"]["external"], "{}", told());
}

pub(super) fn opened_and_closed() -> Result<(), LabError> {
    let home = two_daemons()?;
    let before = home.rules()?;
    let run = home.measure(&["--chain"])?;
    is_reached(&run);
    home.until_rules(PATIENCE, |rules| rules == before)?;
    Ok(())
}

/// The inner router names its own address, so that PCP and UPnP can be used at the outer one.
pub(super) fn told_the_address() -> Result<(), LabError> {
    is_installed("/usr/sbin/miniupnpd")?;
    let home = Home::double(OWN)?.with_outer_miniupnpd()?;
    home.router().nft(ALL_TO_HOST)?;
    let before = home.rules()?;
    let _inner = scripted::of_equal_ports(home.router(), [192, 168, 1, 2])?;
    let run = home.measure(&["--chain"])?;
    is_reached(&run);
    // On a busy machine the daemon does not answer in every protocol in time.
    let protocol = chain(&run)["outer"]["protocol"].as_str().unwrap_or_default();
    assert!(["pcp", "nat-pmp", "upnp"].contains(&protocol), "{protocol}");
    home.until_rules(PATIENCE, |rules| rules == before)?;
    Ok(())
}

/// Ctrl-C while ports of both are open.
pub(super) fn interrupted() -> Result<(), LabError> {
    let home = two_daemons()?;
    home.let_nobody_through_mappings()?;
    let before = home.rules()?;
    let client = home.start(&["--chain"])?;
    // The outer one forwards to the inner one only here.
    home.until_opened(&client, "dnat ip to 192.168.1.2")?;
    client.signal(Signal::INT)?;
    let output = client.finish(PATIENCE)?;
    assert_eq!(output.code, 130, "{}", output.stderr);
    home.until_rules(PATIENCE, |rules| rules == before)?;
    Ok(())
}

pub(super) fn without_a_daemon() -> Result<(), LabError> {
    is_installed("/usr/sbin/miniupnpd")?;
    let home = Home::double(OWN)?.with_miniupnpd("ext_ip=5.5.5.1\n")?;
    let before = home.rules()?;
    let run = home.measure(&["--chain"])?;
    let it = chain(&run);
    assert_eq!(it["reason_code"], "second-nat-unsure", "{it:#}");
    assert_eq!((&it["outer"], &it["reachable_udp"]["value"]), (&Value::Null, &Value::Null), "{it:#}");
    home.until_rules(PATIENCE, |rules| rules == before)?;
    Ok(())
}

/// A carrier's router that would open ports, and is not asked to.
pub(super) fn carrier() -> Result<(), LabError> {
    let home = Home::double(["100.64.0.1", "100.64.0.9"])?;
    let _outer = scripted::over_datagrams(home.outer(), 0)?;
    let _inner = scripted::of_equal_ports(home.router(), [100, 64, 0, 9])?;
    let run = home.measure(&["--chain"])?;
    let it = chain(&run);
    assert_eq!(it["reason_code"], "second-nat-not-own", "{it:#}");
    assert_eq!(it["outer"], Value::Null, "{it:#}");
    Ok(())
}
