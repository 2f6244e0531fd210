//! Keeps the server from being a weapon: which sources get no answer at all.

use std::net::{IpAddr, SocketAddr};

use shared::ports::is_reflector;

use crate::{drops::DropReason, topology::Topology};

/// Judges a source address, before a byte of the datagram is read.
///
/// # Errors
/// When nothing may be sent there.
pub fn screen_source(topology: &Topology, from: SocketAddr) -> Result<(), DropReason> {
    if from.port() == 0 {
        return Err(DropReason::SourcePortZero);
    }
    if !is_host(from.ip()) {
        return Err(DropReason::SourceAddress);
    }
    if topology.owns_port(from.port()) {
        return Err(match topology.endpoint_of(from) {
            Some(_) => DropReason::OwnEndpoint,
            None => DropReason::OwnPort,
        });
    }
    if is_reflector(from.port()) {
        return Err(DropReason::ReflectorPort);
    }
    Ok(())
}

/// Whether RESPONSE-PORT may name this port: none of a system's services, none of a known reflector's, none of ours.
#[must_use]
pub fn may_answer_to(topology: &Topology, port: u16) -> bool {
    port >= 1024 && !is_reflector(port) && !topology.owns_port(port)
}

/// Whether an address can be one host's: IPv4 in IPv6 is refused, since it would slip past every later rule.
fn is_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_multicast() || ip.octets()[0] == 0 || ip.octets()[0] >= 240),
        IpAddr::V6(ip) => {
            !(ip.is_multicast()
                || ip.is_unspecified()
                || matches!(ip.segments(), [0, 0, 0, 0, 0, 0xffff, ..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::new("198.51.100.10".parse().unwrap(), Some("198.51.100.11".parse().unwrap()), (3478, 3479))
    }

    #[test]
    fn sources_that_get_nothing() {
        let rows = [
            ("192.0.2.1:0", DropReason::SourcePortZero),
            ("224.0.0.1:5000", DropReason::SourceAddress),
            ("255.255.255.255:5000", DropReason::SourceAddress),
            ("0.0.0.0:5000", DropReason::SourceAddress),
            ("[ff02::1]:5000", DropReason::SourceAddress),
            ("[::]:5000", DropReason::SourceAddress),
            ("[::ffff:127.0.0.1]:5000", DropReason::SourceAddress),
            ("198.51.100.11:3479", DropReason::OwnEndpoint),
            ("192.0.2.1:3478", DropReason::OwnPort),
            ("192.0.2.1:53", DropReason::ReflectorPort),
            ("192.0.2.1:11211", DropReason::ReflectorPort),
        ];
        for (from, reason) in rows {
            assert_eq!(screen_source(&topology(), from.parse().unwrap()), Err(reason), "{from}");
        }
        for from in ["192.0.2.1:5000", "127.0.0.1:60000", "[2001:db8::1]:1024", "192.0.2.1:1000"] {
            assert_eq!(screen_source(&topology(), from.parse().unwrap()), Ok(()), "{from}");
        }
    }
}
