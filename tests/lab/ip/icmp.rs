//! The translation of ICMP: echo requests and replies by their identifier, errors by the packet that they quote
//! (RFC 5508).

use std::net::{IpAddr, SocketAddr};

use shared::nat::model::Protocol;

use super::{Carries, Datagram};

/// What an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoted {
    /// A packet of a flow.
    Flow {
        /// Its transport.
        protocol: Protocol,
        /// Its source.
        source: SocketAddr,
        /// Its destination.
        destination: SocketAddr,
    },
    /// An echo request.
    Echo {
        /// Its identifier.
        id: u16,
        /// Its source.
        source: IpAddr,
        /// Its destination.
        destination: IpAddr,
    },
}

impl Datagram {
    /// Whether this asks for an echo.
    pub(crate) fn is_echo_request(&self) -> bool {
        let kind = if self.is_v6() { 128 } else { 8 };
        matches!(self.carries(), Carries::Echo(_)) && self.bytes[self.transport] == kind
    }

    /// Replaces the source of an echo request or the destination of a reply.
    pub(crate) fn readdress(&mut self, source: bool, ip: IpAddr) {
        self.put_ip(source, ip);
        self.sum_icmp();
    }

    /// The packet quoted in an ICMP error.
    pub(crate) fn quoted(&self) -> Option<Quoted> {
        let quote = Self::parse_quote(self.bytes.get(self.transport + 8..)?)?;
        let (from, to) = (quote.source(), quote.destination());
        match quote.carries() {
            Carries::Flow(protocol) => {
                let (source, destination) = quote.ports()?;
                let (source, destination) = (SocketAddr::new(from, source), SocketAddr::new(to, destination));
                Some(Quoted::Flow { protocol, source, destination })
            }
            Carries::Echo(id) => Some(Quoted::Echo { id, source: from, destination: to }),
            Carries::IcmpError | Carries::Other => None,
        }
    }

    /// Translates an ICMP error from outside, for an internal host: its destination, and the source of the quoted packet.
    pub(crate) fn redirect_error(&mut self, inside: IpAddr, port: Option<u16>) {
        self.put_ip(false, inside);
        self.requote(true, inside, port);
    }

    /// Translates an ICMP error from inside: its source, and the destination of the quoted packet.
    pub(crate) fn disguise_error(&mut self, outside: IpAddr, port: Option<u16>) {
        self.put_ip(true, outside);
        self.requote(false, outside, port);
    }

    fn requote(&mut self, source: bool, ip: IpAddr, port: Option<u16>) {
        let at = self.transport + 8;
        let Some(mut quote) = self.bytes.get(at..).and_then(Self::parse_quote) else { return };
        quote.put_ip(source, ip);
        if let Some(port) = port {
            quote.put(quote.transport + if source { 0 } else { 2 }, &port.to_be_bytes());
        }
        // Remove the padding that completed the quoted packet.
        let length = self.bytes.len() - at;
        self.bytes[at..].copy_from_slice(&quote.bytes[..length]);
        self.sum_icmp();
    }

    /// Only eight bytes of the transport header have to be quoted: enough for the ports.
    fn parse_quote(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len() + 12, 0);
        Self::parse(bytes)
    }
}
