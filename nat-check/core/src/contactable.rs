//! Which endpoints that somebody else names may be contacted at all: the one place that decides it, for OTHER-ADDRESS
//! (RFC 5780 section 7.4), mapped addresses, what a rendezvous names, and a peer's candidates (RFC 8445 section 19.5).
//! Pure.
//!
//! A server or a peer that lies must not be able to aim this host's packets at the host itself, at its local network,
//! at services that answer strangers, or at ranges that no host has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use shared::ports::is_reflector;

/// Who named an endpoint, and as what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The server that answers at this endpoint named it as another one of its own, or as this host's external
    /// endpoint.
    Server(SocketAddr),
    /// A peer named it as its endpoint on the Internet. Nobody vouches for it: only a few packets may go there.
    Peer {
        /// The server that introduced the two.
        server: SocketAddr,
    },
    /// A peer named it as its endpoint on the Internet, and the server has seen the peer at this address.
    VouchedPeer {
        /// The server that introduced the two.
        server: SocketAddr,
        /// Where the server has seen the peer.
        address: IpAddr,
    },
    /// A peer named it as its endpoint on the local network.
    LocalNetwork {
        /// The server that introduced the two.
        server: SocketAddr,
        /// This host's address on that network.
        own: IpAddr,
        /// Length of that network's prefix in bits.
        prefix: u8,
    },
}

/// Whether packets may go to this address and port, which somebody else has named.
#[must_use]
pub fn is_contactable(address: IpAddr, port: u16, scope: Scope) -> bool {
    let (server, own_port) = match scope {
        Scope::Server(server) => (server, Some(server.port())),
        Scope::Peer { server } | Scope::VouchedPeer { server, .. } | Scope::LocalNetwork { server, .. } => {
            (server, None)
        }
    };
    // Well-known services, and those that answer strangers with more than they were asked.
    if port == 0 || own_port != Some(port) && (port < LOWEST_PORT || is_reflector(port)) {
        return false;
    }
    let (realm, servers) = (realm(address), realm(server.ip()));
    let fits = match (realm, servers) {
        (Realm::Nowhere, _) => false,
        // A server on this very host, in a laboratory or with `--local`, knows nothing else.
        (Realm::Loopback, _) | (_, Realm::Loopback) => realm == servers,
        // Whoever sees this host from the Internet cannot know where a private address leads from here.
        (Realm::Private, Realm::Private | Realm::Nowhere) | (Realm::Global, _) => true,
        (Realm::Private, Realm::Global) => matches!(scope, Scope::LocalNetwork { .. }),
    };
    fits && match scope {
        Scope::Server(_) | Scope::Peer { .. } => true,
        Scope::VouchedPeer { address: vouched, .. } => address.to_canonical() == vouched.to_canonical(),
        Scope::LocalNetwork { own, prefix, .. } => is_host_of(address, own, prefix),
    }
}

/// Whether an address is one of the Internet: not private, not a carrier's, not this host's own.
#[must_use]
pub(crate) fn is_global(address: IpAddr) -> bool {
    realm(address) == Realm::Global
}

/// Ports below this one belong to well-known services (RFC 6335 section 6).
pub const LOWEST_PORT: u16 = 1024;

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Realm {
    Loopback,
    Private,
    Global,
    /// To no single host, or to none that a router would forward to.
    Nowhere,
}

fn realm(address: IpAddr) -> Realm {
    match address.to_canonical() {
        IpAddr::V4(v4) => realm_v4(v4),
        IpAddr::V6(v6) => realm_v6(v6),
    }
}

/// Special-purpose ranges of RFC 6890.
fn realm_v4(v4: Ipv4Addr) -> Realm {
    let [first, second, ..] = v4.octets();
    if v4.is_loopback() {
        Realm::Loopback
    } else if first == 0 || v4.is_link_local() || first >= 224 {
        // Multicast, class E and broadcast are all from 224 on.
        Realm::Nowhere
    } else if v4.is_private() || first == 100 && second & 0xc0 == 64 {
        // 100.64/10 is the carriers' own realm (RFC 6598).
        Realm::Private
    } else {
        Realm::Global
    }
}

