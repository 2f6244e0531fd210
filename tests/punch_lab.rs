//! Two real client processes punch on real networks: the model's NATs between TUN devices, and the kernel's own. The
//! probe server introduces them.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
#[path = "punch_lab/rooms.rs"]
mod rooms;

#[cfg(target_os = "linux")]
mod linux {
    use std::{process::ExitCode, time::Duration};

    use nat_check_core::net::sim::PathSpec;
    use natlab::{
        Lab, LabError,
        address::{SERVER4, SERVER6},
        binaries::binary,
        harness::{self, trial},
        host::Host,
        process::{Output, Running},
        tun::TunSite,
    };
    use serde_json::Value;
    use shared::nat::model::{SpecError, Stack};

    use crate::rooms;

    /// What must come of a pair.
    #[derive(Clone, Copy)]
    enum Expected {
        /// A direct path, found by this technique.
        By(&'static str),
        /// A direct path, found by either.
        Either(&'static str, &'static str),
        /// None.
        Failed,
    }
    use Expected::{By, Either, Failed};

    /// A pair: NATs, further arguments of both clients, what must come of it.
    struct Pair {
        name: &'static str,
        nats: [&'static str; 2],
        arguments: &'static [&'static str],
        expected: Expected,
        /// Whether that can be told beforehand.
        predictable: bool,
    }

    const fn pair(name: &'static str, a: &'static str, b: &'static str, expected: Expected) -> Pair {
        Pair { name, nats: [a, b], arguments: &[], expected, predictable: true }
    }

    /// Whether one NAT turns packets back between two hosts cannot always be seen from one of them.
    const fn unpredictable(pair: Pair) -> Pair {
        Pair { predictable: false, ..pair }
    }

    const fn with(arguments: &'static [&'static str], pair: Pair) -> Pair {
        Pair { arguments, ..pair }
    }

    const TCP4: &[&str] = &["--techniques", "tcp"];
    const V4: &[&str] = &["--techniques", "lan,simultaneous,low-ttl,prediction,tcp,birthday"];
    const UDP4: &[&str] = &["--techniques", "lan,simultaneous,low-ttl,prediction,birthday"];

    /// A home router and a carrier's, both of which remap when a stranger knocks first.
    const REMAPPING_TWICE: &str = "linux-open-input+linux-open-input";

    /// NATs of the kernel's own.
    const KERNEL: &[Pair] = &[
        with(V4, pair("open-open", "open", "open", By("simultaneous"))),
        with(V4, pair("linux-linux", "linux", "linux", By("simultaneous"))),
        with(
            V4,
            pair("wan-input-accepted-on-both-sides", "linux-open-input", "linux-open-input", By("low-ttl")),
        ),
        with(V4, pair("wan-input-accepted-on-one-side", "linux-open-input", "linux", By("low-ttl"))),
        with(V4, pair("full-cone-random", "full-cone", "linux-random", By("simultaneous"))),
        with(V4, pair("restricted-cone-random", "restricted-cone", "linux-random", By("simultaneous"))),
        with(UDP4, pair("masquerade-random", "linux", "linux-random", By("birthday"))),
        with(V4, pair("firewall-masquerade", "linux-firewall", "linux", By("simultaneous"))),
        with(V4, pair("double", "linux+linux", "linux", Either("simultaneous", "low-ttl"))),
        with(
            V4,
            pair("double-wan-input-accepted-everywhere", REMAPPING_TWICE, REMAPPING_TWICE, By("low-ttl")),
        ),
        with(UDP4, pair("random-random", "linux-random", "linux-random", Failed)),
        with(TCP4, pair("tcp", "linux", "linux", By("tcp"))),
        with(TCP4, pair("tcp-wan-input-accepted-on-one-side", "linux", "linux-open-input", By("tcp"))),
        with(TCP4, pair("tcp-double", "linux+linux", "linux", By("tcp"))),
        with(TCP4, pair("tcp-random-random", "linux-random", "linux-random", Failed)),
        with(
            &["--techniques", "ipv6"],
            pair("ipv6-firewalls", "linux-firewall", "linux-firewall", By("ipv6")),
        ),
        with(
            &["--techniques", "ipv6"],
            pair("ipv6-behind-masquerade", "linux-random", "linux-random", By("ipv6")),
        ),
    ];

