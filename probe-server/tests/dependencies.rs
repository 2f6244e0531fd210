//! What the public server links: nothing that only its tests need.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

/// The second opinion about messages, and what it brings: md5, a parser generator, an unmaintained macro crate.
const UNWANTED: &[&str] = &["stun-rs", "md-5", "md5", "precis-core", "pest", "paste", "schemars"];

#[test]
fn the_server_links_no_strict_parser() {
    let mut tree = Command::new(env!("CARGO"));
    tree.args([
        "tree",
        "--package",
        "probe-server",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]);
    tree.args(["--locked", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = tree.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains(&"tokio"), "{tree}");
    assert_eq!(names.iter().filter(|name| UNWANTED.contains(name)).collect::<Vec<_>>(), [&""; 0]);
}
