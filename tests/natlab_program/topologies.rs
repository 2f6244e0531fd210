//! Topologies from files: programs, exec, set, schedules, captures, pictures.

use std::{fs, path::PathBuf};

use super::linux::{Ran, natlab};

pub(crate) const TESTS: [(&str, fn()); 7] = [
    ("a_topology_runs_its_programs", a_topology_runs_its_programs),
    ("a_command_reaches_hosts_and_changes_things", a_command_reaches_hosts_and_changes_things),
    ("a_host_roams", a_host_roams),
    ("a_schedule_is_kept", a_schedule_is_kept),
    ("both_sides_of_a_nat_are_captured", both_sides_of_a_nat_are_captured),
    ("a_rate_is_kept", a_rate_is_kept),
    ("what_is_wrong_with_a_file_or_change_is_named", what_is_wrong_with_a_file_or_change_is_named),
];

const TWO_HOUSES: &str = r#"
[[router]]
name = "home"
nat = "symmetric"

[[router]]
name = "office"
nat = "linux"

[[host]]
name = "alice"
on = "home"
run = "sh -c 'echo I am $NATLAB_HOST; exit 3'"

[[host]]
name = "bob"
on = ["office", { router = "home", routes = ["198.51.100.11/32"] }]
"#;

fn a_topology_runs_its_programs() {
    let ran = up("programs", TWO_HOUSES, "");
    assert_eq!((ran.code, &*ran.stdout), (3, "alice| I am alice\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("bob"), "the picture: {}", ran.stderr);
}

/// The probe server says where it sees a host, which tells whether the change is in force.
fn a_command_reaches_hosts_and_changes_things() {
    let script = format!(
        "set -e; N={natlab}; C='{check} --json --only mapping'
         $N exec alice -- $C | grep -o '203.0.113.1:' | head -n 1
         $N set home address=203.0.113.77
         $N exec alice -- $C | grep -o '203.0.113.77:' | head -n 1
         $N set home nat=full-cone
         $N exec alice -- $C | grep -o '\"endpoint-independent\"' | head -n 1
         $N set home restart loss=0% delay=1ms
         $N exec bob -- ip -o -4 addr show | grep -o 'eth[01] .*/24' | tr -s ' '
         $N exec bob -- sh -c 'exit 7' || echo code $?
         $N set home nat=open 2>/dev/null || echo refused $?
         $N exec nobody -- true 2>/dev/null || echo refused $?",
        natlab = env!("CARGO_BIN_EXE_natlab"),
        check = super::linux::nat_check().display(),
    );
    let ran = up("change", &TWO_HOUSES.replace("run = ", "# "), &format!("-q -- sh -c {{{script}}}"));
    let expected = "203.0.113.1:\n203.0.113.77:\n\"endpoint-independent\"\neth0 inet 192.168.78.2/24\n\
                    eth1 inet 192.168.77.3/24\ncode 7\nrefused 1\nrefused 1\n";
    assert_eq!((&*ran.stdout, ran.code), (expected, 0), "{}", ran.stderr);
}

fn a_host_roams() {
    let script = format!(
        "set -e; N={natlab}
         $N exec alice -- ping -c 1 -W 2 server >/dev/null && echo at home
         $N set alice link=down
         $N exec alice -- ping -c 1 -W 1 server >/dev/null 2>&1 || echo down
         $N set alice link=up
         $N exec alice -- ping -c 1 -W 2 server >/dev/null && echo up
         $N set alice on=office
         $N exec alice -- ip -o -4 addr show dev eth0 | grep -o '192.168.78.3'
         $N exec alice -- ping -c 1 -W 2 server >/dev/null && echo at the office
         $N set office link=down
         $N exec alice -- ping -c 1 -W 1 server >/dev/null || echo cut",
        natlab = env!("CARGO_BIN_EXE_natlab"),
    );
    if std::process::Command::new("ping").arg("-V").output().is_err() {
        eprintln!("==> SKIPPED: ping is not installed");
        return;
    }
    let ran = up("roam", &TWO_HOUSES.replace("run = ", "# "), &format!("-q -- sh -c {{{script}}}"));
    assert_eq!(ran.stdout, "at home\ndown\nup\n192.168.78.3\nat the office\ncut\n", "{}", ran.stderr);
}

fn a_schedule_is_kept() {
    let file = TWO_HOUSES.replace("echo I am $NATLAB_HOST; exit 3", "sleep 5")
        + "[[at]]\nafter = \"100ms\"\nset = \"home restart\"\n[[at]]\nafter = \"200ms\"\nset = \"bob restart\"\n";
    let ran = up("schedule", &file, "");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let told: Vec<_> = ran.stderr.lines().filter(|line| line.contains("restart")).collect();
    assert_eq!(told[0], "natlab: home restart");
    assert!(told[1].contains("bob restart: a host takes on=ROUTER"), "{}", told[1]);
}

fn both_sides_of_a_nat_are_captured() {
    let folder = tempfile::tempdir().expect("a folder");
    let captures = folder.path().join("captures");
    let send = "bash -c {exec 3<>/dev/udp/echo/7; echo hello >&3; head -n 1 <&3}";
    let ran = natlab(&format!("run -q --nat symmetric --pcap {} -- {send}", captures.display()));
    assert_eq!(ran.stdout, "hello\n", "{}", ran.stderr);
    for (side, address) in [("inside", [192, 168, 77, 2]), ("outside", [203, 0, 113, 1])] {
        let bytes = fs::read(captures.join(format!("nat-a-{side}.pcap"))).expect(side);
        assert_eq!(bytes[..4], 0xa1b2_3c4d_u32.to_le_bytes(), "the magic number");
        assert_eq!(bytes[20], 101, "raw IP");
        let packet = &bytes[24 + 16..];
        assert_eq!((packet[0] >> 4, &packet[12..16]), (4, &address[..]), "{side}");
        assert_eq!(bytes.windows(6).filter(|window| window == b"hello\n").count(), 2, "there and back");
    }
}

/// Half a megabyte at 8 Mbit/s takes half a second each way.
fn a_rate_is_kept() {
    let send = "bash -c {exec 3<>/dev/tcp/echo/7; head -c 500000 /dev/zero >&3 & head -c 500000 <&3 | wc -c}";
    let begun = tokio::time::Instant::now();
    let ran = natlab(&format!("run -q --rate 8mbit --queue 200p -- {send}"));
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(ran.stdout.trim(), "500000", "{}", ran.stderr);
    assert!(took > 0.45, "{took} s");
}

fn what_is_wrong_with_a_file_or_change_is_named() {
    let ran = up("wrong", &TWO_HOUSES.replace("on = \"home\"", "on = \"hmoe\""), "");
    assert_eq!(ran.code, 2);
    assert!(ran.stderr.contains("`hmoe`") && ran.stderr.contains("office"), "{}", ran.stderr);
    assert_eq!(natlab("up no-such-file.toml").code, 2);
    assert_eq!(natlab("set --lab none home fly").code, 2);
    assert_eq!(natlab("set --lab none home restart").code, 125);
    let folder = tempfile::tempdir().expect("a folder");
    let drawn = natlab(&format!("draw {}", file(&folder, "draw", TWO_HOUSES).display()));
    assert!(drawn.code == 0 && drawn.stdout.contains("└─ bob"), "{}{}", drawn.stdout, drawn.stderr);
    let list = natlab("list --json");
    let list: serde_json::Value = serde_json::from_str(&list.stdout).expect("JSON");
    assert!(list["nats"].as_array().is_some_and(|nats| nats.iter().any(|nat| nat["name"] == "symmetric")));
}

/// Names are by process, so that two runs of these tests do not meet.
fn up(name: &str, topology: &str, arguments: &str) -> Ran {
    let folder = tempfile::tempdir().expect("a folder");
    natlab(&format!("up {} {arguments}", file(&folder, name, topology).display()))
}

fn file(folder: &tempfile::TempDir, name: &str, topology: &str) -> PathBuf {
    let file = folder.path().join(format!("{name}-{}.toml", std::process::id()));
    fs::write(&file, topology).expect("written");
    file
}
