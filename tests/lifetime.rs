//! The lifetime measurement (RFC 4787 section 4.3) on real sockets: the kernel's NAT with two short timers, and modelled
//! NATs that differ in what refreshes a mapping, whether a timer is per mapping or per flow, and how mappings expire. Every
//! NAT has a laboratory of its own, and all of them run at the same time, as nearly all of it is waiting. Longer timers: `cargo bench -p natlab --bench lifetime`.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{process::ExitCode, time::Duration};

    use natlab::{
        Lab, LabError,
        address::SERVER4,
        binaries::binary,
        client::nat_check,
        harness::{self, trial},
        tun::TunSite,
    };
    use serde_json::Value;
    use shared::nat::model::{SpecError, Stack};

    /// Far longer than a run takes, so that a busy machine fails no test.
    const PATIENCE: Duration = Duration::from_secs(90);

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            vec![
                trial("kernel::both_timers_are_distinguished", || {
                    let nat = "linux,unreplied=7,replied=7,stream=11";
                    let found = Found::behind(&Lab::kernel(&[stack(nat)?])?)?;
                    found.brackets("unreplied", 7.0);
                    found.brackets("stream", 11.0);
                    found.refreshes("outbound", true);
                    found.refreshes("inbound", true);
                    found.refreshes("elsewhere", false);
                    Ok(())
                }),
                trial("kernel::a_stream_timer_shorter_than_the_unreplied_one", || {
                    let nat = "linux,unreplied=11,replied=11,stream=6";
                    let found = Found::behind(&Lab::kernel(&[stack(nat)?])?)?;
                    found.brackets("unreplied", 11.0);
                    found.brackets("stream", 6.0);
                    Ok(())
                }),
                trial("tun::a_timer_of_6_s", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=6")?)?;
                    found.brackets("unreplied", 6.0);
                    found.brackets("stream", 6.0);
                    found.refreshes("elsewhere", true);
                    Ok(())
                }),
                trial("tun::inbound_packets_do_not_refresh", || {
                    let found = Found::behind(&tun("symmetric,timeout=8,refresh=outbound")?)?;
                    found.brackets("stream", 8.0);
                    found.refreshes("outbound", true);
                    found.refreshes("inbound", false);
                    Ok(())
                }),
                trial("tun::outbound_packets_do_not_refresh", || {
                    let found = Found::behind(&tun("restricted-cone,timeout=8,refresh=inbound")?)?;
                    found.refreshes("outbound", false);
                    found.refreshes("inbound", true);
                    Ok(())
                }),
                trial("tun::a_timer_per_flow", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=8,timer-per=flow")?)?;
                    found.refreshes("elsewhere", false);
                    Ok(())
                }),
                trial("tun::a_timer_per_mapping", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=8,timer-per=mapping")?)?;
                    found.refreshes("elsewhere", true);
                    Ok(())
                }),
                trial("tun::an_exact_timer_is_recognised", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=16")?)?;
                    found.brackets("unreplied", 16.0);
                    found.brackets("stream", 16.0);
                    found.expires("exact");
                    Ok(())
                }),
                trial("tun::sweeps_are_recognised_with_their_interval", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=12,sweep=9")?)?;
                    if found.expires("swept") {
                        let interval = found.value["granularity"]["seconds"].as_f64().unwrap_or_default();
                        assert!((7.0..=11.0).contains(&interval), "{interval}");
                    }
                    Ok(())
                }),
                trial("tun::jitter_is_recognised", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=12,jitter=10")?)?;
                    found.expires("jittered");
                    Ok(())
                }),
                trial("tun::a_nat_restart_invalidates_the_run", || {
                    restarted("port-restricted-cone,timeout=20")
                }),
                trial("tun::a_nat_restart_with_new_ports_invalidates_the_run", || {
                    restarted("symmetric,ports=random,timeout=20")
                }),
            ]
        })
    }

    fn stack(nat: &str) -> Result<Stack, LabError> {
        nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }

    fn tun(nat: &str) -> Result<Lab, LabError> {
        Lab::tun(&[TunSite::new(stack(nat)?)], 1)
    }

    /// The NAT is switched off and on when the client has said that mappings live for six seconds.
    fn restarted(nat: &str) -> Result<(), LabError> {
        let lab = tun(nat)?;
        let _server = lab.server()?;
        let server = SERVER4[0].to_string();
        let client = lab.host(0).command(binary("nat-check")?);
        let mut client = client.args(["--json", "--server", &server, "-4", "--lifetime=30"]).start()?;
        client.error_line(PATIENCE, |line| line.contains("still open after "))?;
        lab.restart_nats();
        let output = client.finish(PATIENCE)?;
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or(Value::Null);
        let finding = &report["ipv4"]["udp"]["lifetime"];
        assert_eq!(finding["value"], Value::Null, "{finding}");
        let reason = finding["reason"].as_str().unwrap_or_default();
        assert!(reason.contains("lost its state"), "{reason}");
        Ok(())
    }

    /// What the client found.
    struct Found {
        confidence: String,
        value: Value,
    }

    impl Found {
        fn behind(lab: &Lab) -> Result<Self, LabError> {
            let _server = lab.server()?;
            let run = nat_check(lab.host(0), SERVER4[0].into(), &["-4", "--lifetime=60"])?;
            let finding = &run.family()["udp"]["lifetime"];
            Ok(Self {
                confidence: finding["confidence"].as_str().unwrap_or_default().to_owned(),
                value: finding["value"].clone(),
            })
        }

        #[track_caller]
        fn brackets(&self, which: &str, seconds: f64) {
            if !harness::is_decided(self.confidence == "strong") {
                return;
            }
            let bound = |name: &str| self.value[which][name].as_f64().unwrap_or(f64::NAN);
            let (alive, expired) = (bound("alive_s"), bound("expired_s"));
            // The kernel looks at its timers a few times a second.
            assert!(alive < seconds + 0.3 && seconds <= expired, "{seconds}: {}", self.value);
            harness::is_decided(expired - alive <= 1.0);
        }

        #[track_caller]
        fn expires(&self, how: &str) -> bool {
            let found = self.value["granularity"]["clearing"].as_str();
            let is_decided = harness::is_decided(found.is_some());
            assert!(!is_decided || found == Some(how), "{how} is expected: {}", self.value);
            is_decided
        }

        #[track_caller]
        fn refreshes(&self, which: &str, expected: bool) {
            let found = self.value["refresh"][which].as_bool();
            if harness::is_decided(found.is_some()) {
                assert_eq!(found, Some(expected), "{which}: {}", self.value);
            }
        }
    }
}
