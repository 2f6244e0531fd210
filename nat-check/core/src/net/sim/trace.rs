//! What became of every packet of a simulated world, in a form that two runs can be compared by.

use std::{fmt, net::SocketAddr, time::Duration};

use shared::nat::model::{DropReason, Packet, Protocol};

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Time since the world began.
    pub at: Duration,
    /// Where it happened.
    pub place: Place,
    /// What happened.
    pub fate: Fate,
    /// Transport of the packet.
    pub protocol: Protocol,
    /// Its source there.
    pub source: SocketAddr,
    /// Its destination there.
    pub destination: SocketAddr,
    /// Bytes that it carries.
    pub length: usize,
}

/// Where something happened; numbers count from 0 in the order in which things were built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a host.
    Host(usize),
    /// At a NAT.
    Gate(usize),
    /// On the line of a site, whose outermost NAT this is.
    Line(usize),
    /// In the middle of the Internet.
    Core,
    /// At a probe server.
    Server(usize),
}

/// What happened to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A host or a server sent it.
    Sent,
    /// A host's socket got it.
    Received,
    /// A NAT let it out.
    Outbound,
    /// A NAT let it in.
    Inbound,
    /// A NAT turned it back inside.
    Hairpinned,
    /// A NAT refused it and told the sender.
    Refused,
    /// A NAT dropped it.
    Dropped(DropReason),
    /// The line lost it.
    Lost,
    /// It had passed as many routers as it might.
    Expired,
    /// Nobody has that address, or nobody listens.
    Unreachable,
    /// A server gave no answer, for this reason.
    Unanswered(&'static str),
}

impl Entry {
    pub(super) fn new(at: Duration, place: Place, fate: Fate, packet: &Packet) -> Self {
        let Packet { protocol, source, destination, .. } = *packet;
        Self { at, place, fate, protocol, source, destination, length: packet.payload.len() }
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, place, fate, protocol, source, destination, length } = self;
        let protocol = match protocol {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        };
        write!(f, "{:>12.6} {place:<9} {protocol} {source} > {destination} {length} {fate}", at.as_secs_f64())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Host(n) => format!("host {n}"),
            Self::Gate(n) => format!("nat {n}"),
            Self::Line(n) => format!("line {n}"),
            Self::Core => "core".to_owned(),
            Self::Server(n) => format!("server {n}"),
        };
        f.pad(&text)
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent => f.write_str("sent"),
            Self::Received => f.write_str("received"),
            Self::Outbound => f.write_str("let out"),
            Self::Inbound => f.write_str("let in"),
            Self::Hairpinned => f.write_str("turned back"),
            Self::Refused => f.write_str("refused"),
            Self::Dropped(reason) => write!(f, "dropped: {reason}"),
            Self::Lost => f.write_str("lost"),
            Self::Expired => f.write_str("time to live exceeded"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Unanswered(why) => write!(f, "unanswered: {why}"),
        }
    }
}