    /// NATs of the model.
    const TUN: &[Pair] = &[
        with(V4, pair("full-cone-symmetric", "full-cone", "symmetric", By("simultaneous"))),
        with(
            V4,
            pair(
                "port-restricted-sequential",
                "port-restricted-cone",
                "symmetric-sequential",
                By("prediction"),
            ),
        ),
        with(
            V4,
            pair("sequential-sequential", "symmetric-sequential", "symmetric-sequential", By("prediction")),
        ),
        with(V4, pair("port-restricted-symmetric", "port-restricted-cone", "symmetric", By("birthday"))),
        with(
            V4,
            pair(
                "port-restricted-blocks",
                "port-restricted-cone",
                "mapping=apd,filtering=apd,ports=block",
                By("birthday"),
            ),
        ),
        with(V4, pair("symmetric-symmetric", "symmetric", "symmetric", Failed)),
        with(V4, pair("double-nat", "linux+carrier", "port-restricted-cone", By("simultaneous"))),
        with(V4, pair("wan-input-accepted", "linux-open-input", "linux-open-input", By("low-ttl"))),
        with(
            V4,
            pair("double-wan-input-accepted-everywhere", REMAPPING_TWICE, REMAPPING_TWICE, By("low-ttl")),
        ),
        with(
            V4,
            pair(
                "double-wan-input-accepted-outside",
                "linux+linux-open-input",
                REMAPPING_TWICE,
                By("low-ttl"),
            ),
        ),
        with(
            UDP4,
            pair(
                "filter-of-the-host",
                "mapping=apd,filtering=apd,ports=random,keyed=endpoint",
                "port-restricted-cone",
                By("simultaneous"),
            ),
        ),
        with(V4, pair("udp-blocked", "udp-blocked", "port-restricted-cone", By("tcp"))),
        with(UDP4, pair("udp-blocked-without-tcp", "udp-blocked", "port-restricted-cone", Failed)),
        with(V4, pair("tcp-alone", "udp-blocked", "udp-blocked", By("tcp"))),
        with(V4, pair("tcp-refused-on-one-side", "udp-blocked,syn=reset", "udp-blocked", By("tcp"))),
        with(V4, pair("tcp-counted", "symmetric-sequential,udp=blocked", "udp-blocked,syn=reset", By("tcp"))),
        with(V4, pair("tcp-kept", "udp-blocked", KEPT, By("tcp"))),
        with(V4, pair("tcp-accepted", "symmetric,udp=blocked", "restricted-cone,udp=blocked", By("tcp"))),
        with(V4, pair("tcp-random", "symmetric,udp=blocked", "udp-blocked", Failed)),
        with(&["--techniques", "ipv6"], pair("ipv6-firewalls", "firewall", "firewall", By("ipv6"))),
    ];

    const KEPT: &str = "mapping=apd,filtering=apd,ports=preserving,udp=blocked";
    const HAIRPIN: &str = "mapping=ei,filtering=apd,hairpin=external";
    /// Two hosts behind one NAT of the model.
    const NEIGHBOURS: &[Pair] = &[
        with(V4, pair("lan", "port-restricted-cone", "", By("lan"))),
        with(V4, pair("lan-behind-symmetric", "symmetric", "", By("lan"))),
        with(&["--techniques", "simultaneous"], pair("with-hairpinning", HAIRPIN, "", By("simultaneous"))),
        unpredictable(with(
            &["--techniques", "simultaneous"],
            pair("without-hairpinning", "port-restricted-cone", "", Failed),
        )),
    ];

