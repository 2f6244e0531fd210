//! A browser as the peer of `nat-check punch`, and of another browser, behind two NATs each: what was predicted comes true.

use std::time::Duration;

use nat_check_core::punch::report::PunchDocument;
use natlab::{
    Lab, LabError,
    address::SERVER4,
    binaries::binary,
    harness::{Trial, trial},
    topology::{Families, Topology},
};
use serde_json::Value;

use super::driver::{Browser, Visit};

/// Two NATs, and whether there is a path.
struct Pair {
    group: &'static str,
    nats: [&'static str; 2],
    direct: bool,
}

const fn pair(group: &'static str, a: &'static str, b: &'static str, direct: bool) -> Pair {
    Pair { group, nats: [a, b], direct }
}

/// The browser's, then that of nat-check.
const WITH_NAT_CHECK: [Pair; 9] = [
    pair("few", "port-restricted-cone", "port-restricted-cone", true),
    pair("few", "symmetric", "port-restricted-cone", false),
    pair("more", "restricted-cone", "symmetric", true),
    pair("more", "open", "linux", true),
    pair("more", "port-restricted-cone", "symmetric-sequential", true),
    pair("more", "symmetric-sequential", "port-restricted-cone", true),
    pair("more", "linux-open-input", "linux-open-input", true),
    pair("more", "udp-blocked", "open", false),
    pair("ipv6", "symmetric", "port-restricted-cone", true),
];

const OF_BROWSERS: [Pair; 7] = [
    pair("few", "port-restricted-cone", "port-restricted-cone", true),
    pair("few", "symmetric", "port-restricted-cone", false),
    pair("more", "symmetric", "restricted-cone", true),
    pair("more", "open", "linux", true),
    pair("more", "symmetric-sequential", "port-restricted-cone", true),
    pair("more", "udp-blocked", "full-cone", false),
    pair("ipv6", "symmetric", "port-restricted-cone", true),
];

/// A browser may be slow to start, and a round takes eight seconds.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (turn, pair) in (0..).zip(&WITH_NAT_CHECK) {
        for browser in Browser::ALL {
            // One browser a pair is enough where it has to be quick.
            let group = if pair.group == "few" && turn % 2 != browser as usize { "more" } else { pair.group };
            let [a, b] = pair.nats;
            let name = format!("{group}::punch::{}::{a}-with-nat-check-{b}", browser.name());
            trials.push(trial(name, move || with_nat_check(browser, pair)));
        }
    }
    for (turn, pair) in (0..).zip(&OF_BROWSERS) {
        let [first, second] =
            if turn % 2 == 0 { Browser::ALL } else { [Browser::Firefox, Browser::Chromium] };
        let [a, b] = pair.nats;
        let name = format!("{}::punch::{}-{a}-with-{}-{b}", pair.group, first.name(), second.name());
        trials.push(trial(name, move || of_browsers([first, second], pair)));
    }
    trials
}

fn with_nat_check(browser: Browser, pair: &Pair) -> Result<(), LabError> {
    let lab = lab(pair)?;
    let _server = lab.probe_server()?;
    let command = lab.host(1).command(binary("nat-check")?).without("NAT_CHECK_SERVER");
    let server = SERVER4[0].to_string();
    let mut client =
        command.args(["punch", "--json", "--hold", "1", "--wait", "100", "--server", &server]).start()?;
    let line = client.error_line(PATIENCE, |line| line.contains("http://"))?;
    let link = line.split_whitespace().last().unwrap_or_default().to_owned();
    let visit = browser.visit(lab.host(0), &format!("{link}?auto=1"))?;
    let output = client.finish(PATIENCE)?;
    let told: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    tell(browser.name(), pair, &visit.report, &told);
    check(pair, &visit);
    judge(pair, &told, &output.stderr);
    Ok(())
}

fn of_browsers([first, second]: [Browser; 2], pair: &Pair) -> Result<(), LabError> {
    let lab = lab(pair)?;
    let _server = lab.probe_server()?;
    let server = format!("http://{}:3478/p/", SERVER4[0]);
    let mut inviting = first.open(lab.host(0), &format!("{server}?auto=1"))?;
    let code = inviting.attribute("code")?;
    let visit = second.visit(lab.host(1), &format!("{server}{code}?auto=1"))?;
    let invited = inviting.finish()?;
    tell(&format!("{} with {}", first.name(), second.name()), pair, &invited.report, &visit.report);
    check(pair, &invited);
    check(pair, &visit);
    Ok(())
}

/// The page's report is one of nat-check's, and as it should be.
fn check(pair: &Pair, visit: &Visit) {
    assert_eq!((visit.state.as_str(), visit.console.as_slice()), ("done", &[][..]), "{}", visit.status);
    let known = serde_json::from_value::<PunchDocument>(visit.report.clone());
    assert!(known.is_ok(), "the page's report is no report: {known:?}");
    judge(pair, &visit.report, &visit.status);
}

/// What comes of it is what is right, and what was predicted.
fn judge(pair: &Pair, report: &Value, told: &str) {
    let wanted = if pair.direct { "direct" } else { "failed" };
    let punch = &report["punch"];
    assert_eq!(punch["outcome"], wanted, "{punch:#} {told}");
    assert_eq!(punch["predicted"]["outcome"], wanted, "{punch:#} {told}");
}

fn tell(who: &str, pair: &Pair, a: &Value, b: &Value) {
    let word = |report: &Value| {
        let punch = &report["punch"];
        format!(
            "predicted {} {}, {} by {} in {} s",
            punch["predicted"]["outcome"],
            punch["predicted"]["probability"],
            punch["outcome"],
            punch["technique"],
            punch["first_packet_s"]
        )
    };
    println!("{who:<22} {:?}: {}; {}", pair.nats, word(a), word(b));
}

fn lab(pair: &Pair) -> Result<Lab, LabError> {
    let [a, b] = pair.nats;
    let families = if pair.group == "ipv6" { Families::DUAL } else { Families::V4 };
    let topology =
        Topology::new().families(families).router("router-a", a).line("delay=15ms").host("a", "router-a");
    Lab::build(&topology.router("router-b", b).line("delay=15ms").host("b", "router-b"))
}
