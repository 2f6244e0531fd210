//! The NAT laboratory: simulated, user-space and kernel NATs that nat-check and probe-server are judged by.
//!
//! For every driver:
//! - [`scenario`]: NATs, networks, servers and what must be reported, read from files;
//! - [`oracle`]: holds a report against that;
//! - [`sim`]: the driver that needs no privilege: everything in memory, in virtual time;
//! - [`study`]: many such runs, judged and counted;
//! - [`punch`]: pairs of clients that punch in it.
//! - [`lifetime`]: what the lifetime measurement says, judged.
//!
//! Real networks, on Linux:
//! - [`Lab`]: hosts behind NATs and a server, with real programs on them;
//! - [`rules`]: the kernel's own NAT in the words of RFC 4787;
//! - [`netns`], [`process`], [`host`]: network namespaces without names, and programs inside them;
//! - [`truth`]: what a NAT really does, observed from both sides;
//! - [`harness`]: runs tests that need all this, and skips them loudly where it is not allowed;
//! - [`address`]: the address plan;
//! - [`load`]: load for servers, and what they spend on it.

pub mod address;
pub mod error;
mod internet;
mod ip;
pub mod lifetime;
pub mod oracle;
pub mod punch;
pub mod quantity;
pub mod scenario;
pub mod sim;
pub mod study;

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

pub use error::LabError;
#[cfg(target_os = "linux")]
pub use lab::Lab;

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
