//! nat-check: what kind of NAT or firewall stands in front of this host, and will hole punching work?
//!
//! The way of the data: [`args`] are what was typed, [`plan`] is what is to be done, [`check`] does it: [`engine`] runs
//! the measurements of [`probe`] in a [`session`], which writes a [`ledger`] of every request and what came of it;
//! from the ledger alone each measurement draws its conclusion, [`silence`] judging what did not come and
//! [`server`] what is wrong with the server; [`classify`] puts them together, [`verdict`] says what they mean for
//! hole punching, and [`render`] prints the [`report`]. Nothing but [`net`] touches a network.
//! [`punch`] goes on from there: two clients that a probe server introduces really reach each other, or tell why not.
//!
//! A program that wants to know its own NAT calls [`check::check`] with a network and servers to ask. Here it is a
//! simulated network, in virtual time; the real one is [`net::os::OsNet`], and [`resolve::Resolver`] finds servers.
//!
//! ```
//! use nat_check::{
//!     check::{Setup, check},
//!     net::sim::simulate,
//!     progress::Silent,
//!     resolve::{FoundBy, Target},
//! };
//! use shared::nat::Mapping;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::time::pause();
//! let nat = simulate("symmetric", 7)?;
//! let server = Target {
//!     query: "probe.example.org".into(),
//!     found_by: FoundBy::Simulated,
//!     v4: Some(nat.server),
//!     v6: None,
//! };
//! // Whoever sends `true` ends the check early, with what is known by then.
//! let (_stop, stopped) = tokio::sync::watch::channel(false);
//! let report = check(&Setup::default(), nat.net, &[server.into()], &Silent, stopped).await;
//!
//! let udp = report.ipv4.udp.expect("the server answers over UDP");
//! assert_eq!(udp.mapping.value, Some(Mapping::AddressAndPortDependent));
//! # Ok(())
//! # }
//! ```

pub mod args;
pub mod check;
pub mod classify;
pub mod engine;
pub mod ledger;
pub mod net;
pub mod pace;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod punch;
pub mod render;
pub mod report;
pub mod require;
pub mod resolve;
pub mod schema;
pub mod server;
pub mod session;
pub mod silence;
pub mod verdict;
