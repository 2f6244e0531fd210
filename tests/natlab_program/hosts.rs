//! What a host is to the programs on it: names, families, mounts, processes, the way out.

use super::linux::{nat_check, natlab};

pub(crate) const TESTS: [(&str, fn()); 6] = [
    ("names_resolve_inside", names_resolve_inside),
    ("a_host_has_a_name_and_files_of_its_own", a_host_has_a_name_and_files_of_its_own),
    ("what_a_host_mounts_stays_inside", what_a_host_mounts_stays_inside),
    ("hosts_have_ipv4_alone_unless_asked", hosts_have_ipv4_alone_unless_asked),
    ("a_route_shows_every_router", a_route_shows_every_router),
    ("programs_on_the_internet_are_found_by_name", programs_on_the_internet_are_found_by_name),
];

fn names_resolve_inside() {
    let ran = natlab(
        "pair -q --nat linux --nat open --internet {sleep 60} -- sh -c {getent ahostsv4 server echo b sleep} --- true",
    );
    let addresses: Vec<_> = ran.stdout.lines().filter(|line| line.contains("STREAM")).collect();
    for wanted in ["198.51.100.10", "192.0.2.18", "198.51.100.20"] {
        assert!(addresses.iter().any(|line| line.contains(wanted)), "{wanted}: {}", ran.stdout);
    }
}

fn a_host_has_a_name_and_files_of_its_own() {
    let ran = natlab(
        "run -q -- sh -c {cat /proc/sys/kernel/hostname; ls /sys/class/net; cat /proc/1/stat | cut -c1-2}",
    );
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.first(), Some(&"a"), "{}{}", ran.stdout, ran.stderr);
    // A container may forbid a /sys and /proc of its own.
    if lines.contains(&"eth0") {
        assert_eq!(lines, ["a", "eth0", "lo", "1 "]);
    }
    let resolver = natlab("run -q -- cat /etc/resolv.conf");
    assert!(resolver.stdout.starts_with("nameserver 127.0.0.1"), "{}", resolver.stdout);
}

fn what_a_host_mounts_stays_inside() {
    let mark = format!("natlab-{}", std::process::id());
    let line = format!("run -q -- sh -c {{mount -t tmpfs none /mnt && touch /mnt/{mark} && ls /mnt}}");
    let ran = natlab(&line);
    assert_eq!(ran.stdout, format!("{mark}\n"), "{}", ran.stderr);
    assert!(!std::path::Path::new("/mnt").join(mark).exists());
}

fn hosts_have_ipv4_alone_unless_asked() {
    let addresses = "sh -c {ip -o addr show dev eth0 | grep -v fe80; echo $NATLAB_SERVER6}";
    let v4 = natlab(&format!("run -q -- {addresses}")).stdout;
    assert!(v4.contains("inet ") && !v4.contains("inet6") && v4.ends_with("\n\n"), "{v4}");
    let both = natlab(&format!("run -q --dual -- {addresses}")).stdout;
    assert!(both.contains("inet ") && both.contains("inet6") && both.ends_with(":10]:3478\n"), "{both}");
    let v6 = natlab(&format!("run -q -6 -- {addresses}")).stdout;
    assert!(!v6.contains("inet ") && v6.contains("inet6"), "{v6}");
    let ran = natlab(&format!("run -q -6 -- {} --json", nat_check().display()));
    assert!(ran.code == 0 && ran.stdout.contains("\"ipv6\""), "{}", ran.stderr);
}

/// With the tool that people use; its own packets are in the network's unit tests.
fn a_route_shows_every_router() {
    if std::process::Command::new("traceroute").arg("--version").output().is_err() {
        eprintln!("==> SKIPPED: traceroute is not installed");
        return;
    }
    for way in ["", "-I"] {
        let ran = natlab(&format!("run -q --nat linux+symmetric -- traceroute -n -q 1 -w 2 {way} server"));
        let hops: Vec<_> =
            ran.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(
            hops,
            ["192.168.77.1", "100.64.0.1", "203.0.113.254", "198.51.100.10"],
            "{way} {}",
            ran.stderr
        );
    }
}

/// The probe server is ours, so that nothing has to be installed; it starts before the command does.
fn programs_on_the_internet_are_found_by_name() {
    let server = natlab::binaries::binary("probe-server").expect("probe-server is built");
    let server = format!("{} --primary 198.51.100.20", server.display());
    let line = format!(
        "run -q --nat symmetric --internet {{{server}}} -- {} --json --server probe-server",
        nat_check().display()
    );
    let ran = natlab(&line);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stderr);
    assert_eq!(report["server"]["ipv4"]["primary"], "198.51.100.20:3478", "{}", ran.stderr);
}
