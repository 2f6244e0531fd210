//! Measures the NAT or firewall in front of this host and predicts hole punching.
//!
//! The way of the data: [`check`] is told what to do; [`engine`] runs the measurements of [`probe`] in a [`session`],
//! which writes an [observation log](observation) of every request and what came of it; from the log alone each
//! measurement draws its conclusion, [`loss_test`] judging what did not come and [`server_faults`] what is wrong with
//! the server; [`classify`] puts the conclusions together, [`verdict`] says what they mean for hole punching, and the
//! [`report`] holds it all. Only [`net`] opens sockets.
//!
//! A program that wants to know its own NAT runs a [`Check`] with the servers to ask:
//!
//! ```no_run
//! use nat_check_core::Check;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let report = Check::with(["198.51.100.10:3478".parse()?]).run().await;
//! println!("{}", report.hole_punching.summary);
//! # Ok(())
//! # }
//! ```
//!
//! It can measure the very socket that it uses, while it uses it: [`net::owned`]. The report says of each finding how
//! sure it is and why; unknown is a value with a reason.
//!
//! [`check::check`] is the same as one function, for those who resolve names or listen to progress themselves.
//!
//! # Systems
//!
//! Linux, Windows and macOS. Where a system lacks something, the finding is unknown and says so; only that the machine was
//! suspended during a lifetime measurement is noticed on Linux alone.
//!
//! # Stability
//!
//! What will grow is marked `#[non_exhaustive]`. [`check::Setup`] will, too: write it with `..Setup::default()`. The report as
//! JSON has a version, and only grows within it; reading passes over fields that it does not know.
//!
//! # Features
//!
//! None is on by default.
//!
//! - `dns`: `resolve`, which finds probe servers by name (SRV, A, AAAA).
//! - `punch`: `punch`, two clients that a probe server introduces really reach each other, or learn why not.
//! - `port-mapping`: `port_mapping`, which opens ports at the gateway (PCP, NAT-PMP, UPnP).
//! - `proxy`: `proxy`, which measures what proxies let through, UDP included.
//! - `sim`: `net::sim`, a network in virtual time with modelled NATs and a probe server, for tests.
//! - `schema`: `schema`, the JSON Schemas of the reports.
//! - `strict`: what the strict STUN parser of stun-rs objects to in a server's responses.

mod builder;
pub mod check;
pub mod classify;
pub mod contactable;
pub mod engine;
mod mapping_limit;
pub mod net;
pub mod observation;
#[cfg(feature = "port-mapping")]
pub mod port_mapping;
pub mod printable;
pub mod probe;
pub mod progress;
#[cfg(feature = "proxy")]
pub mod proxy;
#[cfg(feature = "punch")]
pub mod punch;
pub mod randomness;
pub mod rate_limit;
mod receive;
pub mod report;
#[cfg(feature = "dns")]
pub mod resolve;
#[cfg(feature = "schema")]
pub mod schema;
pub mod selection;
pub mod server_endpoints;
pub mod server_faults;
mod server_position;
pub mod session;
mod silent_endpoints;
mod stun_over_tcp;
pub mod target;
pub mod technique;
pub mod verdict;

pub use builder::Check;
pub use shared::{loss_test, nat};
