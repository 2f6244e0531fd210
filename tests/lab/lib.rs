//! The NAT laboratory: simulated, user-space and kernel NATs, against which nat-check and probe-server are tested.
//!
//! For every driver:
//! - [`scenario`]: NATs, networks, servers and the expected reports, read from files;
//! - [`oracle`]: compares a report with what is expected;
//! - [`sim`]: the driver that needs no privilege: in memory, in virtual time;
//! - [`study`]: accuracy over many such runs;
//! - [`punch`]: hole punching between pairs of clients in it;
//! - [`lifetime`]: judges lifetime findings.
//!
//! Real networks, on Linux:
//! - [`topology`]: a laboratory, described: routers, hosts, lines, and what changes while it runs;
//! - [`Lab`]: hosts behind NATs and a server, with real programs on them;
//! - [`rules`]: the kernel's own NAT, from a NAT spec to nftables rules;
//! - [`netns`], [`process`], [`host`]: network namespaces without names, and programs inside them;
//! - [`truth`]: the ground truth: what a NAT does, observed from both sides;
//! - [`harness`]: runs tests that need all this, and skips them loudly where it is not allowed;
//! - [`address`]: the address plan;
//! - [`load`]: load generators, and what a server uses under load.

pub mod address;
pub mod error;
mod ip;
pub mod lifetime;
pub mod network;
pub mod oracle;
pub mod punch;
pub mod quantity;
pub mod requirements;
pub mod room;
pub mod scenario;
pub mod sim;
pub mod study;
pub mod topology;

#[cfg(target_os = "linux")]
pub mod binaries;
#[cfg(target_os = "linux")]
pub mod client;
#[cfg(target_os = "linux")]
pub mod echo;
#[cfg(target_os = "linux")]
pub mod harness;
#[cfg(target_os = "linux")]
pub mod host;
#[cfg(target_os = "linux")]
pub mod isolation;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod lab;
#[cfg(target_os = "linux")]
pub mod load;
#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
mod probe;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(target_os = "linux")]
pub mod rules;
#[cfg(target_os = "linux")]
pub mod sys;
#[cfg(target_os = "linux")]
pub mod truth;
#[cfg(target_os = "linux")]
pub mod tun;
#[cfg(target_os = "linux")]
mod worker;

pub use error::LabError;
#[cfg(target_os = "linux")]
pub use lab::{Lab, Services};

/// The `main` of a test file whose real networks are Linux's: that of `$module`, which elsewhere is not there.
#[macro_export]
macro_rules! on_linux {
    ($module:ident) => {
        #[cfg(target_os = "linux")]
        fn main() -> std::process::ExitCode {
            $module::main()
        }

        #[cfg(not(target_os = "linux"))]
        fn main() {
            eprintln!("==> SKIPPED: real networks are for Linux");
        }
    };
}
