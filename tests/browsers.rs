//! The server's page in real browsers, behind NATs whose behaviour is known. It is a suite of its own, since browsers are slow
//! to start: `cargo test -p natlab --test browsers`, with `few` for five NATs, as in CI.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
#[path = "browsers/documents.rs"]
mod documents;

#[cfg(target_os = "linux")]
#[path = "browsers/driver.rs"]
mod driver;

#[cfg(target_os = "linux")]
#[path = "browsers/peers.rs"]
mod peers;

#[cfg(target_os = "linux")]
#[path = "browsers/proxy.rs"]
mod proxy;

#[cfg(target_os = "linux")]
mod linux {
    use std::{process::ExitCode, time::Duration};

    use nat_check_core::{
        net::sim::{Loss, PathSpec},
        report::Report,
    };
    use natlab::{
        Lab, LabError,
        address::SERVER4,
        harness::{self, trial},
        oracle,
        tun::TunSite,
    };
    use serde_json::Value;
    use shared::nat::model::{PRESETS, SpecError, Stack};

    use super::{
        documents,
        driver::{Browser, Visit},
        peers, proxy,
    };

    /// Those that CI asks: every value of both axes that has a name, no NAT, and no UDP.
    const FEW: [&str; 5] = ["open", "restricted-cone", "port-restricted-cone", "symmetric", "udp-blocked"];
    /// Those that are asked on a line that loses one packet in ten, each way.
    const LOSSY: [&str; 4] = ["full-cone", "restricted-cone", "port-restricted-cone", "symmetric"];

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = peers::trials();
            trials.extend(documents::trials());
            trials.extend(proxy::trials());
            for browser in Browser::ALL {
                for preset in PRESETS {
                    let group = if FEW.contains(&preset.name) { "few" } else { "more" };
                    let name = format!("{group}::{}::{}", browser.name(), preset.name);
                    trials.push(trial(name, move || is_right(browser, preset.name)));
                }
                for nat in LOSSY {
                    let name = format!("loss::{}::{nat}", browser.name());
                    trials.push(trial(name, move || is_never_wrong(browser, nat)));
                }
            }
            trials
        })
    }

    /// Without loss nothing is wrong, and both axes are known.
    fn is_right(browser: Browser, nat: &str) -> Result<(), LabError> {
        let stack = stack(nat)?;
        let visit = measure(browser, &stack, PathSpec { delay: DELAY, ..PathSpec::default() })?;
        let judgement = oracle::judge_json(&expected(&stack), &visit.report);
        tell(browser, nat, &visit);
        assert_eq!((visit.state.as_str(), visit.console.as_slice()), ("done", &[][..]), "{}", visit.status);
        assert!(judgement.wrong.is_empty(), "wrong: {:#?}\n{:#}", judgement.wrong, visit.report);
        let axes: &[&str] = match stack.behaviour().udp {
            Some(_) => &["ipv4.udp.nat_type", "ipv4.udp.mapping", "ipv4.udp.filtering"],
            None => &["ipv4.udp.nat_type"],
        };
        for axis in axes {
            assert!(judgement.decided(axis), "{axis} is not decided: {:#}", visit.report);
        }
        let known = serde_json::from_value::<Report>(visit.report.clone());
        assert!(known.is_ok(), "the page's report is no report: {known:?}");
        Ok(())
    }

    /// With loss nothing is wrong.
    fn is_never_wrong(browser: Browser, nat: &str) -> Result<(), LabError> {
        let stack = stack(nat)?;
        let line = PathSpec { delay: DELAY, ..PathSpec::default() }.with_loss(Loss::Independent(0.1));
        let visit = measure(browser, &stack, line)?;
        let judgement = oracle::judge_json(&expected(&stack), &visit.report);
        tell(browser, nat, &visit);
        assert!(judgement.wrong.is_empty(), "wrong: {:#?}\n{:#}", judgement.wrong, visit.report);
        Ok(())
    }

    /// What the page can tell: nothing over TCP.
    fn expected(stack: &Stack) -> Value {
        let mut expected = oracle::expected(stack);
        if let Some(family) = expected["ipv4"].as_object_mut() {
            family.remove("tcp");
        }
        expected
    }

    /// Each way: a round trip takes 50 ms.
    const DELAY: Duration = Duration::from_millis(25);

    fn measure(browser: Browser, stack: &Stack, line: PathSpec) -> Result<Visit, LabError> {
        let lab = Lab::tun(&[TunSite::new(stack.clone()).over(line)], 1)?;
        let _server = lab.probe_server()?;
        browser.visit(lab.host(0), &format!("http://{}:3478/?auto=1", SERVER4[0]))
    }

    fn tell(browser: Browser, nat: &str, visit: &Visit) {
        let udp = &visit.report["ipv4"]["udp"];
        let word = |name: &str| match &udp[name]["value"] {
            Value::String(word) => word.clone(),
            Value::Object(ports) => ports["policy"].to_string(),
            other => other.to_string(),
        };
        let words =
            ["nat_type", "mapping", "filtering", "port_allocation", "hairpinning", "inbound_first_remap"];
        println!(
            "{:<9} {nat:<22} {} in {} s, ipv6 {}",
            browser.name(),
            words.map(word).join(" "),
            visit.report["duration_s"],
            visit.report["ipv6"]["status"],
        );
    }

    fn stack(name: &str) -> Result<Stack, LabError> {
        name.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }
}
