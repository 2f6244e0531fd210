//! Which endpoints a server has in one address family, which is the alternate of which, and what clients are told
//! about them (RFC 5780 section 6).

use std::net::{IpAddr, SocketAddr};

/// One of the four places where a server listens: two addresses times two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// Primary address, primary port.
    Primary,
    /// Primary address, alternate port.
    PrimaryAlternatePort,
    /// Alternate address, primary port.
    AlternatePrimaryPort,
    /// Alternate address, alternate port.
    Alternate,
}

impl Endpoint {
    /// All four, in the order of the ready line; `ALL[e.index()] == e`.
    pub const ALL: [Self; 4] =
        [Self::Primary, Self::PrimaryAlternatePort, Self::AlternatePrimaryPort, Self::Alternate];

    /// Position in [`Endpoint::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The endpoint that differs in both address and port: what OTHER-ADDRESS names.
    #[must_use]
    pub const fn other(self) -> Self {
        self.change(true, true)
    }

    /// The IP address it is at: 0 the primary, 1 the alternate one.
    #[must_use]
    pub const fn address(self) -> usize {
        self.index() >> 1
    }

    /// The endpoint that an answer leaves from when the request came to `self` and asked for these changes
    /// (RFC 5780 table 1).
    #[must_use]
    pub const fn change(self, ip: bool, port: bool) -> Self {
        Self::ALL[self.index() ^ ((ip as usize) << 1) ^ (port as usize)]
    }
}

/// The endpoints of one address family: where they are bound, and under which addresses clients reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    bound: [Option<SocketAddr>; 4],
    advertised: [Option<SocketAddr>; 4],
    /// Both ports; with one address, the same one twice.
    ports: [u16; 2],
    drops_bogons: bool,
}

impl Topology {
    /// Two addresses and two ports make four endpoints; without an alternate address there is one, the primary
    /// address with the first port.
    #[must_use]
    pub fn new(primary: IpAddr, alternate: Option<IpAddr>, ports: (u16, u16)) -> Self {
        let at = |ip: IpAddr, port| Some(SocketAddr::new(ip, port));
        let (bound, ports) = match alternate {
            Some(other) => (
                [at(primary, ports.0), at(primary, ports.1), at(other, ports.0), at(other, ports.1)],
                [ports.0, ports.1],
            ),
            None => ([at(primary, ports.0), None, None, None], [ports.0; 2]),
        };
        Self { bound, advertised: bound, ports, drops_bogons: false }
    }

    /// The same endpoints, told to clients with `public` in the place of the local address `local`: for a host
    /// behind a 1:1 NAT.
    #[must_use]
    pub fn advertise(mut self, local: IpAddr, public: IpAddr) -> Self {
        for (bound, advertised) in self.bound.iter().zip(&mut self.advertised) {
            if let Some(address) = bound.filter(|a| a.ip() == local) {
                *advertised = Some(SocketAddr::new(public, address.port()));
            }
        }
        self
    }

    /// The same endpoints, told to clients as they are bound.
    #[must_use]
    pub fn as_bound(&self) -> Self {
        Self { advertised: self.bound, ..self.clone() }
    }

    /// The same endpoints, for the public Internet alone or not: whether sources that it cannot carry get no answer.
    #[must_use]
    pub const fn drop_bogons(mut self, drops: bool) -> Self {
        self.drops_bogons = drops;
        self
    }

    /// Whether sources that the public Internet cannot carry get no answer.
    #[must_use]
    pub const fn drops_bogons(&self) -> bool {
        self.drops_bogons
    }

    /// What is left while these addresses are not there: with one of the two, an honest server with a single address;
    /// with none, nothing.
    #[must_use]
    pub fn without(&self, missing: &[IpAddr]) -> Self {
        let is_missing = |at: Endpoint| self.bound(at).is_some_and(|address| missing.contains(&address.ip()));
        let left: &[Endpoint] =
            match (is_missing(Endpoint::Primary), is_missing(Endpoint::AlternatePrimaryPort)) {
                (false, false) => &Endpoint::ALL,
                (false, true) => &[Endpoint::Primary],
                (true, false) => &[Endpoint::AlternatePrimaryPort],
                (true, true) => &[],
            };
        let mut rest = self.clone();
        for gone in Endpoint::ALL.into_iter().filter(|at| !left.contains(at)) {
            rest.bound[gone.index()] = None;
            rest.advertised[gone.index()] = None;
        }
        rest
    }

