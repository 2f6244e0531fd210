//! Keeps the server from being a weapon: which sources get no answer at all.

use std::net::{IpAddr, SocketAddr};

use shared::ports::is_reflector;

use crate::{drop_reason::DropReason, topology::Topology};

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
    if topology.drops_bogons() && is_bogon(from.ip()) {
        return Err(DropReason::BogonSource);
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

/// Whether the address that a connection comes from can be a client's own, so that it may be connected back to: what stands
/// between the two and hides the client's address must not be taken for it. A server at a loopback address serves its own host
/// alone.
#[must_use]
pub fn is_clients_own(topology: &Topology, ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    if topology.is_loopback() {
        return ip.is_loopback();
    }
    let is_excluded = topology.is_known_as(ip) || topology.drops_bogons() && is_bogon(ip);
    is_host(ip) && !ip.is_loopback() && !is_link_local(ip) && !is_excluded
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
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

/// Whether no packet from the public Internet can come from this address: private, shared, link-local, documentation,
/// benchmark and reserved ranges (RFC 6890).
#[must_use]
pub fn is_bogon(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_private()
                || ip.is_link_local()
                || ip.is_documentation()
                || ip.is_loopback()
                || a == 0
                || a >= 240
                || (a == 100 && b & 0xc0 == 64)
                || (a, b, c) == (192, 0, 0)
                || (a == 198 && b & 0xfe == 18)
        }
        // What is not in 2000::/3 has not been given to anybody; 64:ff9b::/96 is how NAT64 writes IPv4 addresses.
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            a & 0xe000 != 0x2000 && (a, b) != (0x64, 0xff9b) || (a, b) == (0x2001, 0xdb8)
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
    fn bogons_are_dropped_where_no_client_can_have_such_an_address() {
        let bogons = [
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.0.1",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "240.0.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
            "100::1",
        ];
        for ip in bogons {
            assert!(is_bogon(ip.parse().unwrap()), "{ip}");
        }
        let public = [
            "8.8.8.8",
            "100.128.0.1",
            "172.32.0.1",
            "198.20.0.1",
            "2a00::1",
            "2001:4860::1",
            "64:ff9b::808:808",
        ];
        for ip in public {
            assert!(!is_bogon(ip.parse().unwrap()), "{ip}");
        }
        let from = "10.1.2.3:5000".parse().unwrap();
        assert_eq!(screen_source(&topology(), from), Ok(()));
        assert_eq!(screen_source(&topology().drop_bogons(true), from), Err(DropReason::BogonSource));
    }

    #[test]
    fn an_address_of_the_server_or_of_its_host_is_no_clients_own() {
        let behind_nat =
            topology().advertise("198.51.100.10".parse().unwrap(), "203.0.113.10".parse().unwrap());
        let local = Topology::new("127.0.0.1".parse().unwrap(), Some("127.0.0.2".parse().unwrap()), (1, 2));
        let public = topology().drop_bogons(true);
        for (topology, ip, expected) in [
            (&behind_nat, "192.0.2.1", true),
            (&behind_nat, "10.0.0.1", true),
            (&behind_nat, "2001:db8::1", true),
            (&behind_nat, "198.51.100.10", false),
            (&behind_nat, "::ffff:198.51.100.11", false),
            (&behind_nat, "203.0.113.10", false),
            (&behind_nat, "127.0.0.1", false),
            (&behind_nat, "::1", false),
            (&behind_nat, "169.254.1.1", false),
            (&behind_nat, "fe80::1", false),
            (&behind_nat, "0.0.0.0", false),
            (&public, "172.17.0.1", false),
            (&public, "8.8.8.8", true),
            (&local, "127.0.0.1", true),
            (&local, "127.1.0.1", true),
            (&local, "192.0.2.1", false),
        ] {
            assert_eq!(is_clients_own(topology, ip.parse().unwrap()), expected, "{ip}");
        }
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
