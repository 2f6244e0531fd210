//! IPv6 behind the kernel's routers: whether addresses are translated, and whether strangers reach ports that have sent nothing.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::process::ExitCode;

    use natlab::{
        Lab, LabError,
        address::SERVER6,
        client::nat_check,
        harness::{self, says, trial},
        netns::Namespace,
    };
    use serde_json::{Value, json};
    use shared::nat::model::{SpecError, Stack};

    /// A router, and what is to be said of it.
    struct Case {
        name: &'static str,
        /// What its firewall is, by the laboratory's name.
        nat: &'static str,
        /// Rules of its own.
        rules: &'static str,
        /// A second address of the host.
        second: Option<&'static str>,
        translation: &'static str,
        /// Whether that is sure.
        is_sure: bool,
        inbound: bool,
    }

    const NONE: Case = Case {
        name: "",
        nat: "open",
        rules: "",
        second: None,
        translation: "none",
        is_sure: true,
        inbound: true,
    };

    const CASES: [Case; 8] = [
        Case { name: "open", ..NONE },
        Case { name: "open-with-a-second-address", second: Some(SECOND), ..NONE },
        Case { name: "firewall", nat: "linux-firewall", inbound: false, ..NONE },
        // It lets strangers in at ports that have sent something, and at no others.
        Case { name: "opens-by-sending", rules: OPENS_BY_SENDING, inbound: false, ..NONE },
        Case { name: "prefix", rules: PREFIX, translation: "nptv6", is_sure: false, ..NONE },
        Case {
            name: "prefix-with-a-second-address",
            rules: PREFIX,
            second: Some(SECOND),
            translation: "nptv6",
            ..NONE
        },
        Case {
            name: "masquerade-with-a-second-address",
            rules: MASQUERADE,
            second: Some(SECOND),
            translation: "nat66",
            inbound: false,
            ..NONE
        },
        Case { name: "masquerade", rules: MASQUERADE, translation: "nat66", inbound: false, ..NONE },
    ];

    const SECOND: &str = "2001:db8:77::a:b:c:d";
    /// The prefix outside, which the core routes to the router.
    const OUTSIDE: &str = "2001:db8:8::/64";
    const PREFIX: &str = "table ip6 prefix {
        chain pre {
            type nat hook prerouting priority dstnat;
            iifname \"wan\" dnat ip6 prefix to ip6 daddr map { 2001:db8:8::/64 : 2001:db8:77::/64 }
        }
        chain post {
            type nat hook postrouting priority srcnat;
            oifname \"wan\" snat ip6 prefix to ip6 saddr map { 2001:db8:77::/64 : 2001:db8:8::/64 }
        }
    }
    ";
    const MASQUERADE: &str = "table ip6 hide {
        chain post {
            type nat hook postrouting priority srcnat;
            oifname \"wan\" masquerade
        }
    }
    ";
    const OPENS_BY_SENDING: &str = "table inet sending {
        set udp-seen { type ipv6_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }
        set tcp-seen { type ipv6_addr . inet_service; flags dynamic,timeout; timeout 300s; size 65536; }
        chain learn {
            type filter hook postrouting priority 90;
            oifname \"wan\" meta l4proto udp update @udp-seen { ip6 saddr . udp sport timeout 300s }
            oifname \"wan\" meta l4proto tcp update @tcp-seen { ip6 saddr . tcp sport timeout 300s }
        }
        chain forw {
            type filter hook forward priority -5;
            ct state established,related accept
            iifname \"wan\" ip6 daddr . udp dport @udp-seen accept
            iifname \"wan\" ip6 daddr . tcp dport @tcp-seen accept
            iifname \"wan\" meta l4proto { udp, tcp } drop
        }
    }
    ";

    pub(crate) fn main() -> ExitCode {
        harness::main(|| CASES.iter().map(|case| trial(case.name, || is_told(case))).collect())
    }

    fn is_told(case: &Case) -> Result<(), LabError> {
        let nat: Stack = case.nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        let lab = Lab::kernel(&[nat])?;
        let [core, router, ..] = lab.routers() else {
            return Err(LabError::Words("a laboratory without routers".into()));
        };
        core.ip(&format!("route add {OUTSIDE} via 2001:db8:203::1\n"))?;
        router.nft(case.rules)?;
        if let Some(second) = case.second {
            Namespace::ip(lab.host(0), &format!("addr add {second}/64 dev eth0 nodad\n"))?;
        }
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER6[0].into(), &["-6", "--only", "ipv6"])?;
        assert_eq!(run.output.code, 0, "{}", run.output.stderr);
        let ipv6 = &run.report["ipv6"];
        let translation = &ipv6["translation"];
        if case.is_sure {
            says(translation, &case.translation.into());
        } else {
            assert_eq!(
                (&translation["value"], &translation["confidence"]),
                (&case.translation.into(), &json!("weak"))
            );
            assert_eq!(translation["reason_code"], "identifier-too-short", "{translation:#}");
        }
        // The second address was asked from, where it makes a difference.
        let seen = &translation["evidence"]["second_external"];
        assert!(case.second.is_some() || *seen == Value::Null, "{translation:#}");
        for transport in ["udp", "tcp"] {
            says(&ipv6["inbound"][transport], &case.inbound.into());
        }
        Ok(())
    }
}