    /// The endpoints that exist: all four or the primary alone.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        Endpoint::ALL.into_iter().filter(|e| self.bound[e.index()].is_some())
    }

    /// Whether there is an alternate address: the condition for OTHER-ADDRESS and CHANGE-REQUEST.
    #[must_use]
    pub const fn has_alternate(&self) -> bool {
        self.bound[Endpoint::Alternate.index()].is_some()
    }

    /// Where an endpoint is bound, if it exists.
    #[must_use]
    pub const fn bound(&self, endpoint: Endpoint) -> Option<SocketAddr> {
        self.bound[endpoint.index()]
    }

    /// What clients are told about an endpoint, if it exists.
    #[must_use]
    pub const fn advertised(&self, endpoint: Endpoint) -> Option<SocketAddr> {
        self.advertised[endpoint.index()]
    }

    /// The endpoint that is reached under this address, bound or advertised.
    #[must_use]
    pub fn endpoint_of(&self, address: SocketAddr) -> Option<Endpoint> {
        Endpoint::ALL.into_iter().find(|e| {
            let i = e.index();
            self.bound[i] == Some(address) || self.advertised[i] == Some(address)
        })
    }

    /// Whether this address is one of the server's own.
    #[must_use]
    pub fn owns_ip(&self, ip: IpAddr) -> bool {
        self.bound.iter().flatten().any(|address| address.ip() == ip)
    }

    /// Whether clients know the server under this address, or it is bound to it.
    #[must_use]
    pub fn is_known_as(&self, ip: IpAddr) -> bool {
        self.bound.iter().chain(&self.advertised).flatten().any(|address| address.ip() == ip)
    }

    /// Whether it is at loopback addresses, for its own host alone.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.bound.iter().flatten().all(|address| address.ip().is_loopback())
    }

    /// Whether this port is one of the server's own.
    #[must_use]
    pub fn owns_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn table_1_of_rfc_5780() {
        use Endpoint::{Alternate, AlternatePrimaryPort, Primary, PrimaryAlternatePort};
        let rows = [
            (Primary, [Primary, PrimaryAlternatePort, AlternatePrimaryPort, Alternate]),
            (PrimaryAlternatePort, [PrimaryAlternatePort, Primary, Alternate, AlternatePrimaryPort]),
            (AlternatePrimaryPort, [AlternatePrimaryPort, Alternate, Primary, PrimaryAlternatePort]),
            (Alternate, [Alternate, AlternatePrimaryPort, PrimaryAlternatePort, Primary]),
        ];
        for (at, [none, port, address, both]) in rows {
            assert_eq!(at.change(false, false), none);
            assert_eq!(at.change(false, true), port);
            assert_eq!(at.change(true, false), address);
            assert_eq!(at.change(true, true), both);
            assert_eq!(at.other(), both);
            assert_eq!(Endpoint::ALL[at.index()], at);
        }
    }

    #[test]
    fn the_other_endpoint_differs_in_address_and_port() {
        let topology = Topology::new(ip("198.51.100.10"), Some(ip("198.51.100.11")), (3478, 3479));
        for e in Endpoint::ALL {
            let (a, b) = (topology.bound(e).unwrap(), topology.bound(e.other()).unwrap());
            assert!(a.ip() != b.ip() && a.port() != b.port());
            assert_eq!(a.ip(), topology.bound(Endpoint::ALL[2 * e.address()]).unwrap().ip());
            assert_eq!(topology.endpoint_of(a), Some(e));
        }
    }

    #[test]
    fn public_addresses_are_told_and_found() {
        let topology = Topology::new(ip("10.0.0.4"), Some(ip("10.0.0.5")), (3478, 3479))
            .advertise(ip("10.0.0.4"), ip("203.0.113.4"))
            .advertise(ip("10.0.0.5"), ip("203.0.113.5"));
        assert_eq!(topology.advertised(Endpoint::Alternate), Some("203.0.113.5:3479".parse().unwrap()));
        assert_eq!(topology.bound(Endpoint::Alternate), Some("10.0.0.5:3479".parse().unwrap()));
        assert_eq!(
            topology.endpoint_of("203.0.113.4:3479".parse().unwrap()),
            Some(Endpoint::PrimaryAlternatePort)
        );
    }

    #[test]
    fn a_missing_address_leaves_a_server_with_one() {
        let whole = Topology::new(ip("198.51.100.10"), Some(ip("198.51.100.11")), (3478, 3479));
        let endpoints = |t: &Topology| t.endpoints().collect::<Vec<_>>();
        assert_eq!(whole.without(&[ip("2001:db8::1")]), whole);
        let rest = whole.without(&[ip("198.51.100.11")]);
        assert_eq!((endpoints(&rest), rest.has_alternate()), (vec![Endpoint::Primary], false));
        let rest = whole.without(&[ip("198.51.100.10")]);
        assert_eq!((endpoints(&rest), rest.has_alternate()), (vec![Endpoint::AlternatePrimaryPort], false));
        let none = whole.without(&[ip("198.51.100.10"), ip("198.51.100.11")]);
        assert_eq!(endpoints(&none), []);
        let single = Topology::new(ip("198.51.100.10"), None, (3478, 3479));
        assert_eq!(single.without(&[]), single);
        assert_eq!(endpoints(&single.without(&[ip("198.51.100.10")])), []);
    }

    #[test]
    fn one_address_has_one_endpoint() {
        let topology = Topology::new(ip("2001:db8::1"), None, (3478, 3479));
        assert_eq!(topology.endpoints().collect::<Vec<_>>(), [Endpoint::Primary]);
        assert!(!topology.has_alternate());
        assert!(topology.owns_port(3478) && !topology.owns_port(3479));
    }
}
