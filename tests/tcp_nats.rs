//! What is found over TCP on real networks: the real client and the real server's test sessions, behind the kernel's own NATs
//! and the model's between TUN devices.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{process::ExitCode, time::Duration};

    use natlab::{
        Lab, LabError,
        address::SERVER4,
        client::{ClientRun, nat_check, nat_check_within},
        harness::{self, trial},
        study::tcp_nats,
        tun::TunSite,
    };
    use serde_json::{Value, json};
    use shared::nat::{
        Filtering,
        model::{SpecError, Stack, TcpBehaviour, spec::Refusal},
    };

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = Vec::new();
            for name in tcp_nats() {
                trials.push(trial(format!("tun::{name}"), move || {
                    let stack = nat(&name)?;
                    is_reported(&Lab::tun(&[TunSite::new(stack.clone())], 1)?, &stack, None)
                }));
            }
            for (name, answer) in KERNEL {
                trials.push(trial(format!("kernel::{name}"), move || {
                    let stack = nat(name)?;
                    is_reported(&Lab::kernel(std::slice::from_ref(&stack))?, &stack, Some(answer))
                }));
            }
            trials.push(trial("kernel::full_cone_by_forwarding", full_cone_by_forwarding));
            trials.push(trial("tun::host_with_a_firewall", host_with_a_firewall));
            trials.push(trial("kernel::idle_connections_expire_and_come_back", || {
                kernel_expires(IDLE_S, true)
            }));
            trials.push(trial("kernel::idle_connections_expire_for_good", || kernel_expires(IDLE_S, false)));
            trials.push(trial("tun::idle_connections_expire", || {
                let nat = nat(&format!("port-restricted-cone,tcp-established={IDLE_S}s"))?;
                expires(&Lab::tun(&[TunSite::new(nat)], 1)?, IDLE_S, false)
            }));
            // As long as the timers are, and run where they are asked for.
            for timer in LONG_IDLE_S {
                let name = format!("kernel::idle_connections_expire_after_{timer}_s");
                trials.push(trial(name, move || kernel_expires(timer, true)).with_ignored_flag(true));
            }
            trials
        })
    }

    /// Masquerade, and a rule that forwards every port of the WAN side to the host.
    fn full_cone_by_forwarding() -> Result<(), LabError> {
        let lab = Lab::kernel(&[nat("linux")?])?;
        let router = &lab.routers()[1];
        router.nft(
            "flush chain ip nat-lab forw\n\
             table ip forwarding {\n\
             chain pre { type nat hook prerouting priority dstnat; iifname \"wan\" meta l4proto tcp dnat to 192.168.77.2; }\n\
             }\n",
        )?;
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &[])?;
        says(&run, "mapping", &"endpoint-independent".into());
        says(&run, "filtering", &"endpoint-independent".into());
        says(&run, "simultaneous_open", &Value::Bool(true));
        Ok(())
    }

    /// What filters is the host itself, behind a NAT that lets everything in.
    fn host_with_a_firewall() -> Result<(), LabError> {
        let run = behind_a_firewall_of_its_own(&nat("full-cone")?)?;
        says(&run, "filtering", &"address-and-port-dependent".into());
        says(&run, "simultaneous_open", &Value::Bool(true));
        answers(&run, "drop");
        // The NAT does nothing of the kind, nor does one that filters less.
        run.must_judge(&nat("full-cone")?);
        let stack = nat("restricted-cone")?;
        behind_a_firewall_of_its_own(&stack)?.must_judge(&stack);
        Ok(())
    }

    fn behind_a_firewall_of_its_own(stack: &Stack) -> Result<ClientRun, LabError> {
        let lab = Lab::tun(&[TunSite::new(stack.clone())], 1)?;
        lab.host(0).nft(
            "table inet own {\n\
             chain inp { type filter hook input priority 0; iifname \"eth0\" ct state new drop; }\n\
             }\n",
        )?;
        let _server = lab.server()?;
        nat_check(lab.host(0), SERVER4[0].into(), &[])
    }

    /// The timer of a NAT for open connections, in seconds: the shortest that the measurement brackets from both sides with two
    /// idle times below it.
    const IDLE_S: u32 = 17;

    /// Longer ones.
    const LONG_IDLE_S: [u32; 4] = [20, 60, 120, 300];

    /// Behind masquerade that forgets connections, and takes them up again by any packet from inside or by none.
    fn kernel_expires(timer: u32, revived: bool) -> Result<(), LabError> {
        let lab = Lab::kernel(&[nat("linux")?])?;
        let router = &lab.routers()[1];
        router.sysctl("net/netfilter/nf_conntrack_tcp_timeout_established", timer)?;
        router.sysctl("net/netfilter/nf_conntrack_tcp_loose", u32::from(revived))?;
        expires(&lab, timer, revived)
    }

    /// The bracket contains the timer, and is no wider than it may be.
    fn expires(lab: &Lab, timer: u32, revived: bool) -> Result<(), LabError> {
        let _server = lab.server()?;
        let longest = format!("--tcp-idle={}", 2 * timer + 10);
        let patience = Duration::from_secs((3 * timer + 60).into());
        let arguments = ["--only", "tcp-idle", &longest];
        let run = nat_check_within(patience, lab.host(0), SERVER4[0].into(), &arguments)?;
        let idle = &finding(&run, "idle")["value"];
        let [alive, expired] = ["alive_s", "expired_s"].map(|key| idle[key].as_f64().unwrap_or_default());
        let timer = f64::from(timer);
        assert!(alive > 0.0 && alive <= timer && timer <= expired, "{:#}", finding(&run, "idle"));
        assert!(expired <= 1.15 * timer + 10.0, "{idle}");
        assert_eq!(idle["revived_by_inside"], revived, "{idle}");
        println!("timer {timer} s: {alive} to {expired} s, found in {} s", run.report["duration_s"]);
        Ok(())
    }

    /// Linux masquerade, and what the kernel answers to unsolicited SYNs at its WAN side: with input accepted, nobody listens.
    const KERNEL: [(&str, &str); 6] = [
        ("linux", "drop"),
        ("linux-open-input", "reset"),
        ("linux,syn=icmp", "icmp"),
        ("linux-random", "drop"),
        ("linux+linux", "drop"),
        ("linux-firewall", "drop"),
    ];

    fn is_reported(lab: &Lab, stack: &Stack, answer: Option<&str>) -> Result<(), LabError> {
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &[])?;
        let expected = stack.behaviour().tcp.expect("TCP passes");
        // What the kernel answers to a SYN is not in the description.
        if answer.is_none() {
            run.must_judge(stack);
        }
        says(&run, "mapping", &json!(expected.mapping));
        says(&run, "filtering", &json!(expected.filtering));
        says(&run, "same_address_as_udp", &Value::Bool(true));
        says(&run, "intercepted", &Value::Bool(false));
        // Nothing in this network keeps two SYNs that cross from becoming one connection.
        assert_ne!(finding(&run, "simultaneous_open")["value"], false, "{}", run.family()["tcp"]);
        if let Some(answer) = answer.or_else(|| rejection(&expected)) {
            answers(&run, answer);
        }
        Ok(())
    }

    /// How a SYN is rejected at once; none where it may also be let in or left alone.
    fn rejection(expected: &TcpBehaviour) -> Option<&'static str> {
        let (refusal, after) = expected.unsolicited_syn?;
        match refusal {
            _ if !after.is_zero() || expected.filtering == Filtering::EndpointIndependent => None,
            Refusal::Drop => None,
            Refusal::Reset => Some("reset"),
            Refusal::Unreachable => Some("icmp"),
        }
    }

    fn finding<'a>(run: &'a ClientRun, name: &str) -> &'a Value {
        &run.family()["tcp"][name]
    }

    #[track_caller]
    fn says(run: &ClientRun, name: &str, value: &Value) {
        println!("{name}");
        harness::says(finding(run, name), value);
    }

    /// What an unsolicited SYN gets, if anything was seen of it.
    #[track_caller]
    fn answers(run: &ClientRun, answer: &str) {
        let found = &finding(run, "unsolicited_syn")["value"];
        if harness::is_decided(!found.is_null()) {
            assert_eq!(found["answer"], answer, "{}", run.family()["tcp"]);
        }
    }

    fn nat(name: &str) -> Result<Stack, LabError> {
        name.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }
}
