//! Every scenario that a real driver can express, with the real programs: the tun driver and the kernel must find what
//! the simulated network finds, because all three are held against the same files.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;

    use natlab::{
        Lab, LabError,
        address::{SERVER4, SERVER6},
        client::nat_check,
        harness::{self, trial},
        oracle::{self, Judgement},
        rules::can_express,
        scenario::{Driver, Network, Scenario},
        tun::TunSite,
    };

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = vec![trial("kernel::is_used_for_all_that_it_can_express", kernel_is_used)];
            for (driver, name) in [(Driver::Kernel, "kernel"), (Driver::Tun, "tun")] {
                for scenario in Scenario::for_driver(driver).expect("scenarios") {
                    let name = format!("{name}::{}", scenario.name);
                    trials.push(trial(name, move || is_reported_as_it_says(&scenario, driver)));
                }
            }
            trials
        })
    }

    fn is_reported_as_it_says(scenario: &Scenario, driver: Driver) -> Result<(), LabError> {
        assert!(scenario.server.faults.is_empty(), "only the simulated server can be faulty");
        let lab = match driver {
            Driver::Kernel => Lab::kernel(std::slice::from_ref(&scenario.nat))?,
            Driver::Tun => Lab::tun(&[TunSite::new(scenario.nat.clone()).over(scenario.network.path())], 1)?,
            Driver::Sim => unreachable!("the simulated driver has a test of its own"),
        };
        let _server = lab.server()?;
        let asked: &[&str] = if scenario.client.port_mapping { &["--port-mapping"] } else { &[] };
        let arguments = [&["--seed", "1"], asked].concat();
        let v4 = nat_check(lab.host(0), SERVER4[0].into(), &arguments)?;
        let mut report = v4.report.clone();
        if scenario.network.ipv6 {
            let v6 = nat_check(lab.host(0), SERVER6[0].into(), &["--seed", "1"])?;
            report["ipv6"] = v6.report["ipv6"].clone();
        }
        let expected = serde_json::to_value(&scenario.report).expect("TOML is JSON");
        let Judgement { wrong, undecided, right } = oracle::judge_json(&expected, &report);
        // Where nothing gets lost, no more stays open than a busy machine makes late.
        if !scenario.network.loses() {
            harness::is_decided(undecided.is_empty());
        }
        let printed = &v4.output.stderr;
        assert!(wrong.is_empty(), "{}; {printed}", wrong.join("; "));
        assert!(!right.is_empty(), "nothing of it was said; {printed}");
        Ok(())
    }

    /// A scenario that the kernel could express, but does not name the kernel as a driver, is a test that is missing.
    fn kernel_is_used() -> Result<(), LabError> {
        let all = Scenario::all().map_err(LabError::Words)?;
        let usual = |network: &Network| network.path() == Network::default().path();
        let missed = all.iter().filter(|s| {
            let possible = can_express(&s.nat) && usual(&s.network) && s.server.faults.is_empty();
            possible != s.drivers.contains(&Driver::Kernel)
        });
        let missed: Vec<_> = missed.map(|s| s.name.as_str()).collect();
        assert!(
            missed.is_empty(),
            "the kernel is named where it cannot be, or the other way round: {missed:?}"
        );
        Ok(())
    }
}