fn realm_v6(v6: Ipv6Addr) -> Realm {
    if v6.is_loopback() {
        return Realm::Loopback;
    }
    let [a, b, c, ..] = v6.segments();
    let embedded = match (a, b, c) {
        // Mapped addresses were read as IPv4 before; the compatible ones (RFC 4291 section 2.5.5.1) are out of use.
        (0, ..) => return Realm::Nowhere,
        // NAT64 (RFC 6052 section 2.1, RFC 8215) has the IPv4 address at the end, 6to4 (RFC 3056) after its prefix.
        (0x64, 0xff9b, 0 | 1) => Some(v6.octets()[12..].try_into().unwrap_or([0; 4])),
        (0x2002, ..) => Some(v6.octets()[2..6].try_into().unwrap_or([0; 4])),
        _ => None,
    };
    if let Some(octets) = embedded.map(|octets: [u8; 4]| realm_v4(octets.into())) {
        // A translator's way to its own or to our network is nobody's to name.
        return if octets == Realm::Global { Realm::Global } else { Realm::Nowhere };
    }
    match a {
        // Unique local addresses (RFC 4193).
        0xfc00..=0xfdff => Realm::Private,
        // Link-local, the site-local ones of old, multicast.
        0xfe80.. => Realm::Nowhere,
        _ => Realm::Global,
    }
}

