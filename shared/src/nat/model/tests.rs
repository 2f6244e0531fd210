//! The model does what its spec says: each setting observed from inside and outside.

use super::*;
use std::collections::BTreeSet;

const INSIDE: &str = "192.168.1.2:5000";
const NEIGHBOUR: &str = "192.168.1.3:5000";
const SERVER: &str = "198.51.100.1:3478";
const PEER: &str = "198.51.100.9:7000";

fn at(text: &str) -> SocketAddr {
    text.parse().expect("address")
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// A NAT with its clock.
struct Bench {
    nat: Nat,
    now: Duration,
}

impl Bench {
    fn new(spec: &str) -> Self {
        let external: Vec<IpAddr> = (1..=4).map(|n| at(&format!("203.0.113.{n}:0")).ip()).collect();
        Self { nat: Nat::new(spec.parse().expect(spec), &external, 1), now: Duration::ZERO }
    }

    fn wait(&mut self, seconds: f64) -> &mut Self {
        self.now += secs(seconds);
        self
    }

    fn verdict_out(&mut self, from: &str, to: &str) -> Verdict {
        self.nat.outbound(Packet::udp(at(from), at(to), vec![]), self.now)
    }

    /// The external endpoint of a packet that has to be forwarded.
    fn out(&mut self, from: &str, to: &str) -> SocketAddr {
        match self.verdict_out(from, to) {
            Verdict::Forward(packet) => packet.source,
            other => panic!("{from} to {to}: {other:?}"),
        }
    }

    fn verdict_in(&mut self, from: &str, to: SocketAddr) -> Verdict {
        self.nat.inbound(Packet::udp(at(from), to, vec![]), self.now)
    }

    /// Whether a packet from outside is forwarded.
    fn enters(&mut self, from: &str, to: SocketAddr) -> bool {
        matches!(self.verdict_in(from, to), Verdict::Forward(_))
    }

    fn tcp(&mut self, from: &str, to: SocketAddr, flags: TcpFlags) -> Verdict {
        self.nat.inbound(Packet::tcp(at(from), to, flags, vec![]), self.now)
    }
}

/// Longest idle time, to a tenth of a second, after which `probe` finds a mapping alive that `open` made.
fn lifetime(
    spec: &str,
    open: fn(&mut Bench) -> SocketAddr,
    probe: fn(&mut Bench, SocketAddr) -> bool,
) -> f64 {
    let alive = |tenths: u32| {
        let mut bench = Bench::new(spec);
        let external = open(&mut bench);
        bench.wait(f64::from(tenths) / 10.0);
        probe(&mut bench, external)
    };
    (0..5000).find(|tenths| !alive(tenths + 1)).map_or(f64::INFINITY, |tenths| f64::from(tenths) / 10.0)
}

fn hear_from_server(bench: &mut Bench, external: SocketAddr) -> bool {
    bench.enters(SERVER, external)
}

#[test]
fn linux_timers_are_30_s_and_120_s_and_a_stream_takes_two_seconds() {
    let solitary = |b: &mut Bench| b.out(INSIDE, SERVER);
    let answered = |b: &mut Bench| {
        let external = b.out(INSIDE, SERVER);
        assert!(b.enters(SERVER, external));
        external
    };
    let quick_burst = |b: &mut Bench| {
        let external = b.out(INSIDE, SERVER);
        for _ in 0..4 {
            b.wait(0.45);
            assert!(b.enters(SERVER, external));
            b.out(INSIDE, SERVER);
        }
        external
    };
    let stream = |b: &mut Bench| {
        let external = b.out(INSIDE, SERVER);
        for _ in 0..4 {
            b.wait(0.7);
            assert!(b.enters(SERVER, external));
            b.out(INSIDE, SERVER);
        }
        external
    };
    for (open, expected) in [
        (solitary as fn(&mut Bench) -> SocketAddr, 29.9),
        (answered, 29.9),
        (quick_burst, 29.9),
        (stream, 119.9),
    ] {
        assert!((lifetime("linux", open, hear_from_server) - expected).abs() < 0.05);
    }
}

#[test]
fn sweeps_and_jitter_only_lengthen_lifetimes() {
    let open = |b: &mut Bench| b.wait(3.0).out(INSIDE, SERVER);
    let lives = |spec| lifetime(spec, open, hear_from_server);
    assert!((lives("full-cone,timeout=60") - 59.9).abs() < 0.05);
    // Opened at 3 s, due at 63 s, removed at 70 s.
    assert!((lives("full-cone,timeout=60,sweep=10") - 66.9).abs() < 0.05);
    let jittered = lives("full-cone,timeout=60,jitter=8");
    assert!((60.0..68.0).contains(&jittered), "{jittered}");
}

#[test]
fn the_refresh_rule_decides_which_packets_refresh() {
    let kept_alive_by = |refresh: &str, outbound: bool| {
        let mut bench = Bench::new(&format!("full-cone,timeout=60,refresh={refresh}"));
        let external = bench.out(INSIDE, SERVER);
        for _ in 0..5 {
            bench.wait(25.0);
            if outbound {
                bench.verdict_out(INSIDE, SERVER)
            } else {
                bench.verdict_in(SERVER, external)
            };
        }
        // A packet from inside creates an expired mapping anew, but an unsolicited one is not accepted.
        bench.nat.mappings(bench.now) == 1 && bench.nat.table[0].clock.began() == Duration::ZERO
    };
    for (refresh, outbound, inbound) in
        [("both", true, true), ("outbound", true, false), ("inbound", false, true), ("none", false, false)]
    {
        assert_eq!(kept_alive_by(refresh, true), outbound, "{refresh}, packets from inside");
        assert_eq!(kept_alive_by(refresh, false), inbound, "{refresh}, packets from outside");
    }
}

#[test]
fn traffic_to_one_destination_refreshes_others_only_with_a_timer_per_mapping() {
    let peer_enters = |spec: &str| {
        let mut bench = Bench::new(spec);
        let external = bench.out(INSIDE, PEER);
        for _ in 0..10 {
            bench.wait(20.0).out(INSIDE, SERVER);
        }
        bench.enters(PEER, external)
    };
    assert!(peer_enters("port-restricted-cone,timeout=60"));
    assert!(!peer_enters("port-restricted-cone,timeout=60,timer-per=flow"));
    assert!(!peer_enters("linux"));
}

#[test]
fn filter_entries_belong_to_what_the_spec_says() {
    // An internal endpoint sends to two servers through two mappings; can the second send through the first?
    let crosses = |keyed: &str| {
        let mut bench = Bench::new(&format!("mapping=apd,filtering=ad,ports=random,keyed={keyed}"));
        let first = bench.out(INSIDE, SERVER);
        bench.out(INSIDE, PEER);
        let same_socket = bench.enters(PEER, first);
        let mut bench = Bench::new(&format!("mapping=apd,filtering=ad,ports=random,keyed={keyed}"));
        let first = bench.out(INSIDE, SERVER);
        bench.out("192.168.1.2:6000", PEER);
        (same_socket, bench.enters(PEER, first))
    };
    assert_eq!(crosses("mapping"), (false, false));
    assert_eq!(crosses("endpoint"), (true, false));
    assert_eq!(crosses("host"), (true, true));
}

#[test]
fn a_reply_uses_the_mapping_that_the_packet_came_in_through() {
    let mut bench = Bench::new("mapping=apd,filtering=ei,ports=random");
    let known = bench.out(INSIDE, SERVER);
    let early = bench.out(INSIDE, PEER);
    assert_ne!(known, early);
    assert!(bench.enters(PEER, known));
    assert_eq!(bench.out(INSIDE, PEER), known);
    assert_eq!(bench.out(INSIDE, SERVER), known);
}

#[test]
fn ports_follow_their_policy() {
    let ports = |spec: &str, count: u16| -> Vec<u16> {
        let mut bench = Bench::new(spec);
        (0..count).map(|n| bench.out(&format!("192.168.1.2:{}", 40000 + 7 * n), SERVER).port()).collect()
    };
    assert_eq!(ports("full-cone", 3), [40000, 40007, 40014]);
    for (step, wanted) in [("1", 1), ("2", 2), ("-3", -3)] {
        let given = ports(&format!("mapping=ei,ports=sequential,step={step},range=20000-60000"), 20);
        assert!(given.windows(2).all(|w| i32::from(w[1]) - i32::from(w[0]) == wanted), "{step}: {given:?}");
    }
    let random = ports("mapping=ei,ports=random,range=50000-50999", 200);
    assert!(random.iter().all(|p| (50000..=50999).contains(p)));
    assert_eq!(random.iter().collect::<BTreeSet<_>>().len(), 200, "a port serves two");
    let kept = ports("mapping=ei,ports=random,parity=yes", 100);
    assert!(kept.iter().enumerate().all(|(n, p)| usize::from(p % 2) == (40000 + 7 * n) % 2));
    let block = ports("mapping=ei,ports=block,block=64", 64);
    let (low, high) = (block.iter().min().expect("ports"), block.iter().max().expect("ports"));
    assert_eq!(high - low, 63);
    let more = ports("mapping=ei,ports=block,block=64", 65);
    assert!(!(low..=high).contains(&&more[64]), "a second block when the first is full");
}

#[test]
fn a_preserving_nat_falls_back_as_configured() {
    let second = |fallback: &str| {
        let mut bench = Bench::new(&format!("full-cone,fallback={fallback}"));
        assert_eq!(bench.out(INSIDE, SERVER).port(), 5000);
        match bench.verdict_out(NEIGHBOUR, SERVER) {
            Verdict::Forward(packet) => Some(packet.source.port()),
            _ => None,
        }
    };
    assert_eq!(second("next"), Some(5001));
    assert!(second("random").is_some_and(|port| port != 5000 && port != 5001));
    assert_eq!(second("refuse"), None);
}

#[test]
fn linux_shares_a_port_between_hosts_with_different_destinations() {
    let mut bench = Bench::new("linux");
    assert_eq!(bench.out(INSIDE, SERVER).port(), 5000);
    assert_eq!(bench.out(NEIGHBOUR, PEER).port(), 5000, "another destination: the same port will do");
    let clashed = bench.out(NEIGHBOUR, SERVER);
    assert_ne!(clashed.port(), 5000);
    let both = [bench.verdict_in(SERVER, at("203.0.113.1:5000")), bench.verdict_in(SERVER, clashed)];
    let inside = both.map(|v| match v {
        Verdict::Forward(packet) => packet.destination.to_string(),
        other => panic!("{other:?}"),
    });
    assert_eq!(inside, [INSIDE, NEIGHBOUR]);
}

#[test]
fn an_early_packet_from_outside_remaps_only_where_wan_input_is_accepted() {
    let remapped = |spec: &str, wait: f64| {
        let mut bench = Bench::new(spec);
        let external = bench.out(INSIDE, SERVER);
        assert!(!bench.enters(PEER, external));
        bench.wait(wait / 2.0).out(INSIDE, SERVER);
        bench.wait(wait / 2.0);
        let towards_peer = bench.out(INSIDE, PEER);
        // Later flows reuse the port of the newest one, as in the kernel.
        assert_eq!(bench.out(INSIDE, "198.51.100.9:7001"), towards_peer);
        assert_eq!(bench.out(INSIDE, SERVER), external, "flows that are there keep theirs");
        towards_peer != external
    };
    assert!(remapped("linux-open-input", 0.1));
    assert!(!remapped("linux-open-input", 31.0), "the entry of the stranger has expired");
    assert!(!remapped("linux", 0.1));
    assert!(!remapped("port-restricted-cone", 0.1));
}

#[test]
fn pools_are_paired_arbitrary_or_by_destination() {
    let ips = |pooling: &str, from: fn(u16) -> String, to: fn(u16) -> String| {
        let mut bench = Bench::new(&format!("mapping=apd,ports=random,ips=4,pooling={pooling}"));
        (0..40).map(|n| bench.out(&from(n), &to(n)).ip()).collect::<BTreeSet<_>>().len()
    };
    let one_host: fn(u16) -> String = |n| format!("192.168.1.2:{}", 4000 + n);
    let many_hosts: fn(u16) -> String = |n| format!("192.168.1.{}:4000", 2 + n);
    let one_server: fn(u16) -> String = |_| SERVER.to_owned();
    let many_servers: fn(u16) -> String = |n| format!("198.51.100.{}:3478", 1 + n);
    assert_eq!(ips("paired", one_host, many_servers), 1);
    assert_eq!(ips("paired", many_hosts, one_server), 4);
    assert_eq!(ips("arbitrary", one_host, one_server), 4);
    assert_eq!(ips("destination", many_hosts, one_server), 1);
    assert_eq!(ips("destination", one_host, many_servers), 4);
}

#[test]
fn where_so_many_mappings_are_kept_a_further_one_ends_the_oldest() {
    let mut bench = Bench::new("mapping=ei,filtering=ei,ports=preserving,keeps=2,timeout=60");
    for port in 1..=3 {
        bench.wait(1.0);
        bench.out(&format!("192.168.1.2:{}", 5000 + port), SERVER);
    }
    let enters = |bench: &mut Bench, port: u16| bench.enters(SERVER, at(&format!("203.0.113.1:{port}")));
    assert!(!enters(&mut bench, 5001), "the oldest");
    assert!(enters(&mut bench, 5002) && enters(&mut bench, 5003));
}

#[test]
fn quotas_and_ports_run_out_and_come_back() {
    let mut bench = Bench::new("mapping=ei,ports=random,quota=2,timeout=60");
    bench.out("192.168.1.2:1", SERVER);
    bench.out("192.168.1.2:2", SERVER);
    assert_eq!(bench.verdict_out("192.168.1.2:3", SERVER), Verdict::Drop(DropReason::Quota));
    bench.out("192.168.1.3:3", SERVER);
    bench.wait(60.0).out("192.168.1.2:3", SERVER);

    let mut bench = Bench::new("mapping=ei,ports=random,range=6000-6001,timeout=60,hold=30");
    bench.out("192.168.1.2:1", SERVER);
    bench.out("192.168.1.2:2", SERVER);
    assert_eq!(bench.verdict_out("192.168.1.2:3", SERVER), Verdict::Drop(DropReason::Exhausted));
    bench.wait(61.0);
    assert_eq!(bench.verdict_out("192.168.1.2:3", SERVER), Verdict::Drop(DropReason::Exhausted), "they rest");
    bench.wait(30.0).out("192.168.1.2:3", SERVER);
}

#[test]
fn hairpinning_is_as_configured() {
    let turned = |spec: &str| {
        let mut bench = Bench::new(spec);
        let goal = bench.out(INSIDE, SERVER).to_string();
        match bench.verdict_out(NEIGHBOUR, &goal) {
            Verdict::Hairpin(packet) => {
                assert_eq!(packet.destination, at(INSIDE));
                Some(packet.source.ip().to_string())
            }
            _ => None,
        }
    };
    assert_eq!(turned("full-cone"), None);
    assert_eq!(turned("full-cone,hairpin=internal").as_deref(), Some("192.168.1.3"));
    assert_eq!(turned("full-cone,hairpin=external").as_deref(), Some("203.0.113.1"));
    assert_eq!(turned("port-restricted-cone,hairpin=external"), None, "the filter holds for hairpins, too");
}

#[test]
fn an_alg_rewrites_addresses_both_ways() {
    let mut bench = Bench::new("full-cone,alg=yes");
    let from = at(INSIDE);
    let out =
        bench.nat.outbound(Packet::udp(from, at(SERVER), b"ip \xc0\xa8\x01\x02 end".to_vec()), bench.now);
    let Verdict::Forward(out) = out else { panic!("{out:?}") };
    assert_eq!(out.payload, b"ip \xcb\x00\x71\x01 end");
    let back = bench.nat.inbound(Packet::udp(at(SERVER), out.source, out.payload), bench.now);
    let Verdict::Forward(back) = back else { panic!("{back:?}") };
    assert_eq!(back.payload, b"ip \xc0\xa8\x01\x02 end");
}

#[test]
fn mapping_behaviour_changes_after_the_configured_number() {
    let mut bench = Bench::new("port-restricted-cone,ports=random,change-after=3");
    let early = bench.out("192.168.1.2:1", SERVER);
    assert_eq!(bench.out("192.168.1.2:1", PEER), early);
    bench.out("192.168.1.2:2", SERVER);
    bench.out("192.168.1.2:3", SERVER);
    let late = bench.out("192.168.1.2:4", SERVER);
    assert_ne!(bench.out("192.168.1.2:4", PEER), late);
    assert_eq!(bench.out("192.168.1.2:1", PEER), early, "what there is stays");
}

#[test]
fn fragments_pass_in_order_or_not_at_all() {
    let passes = |fragments: &str, order: [bool; 2]| {
        let mut bench = Bench::new(&format!("full-cone,fragments={fragments}"));
        order.map(|first| {
            let mut packet = Packet::udp(at(INSIDE), at(SERVER), vec![]);
            packet.fragment = Some(Fragment { id: 9, first });
            matches!(bench.nat.outbound(packet, bench.now), Verdict::Forward(_))
        })
    };
    assert_eq!(passes("pass", [false, true]), [true, true]);
    assert_eq!(passes("in-order", [true, false]), [true, true]);
    assert_eq!(passes("in-order", [false, true]), [false, true]);
    assert_eq!(passes("drop", [true, false]), [false, false]);
}

#[test]
fn an_unsolicited_syn_is_answered_as_configured() {
    let answer = |spec: &str, flags| {
        let mut bench = Bench::new(spec);
        match bench.tcp(PEER, at("203.0.113.1:5000"), flags) {
            Verdict::Answer { answer, after } => Some((answer.refused, after)),
            Verdict::Drop(_) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(answer("linux", TcpFlags::SYN), None);
    assert_eq!(answer("linux,syn=reset", TcpFlags::SYN), Some((Refused::Reset, Duration::ZERO)));
    assert_eq!(answer("linux,syn=icmp,syn-delay=6", TcpFlags::SYN), Some((Refused::Unreachable, secs(6.0))));
    assert_eq!(answer("linux,syn=reset", TcpFlags::ACK), None, "only a SYN is refused");
}

#[test]
fn tcp_needs_a_syn_and_takes_one_from_the_other_side_of_an_open() {
    let mut bench = Bench::new("port-restricted-cone");
    let segment = |flags| Packet::tcp(at(INSIDE), at(PEER), flags, vec![]);
    assert_eq!(bench.nat.outbound(segment(TcpFlags::ACK), bench.now), Verdict::Drop(DropReason::NoMapping));
    let Verdict::Forward(syn) = bench.nat.outbound(segment(TcpFlags::SYN), bench.now) else {
        panic!("no way out")
    };
    assert!(matches!(bench.tcp(PEER, syn.source, TcpFlags::SYN), Verdict::Forward(_)), "simultaneous open");
    assert!(matches!(bench.tcp(SERVER, syn.source, TcpFlags::SYN), Verdict::Drop(DropReason::Filtered)));
    assert!(!bench.enters(PEER, syn.source), "UDP has mappings of its own");
}

#[test]
fn a_family_without_an_external_address_is_filtered_but_not_translated() {
    let mut bench = Bench::new("linux");
    let (inside, server) = ("[2001:db8::2]:5000", "[2001:db8:1::1]:3478");
    assert!(!bench.enters(server, at(inside)));
    assert_eq!(bench.out(inside, server), at(inside));
    assert!(bench.enters(server, at(inside)));
    assert!(!bench.enters("[2001:db8:1::1]:9", at(inside)));
}

#[test]
fn responses_return_to_the_sender_whatever_the_spec() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut pick = |words: &[&'static str]| words[rng.usize(..words.len())];
    for round in 0..300 {
        let spec = format!(
            "mapping={},filtering={},ports={},keyed={},timer-per={},pooling={},ips=3,quota=60,timeout=20,block=64",
            pick(&["direct", "ei", "ad", "apd", "pd"]),
            pick(&["ei", "ad", "apd", "pd"]),
            pick(&["preserving", "sequential", "random", "block"]),
            pick(&["mapping", "endpoint", "host"]),
            pick(&["mapping", "flow"]),
            pick(&["paired", "arbitrary", "destination"]),
        );
        let spec = if round % 4 == 0 {
            pick(&["linux", "linux-random", "linux-open-input"]).to_owned()
        } else {
            spec
        };
        let mut bench = Bench::new(&spec);
        let mut rng = fastrand::Rng::with_seed(round);
        for _ in 0..200 {
            bench.wait(rng.f64());
            let from = format!("192.168.1.{}:{}", rng.u8(2..5), rng.u16(5000..5008));
            let to = format!("198.51.100.{}:{}", rng.u8(1..4), rng.u16(3478..3481));
            if rng.u8(..4) == 0 {
                bench.verdict_in(&to, at(&format!("203.0.113.1:{}", rng.u16(5000..5008))));
            }
            let Verdict::Forward(sent) = bench.verdict_out(&from, &to) else { continue };
            let back = bench.verdict_in(&to, sent.source);
            let Verdict::Forward(back) = back else {
                panic!("{spec}: {from} to {to} as {}: {back:?}", sent.source)
            };
            assert_eq!(back.destination, at(&from), "{spec}");
        }
    }
}
