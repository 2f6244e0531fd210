//! The main job on real networks: the real client on a host, a real NAT in front of it, the real server behind a
//! router hop. The NATs are the kernel's own, and the model's between TUN devices.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;

    use natlab::{
        Lab, LabError,
        address::{SERVER4, SERVER6},
        client::{ClientRun, nat_check},
        harness::{self, trial},
        rules::KERNEL_NATS,
        tun::TunSite,
    };
    use shared::nat::{
        Mapping, NatType,
        model::{Behaviour, SpecError, Stack},
    };

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = Vec::new();
            for name in KERNEL_NATS {
                trials.push(trial(format!("kernel::{name}"), || {
                    let stack = nat(name)?;
                    is_reported(&Lab::kernel(std::slice::from_ref(&stack))?, &stack).map(drop)
                }));
            }
            for name in all_classes() {
                trials.push(trial(format!("tun::{name}"), move || {
                    let stack = nat(&name)?;
                    let run = is_reported(&Lab::tun(&[TunSite::new(stack.clone())], 1)?, &stack)?;
                    // The kernel's rules translate TCP in a way of their own.
                    run.must_judge(&stack);
                    Ok(())
                }));
            }
            trials
        })
    }

    /// All mapping and filtering classes, and stacks of NATs.
    fn all_classes() -> Vec<String> {
        let classes = ["ei", "ad", "apd"].into_iter().flat_map(|mapping| {
            ["ei", "ad", "apd"].map(move |filtering| format!("mapping={mapping},filtering={filtering}"))
        });
        let others = [
            "open",
            "firewall",
            "firewall-address",
            "linux",
            "linux-open-input",
            "carrier",
            "linux+symmetric",
        ];
        classes.chain(others.map(str::to_owned)).collect()
    }

    fn is_reported(lab: &Lab, stack: &Stack) -> Result<ClientRun, LabError> {
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &[])?;
        run.must_say(&stack.behaviour());
        nat_check(lab.host(0), SERVER6[0].into(), &[])?.must_say(&over_ipv6(&stack.behaviour()));
        Ok(run)
    }

    /// Over IPv6 nothing is translated, but the same filters stand in the way.
    fn over_ipv6(expected: &Behaviour) -> Behaviour {
        let mut expected = expected.clone();
        if let Some(udp) = &mut expected.udp {
            udp.mapping = Mapping::Direct;
            expected.nat_type = NatType::derive(udp.mapping, udp.filtering);
        }
        expected
    }

    fn nat(name: &str) -> Result<Stack, LabError> {
        name.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }
}
