//! The laboratory itself: every NAT of every driver is what its name says, seen from both sides without the product.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;

    use natlab::{
        Lab, LabError,
        harness::{self, trial},
        rules::KERNEL_NATS,
        truth::{early_packet, observe, udp_is_blocked},
        tun::TunSite,
    };
    use shared::nat::{
        Mapping,
        model::{PRESETS, SpecError, Stack},
    };

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = Vec::new();
            for name in KERNEL_NATS {
                trials.push(trial(format!("kernel::{name}"), || kernel_nat_is_what_the_oracle_says(name)));
            }
            for name in tun_nats() {
                trials.push(trial(format!("tun::{name}"), move || tun_nat_is_what_the_oracle_says(&name)));
            }
            for (name, remaps) in [("linux", false), ("linux-open-input", true)] {
                trials.push(trial(format!("an_early_packet::{name}"), move || an_early_packet(name, remaps)));
            }
            trials.push(trial("kernel::two_sites_reach_one_server", two_sites_reach_one_server));
            trials
        })
    }

    fn kernel_nat_is_what_the_oracle_says(name: &str) -> Result<(), LabError> {
        let stack = nat(name)?;
        agrees_with_the_oracle(&Lab::kernel(std::slice::from_ref(&stack))?, &stack)
    }

    fn tun_nat_is_what_the_oracle_says(name: &str) -> Result<(), LabError> {
        let stack = nat(name)?;
        agrees_with_the_oracle(&Lab::tun(&[TunSite::new(stack.clone())], 7)?, &stack)
    }

    fn agrees_with_the_oracle(lab: &Lab, stack: &Stack) -> Result<(), LabError> {
        let Some(expected) = stack.behaviour().udp else {
            assert!(udp_is_blocked(lab, lab.host(0))?, "UDP got through");
            return Ok(());
        };
        let truth = observe(lab, lab.host(0), false)?;
        assert_eq!((truth.mapping, truth.filtering), (expected.mapping, expected.filtering), "{truth:?}");
        let truth = observe(lab, lab.host(0), true)?;
        assert_eq!((truth.mapping, truth.filtering), (Mapping::Direct, expected.filtering), "{truth:?}");
        Ok(())
    }

    fn nat(name: &str) -> Result<Stack, LabError> {
        name.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }

    /// Every preset, and every mapping with every filtering.
    fn tun_nats() -> Vec<String> {
        let presets = PRESETS.iter().map(|preset| preset.name.to_owned());
        let classes = ["direct", "ei", "ad", "apd", "pd"].into_iter().flat_map(|mapping| {
            let class = move |filtering| format!("mapping={mapping},filtering={filtering}");
            ["ei", "ad", "apd", "pd"].map(class)
        });
        presets.chain(classes).chain(["linux+symmetric".into(), "full-cone+restricted-cone".into()]).collect()
    }

    /// The model does what the kernel does, down to the port of flows that begin afterwards.
    fn an_early_packet(name: &str, remaps: bool) -> Result<(), LabError> {
        let stack = nat(name)?;
        let lab = Lab::kernel(std::slice::from_ref(&stack))?;
        let kernel = early_packet(&lab, lab.host(0))?;
        let lab = Lab::tun(&[TunSite::new(stack)], 7)?;
        let model = early_packet(&lab, lab.host(0))?;
        assert_eq!(kernel, model);
        assert_eq!(kernel.towards_the_stranger, remaps);
        assert!(kernel.later_flows_follow && kernel.old_flows_stay, "{kernel:?}");
        Ok(())
    }

    fn two_sites_reach_one_server() -> Result<(), LabError> {
        let lab = Lab::kernel(&[nat("symmetric")?, nat("full-cone")?])?;
        assert_eq!(observe(&lab, lab.host(0), false)?.mapping, Mapping::AddressAndPortDependent);
        assert_eq!(observe(&lab, lab.host(1), false)?.mapping, Mapping::EndpointIndependent);
        Ok(())
    }
}
