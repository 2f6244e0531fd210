//! Layers of NAT on real networks: the real client behind one NAT, behind two or three in a row, with and without a gateway that
//! names its external address, with routers that keep silent. What is told for sure has to be right everywhere.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        net::UdpSocket,
        process::ExitCode,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
        time::Duration,
    };

    use natlab::{
        Lab, LabError,
        address::SERVER4,
        client::{ClientRun, nat_check},
        harness::{self, is_decided, trial},
        netns::Namespace,
        tun::TunSite,
    };
    use serde_json::Value;
    use shared::nat::model::{SpecError, Stack};

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let mut trials: Vec<_> = TOPOLOGIES
                .iter()
                .map(|topology| trial(format!("kernel::{}", topology.name), move || topology.check()))
                .collect();
            trials.push(trial("user_space::a_tunnel_is_a_vpn", tunnel));
            trials.push(trial("user_space::several_connections", several_connections));
            trials.push(trial("user_space::triple", triple));
            trials
        })
    }

    /// NATs of the kernel in a row.
    struct Topology {
        name: &'static str,
        /// As the laboratory names them, the innermost first.
        nats: &'static str,
        /// The networks between them, from the outside to the inside: the address of the outer router, and of the inner one.
        between: &'static [[&'static str; 2]],
        /// Routers that name an external address (NAT-PMP), counted from the inside.
        name_themselves: &'static [(usize, [u8; 4])],
        /// Whether routers send no ICMP errors.
        is_silent: bool,
        /// Further rules of the gateway.
        rules: &'static str,
        /// Where packets to the own external address are turned back.
        turned_at: Option<u64>,
        /// Routers that the server sees from the outermost NAT inwards.
        from_outermost: u64,
        kind: &'static str,
        at_least: u64,
        sure: Sure,
    }

    /// How sure the client has to be.
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Sure {
        /// Certain or strong.
        Yes,
        /// It names the right kind.
        Likely,
        /// It may not know, and says nothing else for sure.
        Open,
    }

    const EXTERNAL: [u8; 4] = [203, 0, 113, 1];
    const PLAIN: Topology = Topology {
        name: "",
        nats: "linux",
        between: &[],
        name_themselves: &[],
        is_silent: false,
        rules: "",
        turned_at: None,
        from_outermost: 1,
        kind: "one",
        at_least: 1,
        sure: Sure::Yes,
    };
    const DIRECT: Topology = Topology { nats: "open", from_outermost: 0, kind: "none", at_least: 0, ..PLAIN };
    const DOUBLE: Topology = Topology { nats: "linux+linux", from_outermost: 2, at_least: 2, ..PLAIN };
    const TURNING: Topology = Topology {
        nats: "linux+full-cone,hairpin=external",
        between: OWN,
        turned_at: Some(2),
        kind: "own-double",
        sure: Sure::Likely,
        ..DOUBLE
    };
    const OWN: &[[&str; 2]] = &[["192.168.1.1", "192.168.1.2"]];
    const CARRIER: &[[&str; 2]] = &[["100.64.0.1", "100.64.0.2"]];
    const CARRIER_10: &[[&str; 2]] = &[["10.20.0.1", "10.20.0.2"]];
    const AFTR: &[[&str; 2]] = &[["192.0.0.1", "192.0.0.2"]];

    const TOPOLOGIES: &[Topology] = &[
        Topology { name: "none", ..DIRECT },
        Topology { name: "firewall", nats: "firewall", at_least: 1, ..DIRECT },
        Topology { name: "one", sure: Sure::Likely, ..PLAIN },
        Topology { name: "one_that_names_itself", name_themselves: &[(0, EXTERNAL)], ..PLAIN },
        Topology { name: "one_that_answers_for_its_address", nats: "linux-open-input", ..PLAIN },
        Topology {
            name: "one_that_turns_packets_back",
            nats: "full-cone,hairpin=external",
            turned_at: Some(1),
            ..PLAIN
        },
        Topology {
            name: "one_that_turns_packets_back_without_icmp",
            nats: "full-cone,hairpin=external",
            is_silent: true,
            turned_at: Some(1),
            from_outermost: 0,
            sure: Sure::Open,
            ..PLAIN
        },
        Topology { name: "one_without_icmp", is_silent: true, from_outermost: 0, sure: Sure::Open, ..PLAIN },
        Topology { name: "own_double_that_turns_packets_back", ..TURNING },
        // What leaves and what comes in starts with a TTL anew at the gateway: nobody can count the routers behind it.
        Topology {
            name: "ttl_set_anew",
            rules: "chain pre { type filter hook prerouting priority -150; ip ttl set 64; }",
            turned_at: None,
            from_outermost: 1,
            sure: Sure::Open,
            ..TURNING
        },
        Topology {
            name: "ttl_set_anew_on_the_way_in",
            rules: "chain pre { type filter hook prerouting priority -150; iifname \"wan\" ip ttl set 64; }",
            turned_at: None,
            from_outermost: 1,
            ..TURNING
        },
        Topology { name: "own_double", between: OWN, kind: "own-double", sure: Sure::Likely, ..DOUBLE },
        Topology {
            name: "own_double_that_names_itself",
            between: OWN,
            name_themselves: &[(0, [192, 168, 1, 2])],
            kind: "own-double",
            sure: Sure::Likely,
            ..DOUBLE
        },
        Topology {
            name: "own_double_both_name_themselves",
            between: OWN,
            name_themselves: &[(0, [192, 168, 1, 2]), (1, EXTERNAL)],
            kind: "own-double",
            ..DOUBLE
        },
        Topology { name: "carrier", between: CARRIER, kind: "carrier-grade", ..DOUBLE },
        Topology {
            name: "carrier_whose_nat_lets_strangers_in",
            nats: "linux+full-cone",
            between: CARRIER,
            kind: "carrier-grade",
            ..DOUBLE
        },
        Topology {
            name: "carrier_behind_a_router_that_names_itself",
            between: CARRIER,
            name_themselves: &[(0, [100, 64, 0, 2])],
            kind: "carrier-grade",
            ..DOUBLE
        },
        Topology {
            name: "carrier_in_10",
            between: CARRIER_10,
            name_themselves: &[(0, [10, 20, 0, 2])],
            kind: "carrier-grade",
            sure: Sure::Likely,
            ..DOUBLE
        },
        Topology {
            name: "carrier_without_icmp",
            between: CARRIER,
            is_silent: true,
            from_outermost: 0,
            kind: "carrier-grade",
            sure: Sure::Open,
            ..DOUBLE
        },
        Topology {
            name: "ds_lite",
            between: AFTR,
            name_themselves: &[(0, [192, 0, 0, 2])],
            kind: "ds-lite",
            at_least: 1,
            ..DOUBLE
        },
    ];

    impl Topology {
        fn check(&self) -> Result<(), LabError> {
            let lab = Lab::kernel(&[nat(self.nats)?])?;
            let routers = &lab.routers()[1..];
            for (link, [outer, inner]) in self.between.iter().enumerate() {
                renumber(&routers[link], &routers[link + 1], outer, inner)?;
            }
            for router in routers.iter().filter(|_| self.is_silent) {
                router.nft(NO_ICMP_ERRORS)?;
            }
            if let Some(gateway) = routers.last().filter(|_| !self.rules.is_empty()) {
                gateway.nft(&format!("table ip more {{\n {}\n}}\n", self.rules))?;
            }
            let names = self.name_themselves.iter();
            let named: Result<Vec<Named>, LabError> =
                names.map(|(at, address)| Named::start(&routers[routers.len() - 1 - at], *address)).collect();
            let _named = named?;
            let _server = lab.server()?;
            let run = measure(&lab)?;
            self.judge(&run);
            Ok(())
        }

        fn judge(&self, run: &ClientRun) {
            let layers = &run.report["layers"];
            let of = |finding: &str| (layers[finding]["value"].clone(), is_sure(&layers[finding]));
            let told = format!("{}: {layers:#}\n{}", self.name, run.output.stderr);
            assert_eq!(run.output.code, 0, "{told}");
            let (kind, is_sure) = of("kind");
            assert!(!is_sure || kind == self.kind, "a wrong kind for sure, {told}");
            let (count, is_count_sure) = of("at_least");
            // More may be there than is counted; less may not.
            let most = if self.nats.contains('+') { 3 } else { 1 };
            let counted = count.as_u64().unwrap_or_default();
            assert!(!is_count_sure || counted <= most, "more boxes than there are, {told}");
            let evidence = &layers["kind"]["evidence"];
            // On a busy machine packets come too late to count.
            let turned_at = evidence["turned_back_at_hop"].as_u64();
            assert!(turned_at.is_none() || turned_at == self.turned_at, "{told}");
            is_decided(turned_at == self.turned_at);
            let inwards = evidence["routers_from_outermost_nat"].as_u64();
            assert!(inwards <= Some(self.from_outermost), "{told}");
            is_decided(inwards == Some(self.from_outermost));
            if self.sure == Sure::Open {
                return;
            }
            assert_eq!(kind, self.kind, "{told}");
            is_decided(is_sure || self.sure != Sure::Yes);
            assert!(counted >= self.at_least, "{told}");
        }
    }

    fn is_sure(finding: &Value) -> bool {
        finding["confidence"] == "certain" || finding["confidence"] == "strong"
    }

    fn nat(words: &str) -> Result<Stack, LabError> {
        words.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))
    }

    fn measure(lab: &Lab) -> Result<ClientRun, LabError> {
        nat_check(lab.host(0), SERVER4[0].into(), &["-4", "--only", "layers,distance"])
    }

    /// Gives the network between two routers other addresses.
    fn renumber(outer: &Namespace, inner: &Namespace, gateway: &str, address: &str) -> Result<(), LabError> {
        outer.ip(&format!("addr flush dev lan scope global\naddr add {gateway}/24 dev lan\n"))?;
        inner.ip(&format!(
            "addr add {address}/24 dev wan\nroute replace default via {gateway} src {address}\n\
             addr del {PLANNED}/32 dev wan\n"
        ))
    }

    /// What the laboratory gives the outside of an inner router.
    const PLANNED: &str = "100.64.0.2";

    const NO_ICMP_ERRORS: &str = "table inet quiet {
    chain out {
        type filter hook output priority 0; policy accept;
        icmp type { time-exceeded, destination-unreachable } drop
    }
}
";

    /// A router that names its external address by NAT-PMP (RFC 6886 section 3.2), and does nothing else.
    struct Named {
        is_over: Arc<AtomicBool>,
        serving: Option<thread::JoinHandle<()>>,
    }

    impl Named {
        fn start(router: &Namespace, address: [u8; 4]) -> Result<Self, LabError> {
            let socket = router.run(|| UdpSocket::bind(("0.0.0.0", 5351)));
            let socket = socket.map_err(LabError::io("opening a socket"))?;
            socket.set_read_timeout(Some(LOOK)).map_err(LabError::io("opening a socket"))?;
            let is_over = Arc::new(AtomicBool::new(false));
            let ends = Arc::clone(&is_over);
            let serving = thread::spawn(move || {
                let [a, b, c, d] = address;
                let response = [0, 128, 0, 0, 0, 0, 0, 1, a, b, c, d];
                let mut buffer = [0; 64];
                while !ends.load(Ordering::Relaxed) {
                    if let Ok((2, from)) = socket.recv_from(&mut buffer) {
                        _ = socket.send_to(&response, from);
                    }
                }
            });
            Ok(Self { is_over, serving: Some(serving) })
        }
    }

    impl Drop for Named {
        fn drop(&mut self) {
            self.is_over.store(true, Ordering::Relaxed);
            if let Some(serving) = self.serving.take() {
                _ = serving.join();
            }
        }
    }

    /// How soon the end of a test is noticed.
    const LOOK: Duration = Duration::from_millis(50);

    /// In the user-space laboratory the way out is a tunnel. With an interface that could carry it, that is a VPN.
    fn tunnel() -> Result<(), LabError> {
        let lab = Lab::tun(&[TunSite::new(nat("linux")?)], 1)?;
        let _server = lab.server()?;
        let kind = |run: &ClientRun| run.report["layers"]["kind"].clone();
        let alone = measure(&lab)?;
        assert_ne!(kind(&alone)["value"], "vpn", "nothing carries it: {:#}", alone.report["layers"]);
        Namespace::ip(
            lab.host(0),
            "link add card0 type veth peer name card1\naddr add 10.9.9.9/24 dev card0\nlink set card0 up\nlink set card1 up\n",
        )?;
        let carried = measure(&lab)?;
        assert_eq!(kind(&carried)["value"], "vpn", "{:#}", carried.report["layers"]);
        assert!(is_sure(&kind(&carried)));
        Ok(())
    }

    /// A router, another one behind it, and the carrier's; between them are addresses of a carrier.
    fn triple() -> Result<(), LabError> {
        let lab = Lab::tun(&[TunSite::new(nat("linux+linux+linux")?)], 1)?;
        let _server = lab.server()?;
        let run = measure(&lab)?;
        let layers = &run.report["layers"];
        assert_eq!(layers["kind"]["value"], "carrier-grade", "{layers:#}");
        assert!(
            layers["at_least"]["value"].as_u64().is_some_and(|count| (2..=3).contains(&count)),
            "{layers:#}"
        );
        Ok(())
    }

    fn several_connections() -> Result<(), LabError> {
        let stack = nat("mapping=apd,filtering=apd,ports=random,ips=4,pooling=flow")?;
        let lab = Lab::tun(&[TunSite::new(stack)], 1)?;
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &["-4"])?;
        let kind = &run.report["layers"]["kind"];
        assert_eq!(kind["value"], "multi-wan", "{:#}", run.report["layers"]);
        Ok(())
    }
}
