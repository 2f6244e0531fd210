//! The laboratory itself: every NAT of every driver is what its name says, seen from both sides without the product.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("==> SKIPPED: the real drivers are for Linux");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;

    use lab::{
        Lab, LabError,
        harness::{self, trial},
        rules::{KernelNat, kernel_nats},
        truth::{observe, udp_is_blocked},
    };
    use shared::nat::Mapping;

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials: Vec<_> = kernel_nats()
                .into_iter()
                .map(|nat| {
                    trial(format!("kernel::{}", nat.name), move || kernel_nat_is_what_it_is_called(&nat))
                })
                .collect();
            trials.push(trial("kernel::two_sites_reach_one_server", two_sites_reach_one_server));
            trials
        })
    }

    fn kernel_nat_is_what_it_is_called(nat: &KernelNat) -> Result<(), LabError> {
        let lab = Lab::kernel(std::slice::from_ref(nat))?;
        let (Some(mapping), Some(filtering)) = (nat.mapping, nat.filtering) else {
            assert!(udp_is_blocked(&lab, lab.host(0))?, "UDP got through");
            return Ok(());
        };
        let truth = observe(&lab, lab.host(0), false)?;
        assert_eq!((truth.mapping, truth.filtering), (mapping, filtering), "{truth:?}");
        let truth = observe(&lab, lab.host(0), true)?;
        let innermost = nat.routers.last().expect("a router");
        assert_eq!((truth.mapping, truth.filtering), (Mapping::Direct, innermost.filtering6), "{truth:?}");
        Ok(())
    }

    fn two_sites_reach_one_server() -> Result<(), LabError> {
        let lab = Lab::kernel(&["symmetric".parse()?, "full-cone".parse()?])?;
        assert_eq!(observe(&lab, lab.host(0), false)?.mapping, Mapping::AddressAndPortDependent);
        assert_eq!(observe(&lab, lab.host(1), false)?.mapping, Mapping::EndpointIndependent);
        Ok(())
    }
}