    /// Two hosts behind one NAT of the kernel's.
    const KERNEL_NEIGHBOURS: &[Pair] = &[
        with(V4, pair("lan", "linux", "", By("lan"))),
        unpredictable(with(
            &["--techniques", "simultaneous"],
            pair("with-hairpinning", "full-cone,hairpin=external", "", By("simultaneous")),
        )),
        unpredictable(with(
            &["--techniques", "simultaneous"],
            pair("without-hairpinning", "linux", "", Failed),
        )),
    ];

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials = Vec::new();
            for pair in KERNEL {
                trials.push(trial(format!("kernel::{}", pair.name), || {
                    let lab = Lab::kernel(&[nat(pair.nats[0])?, nat(pair.nats[1])?])?;
                    punch(&lab, pair, Duration::ZERO)
                }));
            }
            for pair in TUN {
                trials.push(trial(format!("tun::{}", pair.name), || {
                    punch(&Lab::tun(&[site(pair.nats[0])?, site(pair.nats[1])?], 1)?, pair, Duration::ZERO)
                }));
            }
            for pair in NEIGHBOURS {
                trials.push(trial(format!("same-nat::{}", pair.name), || {
                    let site = TunSite { hosts: 2, ..site(pair.nats[0])? };
                    punch(&Lab::tun(&[site], 1)?, pair, Duration::ZERO)
                }));
            }
            for pair in KERNEL_NEIGHBOURS {
                trials.push(trial(format!("kernel-same-nat::{}", pair.name), || {
                    punch(&Lab::kernel_of(&[nat(pair.nats[0])?], 2)?, pair, Duration::ZERO)
                }));
            }
            for pair in KERNEL
                .iter()
                .filter(|pair| pair.name.contains("on-both-sides") || pair.name.contains("everywhere"))
            {
                trials.push(trial(format!("kernel::{}-and-a-late-start", pair.name), || {
                    let lab = Lab::kernel(&[nat(pair.nats[0])?, nat(pair.nats[1])?])?;
                    punch(&lab, pair, Duration::from_millis(1500))
                }));
            }
            trials.push(trial("no-peer-comes", no_peer_comes));
            trials.push(trial("a-room-of-8", rooms::eight_behind_eight_nats));
            trials.push(trial("a-room-that-members-leave", rooms::members_leave));
            trials
        })
    }

    fn nat(text: &str) -> Result<Stack, LabError> {
        text.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }

    pub(crate) fn site(text: &str) -> Result<TunSite, LabError> {
        Ok(TunSite::new(nat(text)?).over(PathSpec::with_delay_ms(15)))
    }

    fn start(host: &Host, arguments: &[&str]) -> Result<Running, LabError> {
        // A server that is known by its IPv4 address alone tells nobody's IPv6 address.
        let server = match arguments.contains(&"ipv6") {
            true => SERVER6[0].to_string(),
            false => SERVER4[0].to_string(),
        };
        let command = host.command(binary("nat-check")?).without("NAT_CHECK_SERVER");
        command.args(["punch", "--json", "--hold", "1", "--server", &server]).args(arguments).start()
    }

    /// A punch takes 20 s at the most when ports are guessed, and the machine may be busy.
    pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

    fn punch(lab: &Lab, pair: &Pair, late: Duration) -> Result<(), LabError> {
        let _server = lab.server()?;
        let mut first = start(lab.host(0), pair.arguments)?;
        let line = first.error_line(PATIENCE, |line| line.starts_with("code: "))?;
        let code = line.trim_start_matches("code: ").to_owned();
        std::thread::sleep(late);
        let second = start(lab.host(1), &[pair.arguments, &["--code", &code]].concat())?;
        let outputs = [first.finish(PATIENCE)?, second.finish(PATIENCE)?];
        for output in &outputs {
            judge(pair, output);
        }
        Ok(())
    }

    fn judge(pair: &Pair, output: &Output) {
        let told = format!("{}: exit code {}\n{}\n{}", pair.name, output.code, output.stdout, output.stderr);
        let report: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {told}"));
        let punch = &report["punch"];
        let technique = punch["technique"].as_str();
        let right = match pair.expected {
            By(wanted) => technique == Some(wanted),
            Either(one, other) => technique == Some(one) || technique == Some(other),
            Failed => technique.is_none(),
        };
        let direct = !matches!(pair.expected, Failed);
        if direct && punch["outcome"] == "direct" && !harness::is_decided(right) {
            // A measurement that a busy machine left open makes no prediction, and others try more.
            return;
        }
        assert!(right, "{told}");
        // What opens many mappings is told before it starts, and in the report.
        if technique == Some("birthday") {
            assert!(output.stderr.contains("Note before it starts: birthday: "), "{told}");
            assert!(punch["warnings"].as_array().is_some_and(|warnings| !warnings.is_empty()), "{told}");
        }
        assert_eq!(punch["outcome"], if direct { "direct" } else { "failed" }, "{told}");
        assert_eq!(output.code, i32::from(!direct), "{told}");
        // The prediction, made before, stands beside it and agrees.
        match punch["predicted"]["probability"].as_f64() {
            Some(chance) => assert!(if direct { chance >= 0.9 } else { chance == 0.0 }, "{told}"),
            None => _ = harness::is_decided(!pair.predictable),
        }
        if !direct {
            let why = punch["why"].as_str().unwrap_or_default();
            let told_by_all: &[&str] = match punch["rounds"].as_u64() {
                Some(0) => &["No technique applies"],
                _ => &["packets that left for", "the peer saw", "the server had"],
            };
            assert!(told_by_all.iter().all(|words| why.contains(words)), "{told}");
        }
        if direct {
            assert!(punch["rtt_s"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 1.0), "{told}");
            assert!(punch["rtt_via_server_s"].as_f64().is_some(), "{told}");
            assert!(punch["held_s"].as_f64().is_some_and(|held| held > 0.5), "{told}");
            assert!(punch["loss"].as_f64().is_some_and(|loss| loss < 0.3), "{told}");
        }
    }

    fn no_peer_comes() -> Result<(), LabError> {
        let lab = Lab::tun(&[site("open")?], 1)?;
        let _server = lab.server()?;
        let output = start(lab.host(0), &["--wait", "3"])?.finish(PATIENCE)?;
        assert_eq!((output.code, output.stdout.as_str()), (3, ""), "{}", output.stderr);
        assert!(output.stderr.contains("Waiting for the peer, "), "{}", output.stderr);
        assert!(output.stderr.contains("no peer came within 3 s"), "{}", output.stderr);
        let output = start(lab.host(0), &["--code", "tabo-kiru-lama-dosu"])?.finish(PATIENCE)?;
        assert_eq!(output.code, 3, "{}", output.stderr);
        assert!(output.stderr.contains("no session waits under this code"), "{}", output.stderr);
        let output = start(lab.host(0), &["--code", "nonsense"])?.finish(PATIENCE)?;
        assert_eq!(output.code, 2, "{}", output.stderr);
        Ok(())
    }
}
