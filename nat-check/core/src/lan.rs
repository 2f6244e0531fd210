//! Does the local network carry what is meant for all? What one host can tell alone, and with others that run the same: beacons from
//! each to each, to groups, by broadcast and to single hosts, and from what arrives multicast, broadcast, client isolation, packets
//! that pass in one direction, and switches that forget who is a member of a group.
//!
//! [`beacon`] is what is sent, [`neighbourhood`] takes and makes beacons, [`word`] judges silence, [`pairs`] and [`conclude`] draw the
//! conclusions; all of these are pure. [`run`] ties them to sockets of one interface each.

mod beacon;
mod conclude;
mod devices;
pub mod fuzz;
mod neighbour;
mod neighbourhood;
mod pairs;
pub mod report;
mod run;
#[cfg(test)]
mod tests;
pub mod way;
mod word;

use std::{io, net::Ipv4Addr, time::Duration};

pub use run::lan;

use crate::randomness::NoRandomness;

/// Port at which beacons to all are heard; nobody has been assigned it.
pub const PORT: u16 = 27_878;

const TOOL: &str = concat!("nat-check ", env!("CARGO_PKG_VERSION"));

/// How long, and whom besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LanSetup {
    /// How long others are waited for.
    pub wait: Duration,
    /// How long it goes on at least, so that it shows whether groups are heard to the end.
    pub hold: Duration,
    /// Hosts that are spoken to from the beginning.
    pub peers: Vec<Ipv4Addr>,
    /// Port at which beacons to all are heard: [`PORT`].
    pub port: u16,
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LanNote {
    /// This host and another one hear each other.
    Neighbour(Ipv4Addr),
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// There is nothing to measure.
    #[error("this host has no network with private IPv4 addresses (tunnels are left out)")]
    NoNetwork,
    /// A peer that cannot be a neighbour.
    #[error("{0} is in none of this host's private networks")]
    PeerElsewhere(Ipv4Addr),
    /// The system has no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The system refuses a socket.
    #[error("the system refuses a socket: {0}")]
    System(#[from] io::Error),
}
