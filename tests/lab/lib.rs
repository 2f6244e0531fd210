//! The NAT laboratory: simulated, user-space and kernel NATs that nat-check and probe-server are judged by.
//!
//! Real networks, on Linux:
//! - [`netns`]: network namespaces without names, each held by a thread and gone with it;
//! - [`process`]: programs that run inside them;
//! - [`sys`]: the few unsafe system calls.

pub mod error;

#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
pub mod process;
#[cfg(target_os = "linux")]
pub mod sys;

pub use error::LabError;
