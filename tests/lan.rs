//! `nat-check lan` on real switches: the kernel's bridge with snooping, isolated ports, deaf ports, rules that drop one direction,
//! and hosts whose system keeps groups back.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
#[path = "lan"]
mod linux {
    mod others;
    mod switch;

    use std::process::ExitCode;

    use natlab::{
        LabError,
        harness::{self, says, shows, trial},
        netns::Namespace,
    };
    use rustix::process::Signal;
    use serde_json::{Value, json};

    use others::{flood, responder};
    use switch::{PATIENCE, Switch, lan, report};

    const SNOOPING_OFF: &str = "mcast_snooping 0";
    /// A switch that asks who is a member, and minds what it is told a second later.
    const QUERIER: &str = "mcast_snooping 1 mcast_query_response_interval 100;mcast_querier 1";
    /// The same after a tenth of a second.
    const HASTY_QUERIER: &str = "mcast_snooping 1 mcast_query_response_interval 10;mcast_querier 1";

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            vec![
                trial("works::two_hosts_without_snooping", || {
                    everything_works(&Switch::new(2, SNOOPING_OFF)?)
                }),
                trial("works::two_hosts_with_a_querier", || everything_works(&Switch::new(2, QUERIER)?)),
                trial("works::three_hosts", || everything_works(&Switch::new(3, QUERIER)?)),
                trial("works::without_a_route_for_groups", without_a_route),
                trial("works::the_tunnel_is_left_out", beside_a_tunnel),
                trial("works::on_a_network_that_loses_a_third", lossy),
                trial("filtered::a_switch_that_does_not_know_the_members", reports_are_lost),
                trial("filtered::all_groups", all_groups),
                trial("filtered::a_deaf_port", deaf_port),
                trial("filtered::a_switch_that_forgets", forgotten),
                trial("isolated::three_hosts_of_which_two_are_isolated", two_of_three),
                trial("isolated::two_hosts_alone_cannot_tell", two_alone),
                trial("one_way::two_hosts", one_way_of_two),
                trial("one_way::a_third_host_makes_it_sure", one_way_of_three),
                trial("own_part::what_the_system_does_not_send", not_sent),
                trial("own_part::a_firewall_of_this_host", own_firewall),
                trial("alone::nobody_but_the_gateway", alone),
                trial("alone::devices_that_answer", devices),
                trial("hostile::a_flood_of_beacons", flooded),
                trial("ends::without_a_network", no_network),
                trial("ends::a_peer_elsewhere", peer_elsewhere),
                trial("ends::interrupted", interrupted),
            ]
        })
    }

    /// Every way arrives in both directions.
    fn everything_works(switch: &Switch) -> Result<(), LabError> {
        for lan in switch.all(&[])? {
            for finding in ["multicast", "ipv6_multicast", "broadcast"] {
                says(&lan[finding], &json!("works"));
            }
            for finding in ["isolation", "one_way"] {
                says(&lan[finding], &json!(false));
            }
            assert_eq!(lan["gateway"]["answers"], true, "{lan:#}");
            assert_eq!(lan["refused"], json!([]), "{lan:#}");
            let ways = lan["hears_itself"].as_array().map_or(0, Vec::len);
            assert!(ways >= 4, "{lan:#}");
        }
        Ok(())
    }

    /// The interface is chosen by the socket, so that routes do not matter.
    fn without_a_route() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?;
        switch.host(0).ip("route del default\n")?;
        switch.host(1).ip("route add unreachable 224.0.0.0/4\n")?;
        for lan in switch.all(&[])? {
            says(&lan["multicast"], &json!("works"));
            says(&lan["broadcast"], &json!("works"));
        }
        Ok(())
    }

    fn beside_a_tunnel() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?;
        switch.host(0).ip("tuntap add vpn mode tun\nlink set vpn up\naddr add 10.8.0.2/24 dev vpn\n\
             route replace default dev vpn\nroute add 224.0.0.0/4 dev vpn\n")?;
        for lan in switch.all(&[])? {
            assert_eq!((&lan["interface"], &lan["more_networks"]), (&json!("eth0"), &json!([])), "{lan:#}");
            says(&lan["multicast"], &json!("works"));
        }
        Ok(())
    }

    /// Loss is no filter. What is open then is so for a reason.
    fn lossy() -> Result<(), LabError> {
        let third = "table bridge drops {\n chain c {\n type filter hook forward priority 0;\n \
                     meta l4proto udp numgen random mod 100 < 33 drop\n }\n}\n";
        for lan in Switch::new(3, SNOOPING_OFF)?.with_rules(third)?.all(&[])? {
            for finding in ["multicast", "ipv6_multicast", "broadcast"] {
                shows(&lan[finding], &json!("works"));
            }
            for finding in ["isolation", "one_way"] {
                shows(&lan[finding], &json!(false));
            }
        }
        Ok(())
    }

    /// Snooping is on, there is a querier, and what hosts report does not arrive: the group goes to nobody, that of mDNS to all.
    fn reports_are_lost() -> Result<(), LabError> {
        let switch = Switch::new(2, HASTY_QUERIER)?.with_rules(&bridge_rule("ip protocol igmp"))?;
        for lan in switch.all(&[])? {
            says(&lan["multicast"], &json!("link-local-only"));
            says(&lan["broadcast"], &json!("works"));
            says(&lan["isolation"], &json!(false));
        }
        Ok(())
    }

    fn all_groups() -> Result<(), LabError> {
        let groups = "ip daddr 224.0.0.0/4";
        let rules = bridge_rule(groups) + &bridge_rule("ip6 daddr ff12::/16");
        for lan in Switch::new(2, SNOOPING_OFF)?.with_rules(&rules)?.all(&[])? {
            says(&lan["multicast"], &json!("filtered"));
            says(&lan["ipv6_multicast"], &json!("filtered"));
            says(&lan["broadcast"], &json!("works"));
            says(&lan["isolation"], &json!(false));
        }
        Ok(())
    }

    /// No group is passed on to the port of the first host; broadcasts and unicast are.
    fn deaf_port() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?.with_port(0, "mcast_flood off")?;
        for lan in switch.all(&[])? {
            says(&lan["multicast"], &json!("one-way"));
            says(&lan["ipv6_multicast"], &json!("one-way"));
            says(&lan["broadcast"], &json!("works"));
            says(&lan["isolation"], &json!(false));
        }
        Ok(())
    }

    /// The switch asks once, at its start, and remembers members for twelve seconds.
    fn forgotten() -> Result<(), LabError> {
        let forgets =
            "mcast_membership_interval 1200 mcast_query_interval 100000 mcast_startup_query_interval 100000";
        let switch = Switch::new(2, &format!("{QUERIER};{forgets}"))?;
        for lan in switch.all(&["--hold", "40"])? {
            says(&lan["lasts"], &json!(false));
            assert_eq!(lan["multicast"]["reason_code"], "group-forgotten", "{:#}", lan["multicast"]);
            says(&lan["broadcast"], &json!("works"));
        }
        Ok(())
    }

    fn isolate(switch: Switch, ports: [usize; 2]) -> Result<Switch, LabError> {
        ports.into_iter().try_fold(switch, |switch, port| switch.with_port(port, "isolated on"))
    }

    /// The third host is at an ordinary port: it reaches both.
    fn two_of_three() -> Result<(), LabError> {
        let switch = isolate(Switch::new(3, SNOOPING_OFF)?, [0, 1])?;
        for (host, lan) in switch.all(&[])?.into_iter().enumerate() {
            says(&lan["isolation"], &json!(true));
            says(&lan["multicast"], &json!("works"));
            let pairs = lan["isolation"]["evidence"]["isolated"].to_string();
            let both = pairs.contains("192.168.77.2") && pairs.contains("192.168.77.3");
            assert!(both && !pairs.contains("192.168.77.4"), "{host}: {pairs}");
        }
        Ok(())
    }

    /// Neither is heard by anybody. That is all that there is to say, even of a host that the user names.
    fn two_alone() -> Result<(), LabError> {
        let switch = isolate(Switch::new(2, SNOOPING_OFF)?, [0, 1])?;
        let a = switch.start(0, &["--wait", "15", "--peer", "192.168.77.3"])?;
        let b = switch.start(1, &["--wait", "15"])?;
        for running in [a, b] {
            let lan = lan(&running.finish(PATIENCE)?)?;
            for finding in ["isolation", "multicast", "broadcast", "one_way"] {
                assert_eq!(lan[finding]["confidence"], "unknown", "{lan:#}");
                assert_eq!(lan[finding]["reason_code"], "no-neighbour", "{lan:#}");
            }
            assert_eq!(lan["gateway"]["answers"], true, "{lan:#}");
        }
        Ok(())
    }

    /// Nothing of the first host's beacons arrives at the second.
    const TO_SECOND: &str = "table bridge drops {\n chain c {\n type filter hook forward priority 0;\n \
                             iifname \"port0\" oifname \"port1\" meta l4proto udp drop\n }\n}\n";

    fn one_way_of_two() -> Result<(), LabError> {
        let reports = Switch::new(2, SNOOPING_OFF)?.with_rules(TO_SECOND)?.all(&["--hold", "22"])?;
        shows(&reports[0]["one_way"], &json!(true));
        assert_ne!(reports[0]["one_way"]["confidence"], "strong", "nobody else says that it is there");
        assert_eq!(reports[0]["multicast"]["value"], Value::Null);
        assert_eq!(reports[1]["one_way"]["value"], Value::Null, "nothing arrives here");
        Ok(())
    }

    fn one_way_of_three() -> Result<(), LabError> {
        for lan in Switch::new(3, SNOOPING_OFF)?.with_rules(TO_SECOND)?.all(&[])? {
            says(&lan["one_way"], &json!(true));
            let pairs = &lan["one_way"]["evidence"]["pairs"];
            assert_eq!(*pairs, json!(["192.168.77.3 to 192.168.77.2"]), "{pairs}");
            assert_ne!(lan["isolation"]["value"], true, "{lan:#}");
        }
        Ok(())
    }

    /// A firewall of the first host rejects what leaves for groups: the system says so.
    fn not_sent() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?;
        switch.host(0).nft(
            "table ip drops {\n chain c {\n type filter hook output priority 0;\n ip daddr 239.255.77.78 drop\n }\n}\n",
        )?;
        let reports = switch.all(&[])?;
        assert_eq!(reports[0]["refused"], json!(["multicast", "multicast-ttl-4"]), "{:#}", reports[0]);
        for lan in reports {
            assert_eq!(lan["multicast"]["value"], Value::Null, "{lan:#}");
            assert_eq!(lan["multicast"]["reason_code"], "system-refused", "{lan:#}");
            says(&lan["broadcast"], &json!("works"));
        }
        Ok(())
    }

    /// A firewall of the first host drops what comes to groups, its own included: that is no filter of the network.
    fn own_firewall() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?;
        switch.host(0).nft(
            "table inet drops {\n chain c {\n type filter hook input priority 0;\n ip daddr 224.0.0.0/4 drop\n \
             ip6 daddr ff12::/16 drop\n }\n}\n",
        )?;
        for lan in switch.all(&[])? {
            for finding in ["multicast", "ipv6_multicast"] {
                assert_eq!(lan[finding]["value"], Value::Null, "{lan:#}");
                assert_eq!(lan[finding]["reason_code"], "system-refused", "{lan:#}");
            }
            says(&lan["broadcast"], &json!("works"));
        }
        Ok(())
    }

    fn alone() -> Result<(), LabError> {
        let switch = Switch::new(1, SNOOPING_OFF)?;
        let lan = lan(&switch.start(0, &[])?.finish(PATIENCE)?)?;
        assert_eq!((&lan["neighbours"], &lan["devices"]), (&json!([]), &json!([])), "{lan:#}");
        assert_eq!(lan["multicast"]["reason_code"], "no-neighbour");
        let reason = lan["isolation"]["reason"].as_str().unwrap_or_default();
        assert!(reason.starts_with("the gateway answers"), "{reason}");
        Ok(())
    }

    /// Who answers searches, and how, is all that one host can tell; it is never more than likely.
    fn devices() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?;
        let _responder = responder(switch.host(1))?;
        let lan = lan(&switch.start(0, &["--wait", "4"])?.finish(PATIENCE)?)?;
        let expected = json!([
            { "address": "192.168.77.3", "protocol": "mdns", "answers": "both", "software": null },
            { "address": "192.168.77.3", "protocol": "ssdp", "answers": "unicast", "software": "box/1.0" },
        ]);
        let mut found = lan["devices"].as_array().cloned().unwrap_or_default();
        found.sort_by_key(|it| it["protocol"].to_string());
        assert_eq!(Value::from(found), expected, "{lan:#}");
        assert_eq!(
            (&lan["multicast"]["value"], &lan["multicast"]["confidence"]),
            (&json!("works"), &json!("weak"))
        );
        assert_eq!(
            (&lan["isolation"]["value"], &lan["isolation"]["confidence"]),
            (&json!(false), &json!("weak"))
        );
        Ok(())
    }

    /// A third host sends beacons of hosts that are not there, as fast as it can. The two others find each other all the same.
    fn flooded() -> Result<(), LabError> {
        let switch = Switch::new(3, SNOOPING_OFF)?;
        let flood = flood(switch.host(2))?;
        let arguments = ["--wait", "60"];
        let running = [switch.start(0, &arguments)?, switch.start(1, &arguments)?];
        for running in running {
            let lan = lan(&running.finish(PATIENCE)?)?;
            let neighbours = lan["neighbours"].as_array().cloned().unwrap_or_default();
            let proven = neighbours.iter().filter(|it| it["known"] == "proven").count();
            assert!(proven == 1 && neighbours.len() <= 32, "{lan:#}");
            assert!(lan["ignored"].as_u64().is_some_and(|ignored| ignored > 1000), "{lan:#}");
            shows(&lan["isolation"], &json!(false));
            shows(&lan["multicast"], &json!("works"));
        }
        assert!(flood.answers() <= 2 * 160, "{}", flood.answers());
        Ok(())
    }

    fn no_network() -> Result<(), LabError> {
        let nowhere = Namespace::new("nowhere")?;
        let output = nowhere.command(natlab::binaries::binary("nat-check")?).arg("lan").output(PATIENCE)?;
        assert_eq!(output.code, 3, "{}", output.stderr);
        assert!(output.stderr.contains("no network with private IPv4 addresses"), "{}", output.stderr);
        Ok(())
    }

    fn peer_elsewhere() -> Result<(), LabError> {
        let output = Switch::new(1, SNOOPING_OFF)?.start(0, &["--peer", "10.1.2.3"])?.finish(PATIENCE)?;
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains("10.1.2.3"), "{}", output.stderr);
        Ok(())
    }

    fn interrupted() -> Result<(), LabError> {
        let switch = Switch::new(2, SNOOPING_OFF)?;
        let mut running = switch.start(0, &["--wait", "600"])?;
        let other = switch.start(1, &["--hold", "600"])?;
        running.error_line(PATIENCE, |line| line.contains("192.168.77.3 is there"))?;
        running.signal(Signal::INT)?;
        let output = running.finish(PATIENCE)?;
        assert_eq!(output.code, 130, "{}", output.stderr);
        let report = report(&output)?;
        assert_eq!(report["partial"], true, "{report:#}");
        assert_eq!(report["lan"]["neighbours"][0]["address"], "192.168.77.3", "{report:#}");
        drop(other);
        Ok(())
    }

    /// A rule of the switch that drops what is such.
    fn bridge_rule(what: &str) -> String {
        format!(
            "table bridge drops {{\n chain c {{\n type filter hook prerouting priority 0;\n {what} drop\n }}\n}}\n"
        )
    }
}
