//! The lifetime measurement on real sockets: the kernel's NAT with two short timers, and modelled NATs that differ in
//! what refreshes a mapping, whose the timer is, and how exactly mappings end. Every NAT has a laboratory of its own, and
//! all of them run at the same time, as nearly all of it is waiting. Longer timers: `cargo bench -p tests --bench lifetime`.

lab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;

    use lab::{
        Lab, LabError,
        address::SERVER4,
        client::nat_check,
        harness::{self, trial},
        lifetime::bound,
        tun::TunSite,
    };
    use serde_json::Value;
    use shared::nat::model::{SpecError, Stack};

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            vec![
                trial("kernel::both_timers_and_which_is_which", || {
                    let nat = "linux,unreplied=7,replied=7,stream=11";
                    let found = Found::behind(&Lab::kernel(&[stack(nat)?])?)?;
                    found.brackets("unreplied", 7.0);
                    found.brackets("stream", 11.0);
                    assert_eq!(found.refresh("outbound"), Some(true));
                    assert_eq!(found.refresh("inbound"), Some(true));
                    assert_eq!(
                        found.refresh("elsewhere"),
                        Some(false),
                        "connection tracking has a timer a flow"
                    );
                    Ok(())
                }),
                trial("kernel::a_stream_timer_below_the_other", || {
                    let nat = "linux,unreplied=11,replied=11,stream=6";
                    let found = Found::behind(&Lab::kernel(&[stack(nat)?])?)?;
                    found.brackets("unreplied", 11.0);
                    found.brackets("stream", 6.0);
                    Ok(())
                }),
                trial("tun::6_seconds", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=6")?)?;
                    found.brackets("unreplied", 6.0);
                    found.brackets("stream", 6.0);
                    assert!(found.took <= bound(6.0), "{} s", found.took);
                    assert_eq!(found.refresh("elsewhere"), Some(true));
                    Ok(())
                }),
                trial("tun::packets_from_outside_keep_nothing", || {
                    let found = Found::behind(&tun("symmetric,timeout=8,refresh=outbound")?)?;
                    found.brackets("stream", 8.0);
                    assert_eq!(found.refresh("outbound"), Some(true));
                    assert_eq!(found.refresh("inbound"), Some(false));
                    Ok(())
                }),
                trial("tun::packets_from_inside_keep_nothing", || {
                    let found = Found::behind(&tun("restricted-cone,timeout=8,refresh=inbound")?)?;
                    assert_eq!(found.refresh("outbound"), Some(false));
                    assert_eq!(found.refresh("inbound"), Some(true));
                    Ok(())
                }),
                trial("tun::every_path_has_a_timer", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=8,timer-per=flow")?)?;
                    assert_eq!(found.refresh("elsewhere"), Some(false));
                    Ok(())
                }),
                trial("tun::sweeps_are_told_with_their_interval", || {
                    let found = Found::behind(&tun("port-restricted-cone,timeout=14,sweep=6")?)?;
                    // When sweeps and looks meet badly it stays open, but it is never called anything else.
                    let Some(clearing) = found.value["granularity"]["clearing"].as_str() else {
                        return Ok(());
                    };
                    assert_eq!(clearing, "swept", "{}", found.value);
                    let interval = found.value["granularity"]["seconds"].as_f64().unwrap_or_default();
                    assert!((4.0..=9.0).contains(&interval), "{interval}");
                    Ok(())
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

    /// What the client found.
    struct Found {
        value: Value,
        took: f64,
    }

    impl Found {
        fn behind(lab: &Lab) -> Result<Self, LabError> {
            let _server = lab.server()?;
            let run = nat_check(lab.host(0), SERVER4[0].into(), &["-4", "--lifetime=60"])?;
            let finding = &run.family()["udp"]["lifetime"];
            assert_eq!(finding["confidence"], "strong", "{finding}");
            Ok(Self {
                value: finding["value"].clone(),
                took: run.report["duration_s"].as_f64().unwrap_or(f64::INFINITY),
            })
        }

        #[track_caller]
        fn brackets(&self, which: &str, seconds: f64) {
            let bound = |name: &str| self.value[which][name].as_f64().unwrap_or(f64::NAN);
            let (alive, expired) = (bound("alive_s"), bound("expired_s"));
            // The kernel looks at its timers a few times a second.
            assert!(alive < seconds + 0.3 && seconds <= expired, "{seconds}: {}", self.value);
            assert!(expired - alive <= 1.5, "{}", self.value);
        }

        fn refresh(&self, which: &str) -> Option<bool> {
            self.value["refresh"][which].as_bool()
        }
    }
}