/// Whether an address is that of a host in the network of `own`: of the same prefix, and not the network's own or its
/// broadcast address.
fn is_host_of(address: IpAddr, own: IpAddr, prefix: u8) -> bool {
    let (address, own, bits) = match (address.to_canonical(), own.to_canonical()) {
        (IpAddr::V4(address), IpAddr::V4(own)) => (u128::from(u32::from(address)), u32::from(own).into(), 32),
        (IpAddr::V6(address), IpAddr::V6(own)) => (u128::from(address), u128::from(own), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
    };
    let host_bits: u32 = bits - u32::from(prefix).min(bits);
    let hosts = 1_u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
    let host = address & hosts;
    address & !hosts == own & !hosts && (hosts <= 1 || host != 0 && (bits == 128 || host != hosts))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> SocketAddr {
        "198.51.100.10:3478".parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of_server(server: &str, named: &str) -> bool {
        let named: SocketAddr = named.parse().unwrap();
        is_contactable(named.ip(), named.port(), Scope::Server(server.parse().unwrap()))
    }

    /// Addresses that nobody may name, whoever it is.
    const NOWHERE: &[&str] = &[
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::7f00:1",
        "fe80::1",
        "fec0::1",
        "ff02::c",
        "::ffff:0.0.0.0",
        "::ffff:169.254.169.254",
        "::ffff:239.255.255.250",
        "64:ff9b::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::224.0.0.1",
        "64:ff9b:1::192.168.1.1",
        "2002:7f00:1::1",
        "2002:c0a8:101::1",
    ];

    #[test]
    fn nobody_may_name_what_no_host_has() {
        let own = ip("192.168.1.2");
        for text in NOWHERE {
            for server in ["198.51.100.10:3478", "192.168.1.1:3478", "[2001:db8::1]:3478", "127.0.0.1:3478"] {
                let server = server.parse().unwrap();
                for scope in [
                    Scope::Server(server),
                    Scope::Peer { server },
                    Scope::VouchedPeer { server, address: ip(text) },
                    Scope::LocalNetwork { server, own, prefix: 0 },
                    Scope::LocalNetwork { server, own: ip("fe80::2"), prefix: 0 },
                ] {
                    assert!(!is_contactable(ip(text), 5000, scope), "{text} by {scope:?}");
                }
            }
        }
    }

    #[test]
    fn loopback_is_named_by_a_server_on_loopback_only() {
        for loopback in ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"] {
            for (server, is_local) in
                [("198.51.100.10:3478", false), ("10.0.0.1:3478", false), ("127.0.0.1:3478", true)]
            {
                let server = server.parse().unwrap();
                for scope in [
                    Scope::Server(server),
                    Scope::Peer { server },
                    Scope::VouchedPeer { server, address: ip(loopback) },
                ] {
                    assert_eq!(
                        is_contactable(ip(loopback), 5000, scope),
                        is_local,
                        "{loopback} by {scope:?}"
                    );
                }
            }
        }
        assert!(!of_server("127.0.0.1:3478", "198.51.100.1:5000"), "and nothing but loopback");
    }

    #[test]
    fn ports_of_services_are_out_of_bounds_save_the_servers_own() {
        assert!(of_server("198.51.100.10:443", "198.51.100.11:443"));
        assert!(of_server("198.51.100.10:5060", "198.51.100.11:5060"));
        for port in [0, 22, 53, 80, 443, 1023, 1900, 5353, 11211] {
            assert!(!of_server("198.51.100.10:3478", &format!("198.51.100.11:{port}")), "{port}");
            let scope = Scope::VouchedPeer { server: server(), address: ip("203.0.113.9") };
            assert!(!is_contactable(ip("203.0.113.9"), port, scope), "{port}");
        }
        assert!(of_server("198.51.100.10:3478", "198.51.100.11:1024"));
    }

    #[test]
    fn a_public_server_names_public_addresses() {
        for (server, named, may) in [
            ("198.51.100.10:3478", "203.0.113.9:3479", true),
            ("198.51.100.10:3478", "[2001:db8::2]:3479", true),
            ("198.51.100.10:3478", "192.168.1.1:3479", false),
            ("198.51.100.10:3478", "100.64.0.1:3479", false),
            ("198.51.100.10:3478", "[fd00::1]:3479", false),
            ("[2001:db8::1]:3478", "10.0.0.1:3479", false),
            ("[2001:db8::1]:3478", "[64:ff9b::203.0.113.9]:3479", true),
            ("192.168.1.1:3478", "192.168.1.7:3479", true),
            ("192.168.1.1:3478", "203.0.113.9:3479", true),
            ("[fd00::1]:3478", "[fd00::2]:3479", true),
        ] {
            assert_eq!(of_server(server, named), may, "{named} by {server}");
        }
    }

    #[test]
    fn a_peer_is_where_the_server_has_seen_it() {
        let vouched = Scope::VouchedPeer { server: server(), address: ip("203.0.113.9") };
        assert!(is_contactable(ip("203.0.113.9"), 5000, vouched));
        assert!(is_contactable(ip("::ffff:203.0.113.9"), 5000, vouched));
        assert!(!is_contactable(ip("203.0.113.10"), 5000, vouched));
        assert!(!is_contactable(ip("192.168.1.1"), 5000, Scope::Peer { server: server() }));
        assert!(is_contactable(ip("203.0.113.10"), 5000, Scope::Peer { server: server() }));
        // A server that lies about what it has seen.
        let lie = Scope::VouchedPeer { server: server(), address: ip("192.168.1.1") };
        assert!(!is_contactable(ip("192.168.1.1"), 5000, lie));
    }

    #[test]
    fn on_the_local_network_hosts_of_the_own_subnet_count() {
        let (own, own6) = (ip("192.168.1.2"), ip("fd00::2"));
        let scope = |own, prefix| Scope::LocalNetwork { server: server(), own, prefix };
        for (address, own, prefix, may) in [
            ("192.168.1.3", own, 24, true),
            ("192.168.1.0", own, 24, false),
            ("192.168.1.255", own, 24, false),
            ("192.168.2.3", own, 24, false),
            ("192.168.2.3", own, 16, true),
            ("203.0.113.9", own, 24, false),
            ("127.0.0.1", own, 0, false),
            ("192.168.1.3", own, 31, true),
            ("192.168.1.3", own, 32, false),
            ("192.168.1.2", own, 32, true),
            ("192.168.1.3", own, 200, false),
            ("fd00::3", own6, 64, true),
            ("fd00::", own6, 64, false),
            ("fd01::3", own6, 64, false),
            ("192.168.1.3", own6, 0, false),
        ] {
            assert_eq!(
                is_contactable(ip(address), 5000, scope(own, prefix)),
                may,
                "{address} {own}/{prefix}"
            );
        }
        assert!(!is_contactable(ip("192.168.1.1"), 80, scope(own, 24)), "the router's page");
    }
}
