//! nat-check: what kind of NAT or firewall stands in front of this host, and will hole punching work?
//!
//! The way of the data: [`args`] are what was typed, [`plan`] is what is to be done, [`check`] does it: [`engine`] runs
//! the measurements of [`probe`] in a [`session`], which writes a [`ledger`] of every request and what came of it;
//! from the ledger alone each measurement draws its conclusion, [`silence`] judging what did not come and
//! [`server`] what is wrong with the server; [`classify`] puts them together, [`verdict`] says what they mean for
//! hole punching, and [`render`] prints the [`report`]. Nothing but [`net`] touches a network.
//! [`punch`] goes on from there: two clients that a probe server introduces really reach each other, or tell why not.

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
