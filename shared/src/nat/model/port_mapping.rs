//! The modelled NAT as a gateway that opens ports at request, by PCP (RFC 6887) and NAT-PMP (RFC 6886): served with the codecs
//! that the client speaks. Pure: a datagram and `now` go in, the answer comes out.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    Nat, Protocol,
    opened::OpenedPort,
    spec::{Opens, Serves, Tracking},
};
use crate::{
    nat::Mapping,
    port_mapping::{Transport, nat_pmp, pcp},
};

/// What a host asks for.
#[derive(Clone, Copy, Debug)]
struct Wish {
    transport: Transport,
    inside: SocketAddr,
    external: u16,
    lifetime: u32,
    nonce: [u8; 12],
}

/// What it gets.
#[derive(Clone, Copy, Debug)]
struct Grant {
    outside: SocketAddr,
    lifetime: u32,
}

/// Why it gets nothing.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    NotAuthorized,
    NoResources,
}

impl Refusal {
    /// RFC 6887 section 7.4.
    const fn pcp(self) -> u8 {
        match self {
            Self::NotAuthorized => 2,
            Self::NoResources => 8,
        }
    }

    /// RFC 6886 section 3.5.
    const fn nat_pmp(self) -> u16 {
        match self {
            Self::NotAuthorized => 2,
            Self::NoResources => 4,
        }
    }
}

/// RFC 6887 section 8.1: the request passed a NAT on its way.
const ADDRESS_MISMATCH: u8 = 12;
/// For how long an error holds (RFC 6887 section 8.3).
const ERROR_LIFETIME: u32 = 30;

impl Nat {
    /// The gateway's answer to a datagram that has come to its port [`crate::port_mapping::PORT`] from inside; none where it
    /// serves no such protocol, or the datagram is none of one.
    pub fn serve(&mut self, from: SocketAddr, datagram: &[u8], now: Duration) -> Option<Vec<u8>> {
        self.opened.advance(self.spec.port_mapping.restarts, now);
        let epoch = self.opened.epoch(now);
        match (*datagram.first()?, self.spec.port_mapping.serves) {
            (_, Serves::Nothing) => None,
            (nat_pmp::VERSION, Serves::NatPmp | Serves::Both) => {
                self.serve_nat_pmp(from, datagram, epoch, now)
            }
            (pcp::VERSION, Serves::Pcp | Serves::Both) => self.serve_pcp(from, datagram, epoch, now),
            // Another version is answered in one's own (RFC 6886 section 3.5, RFC 6887 section 9).
            (_, Serves::NatPmp) => {
                let body = nat_pmp::Body::Nothing;
                Some(nat_pmp::Response { result: nat_pmp::UNSUPPORTED_VERSION, epoch, body }.write())
            }
            (_, Serves::Pcp | Serves::Both) => {
                let (result, operation) = (pcp::UNSUPP_VERSION, pcp::Operation::Announce);
                Some(pcp::Response { result, lifetime: ERROR_LIFETIME, epoch, operation }.write())
            }
        }
    }

    fn serve_pcp(&mut self, from: SocketAddr, datagram: &[u8], epoch: u32, now: Duration) -> Option<Vec<u8>> {
        let request = pcp::Request::read(datagram)?;
        let mut answer =
            pcp::Response { result: 0, lifetime: request.lifetime, epoch, operation: request.operation };
        if request.client != from.ip() {
            answer = pcp::Response { result: ADDRESS_MISMATCH, lifetime: ERROR_LIFETIME, ..answer };
        } else if let pcp::Operation::Map(map) = request.operation {
            let wish = Wish {
                transport: map.transport,
                inside: SocketAddr::new(from.ip(), map.internal),
                external: map.external,
                lifetime: request.lifetime,
                nonce: map.nonce,
            };
            match self.grant(wish, now) {
                Ok(Grant { outside, lifetime }) => {
                    let (external, external_address) = (outside.port(), outside.ip());
                    answer.operation = pcp::Operation::Map(pcp::Map { external, external_address, ..map });
                    answer.lifetime = lifetime;
                }
                Err(why) => (answer.result, answer.lifetime) = (why.pcp(), ERROR_LIFETIME),
            }
        }
        Some(answer.write())
    }

    fn serve_nat_pmp(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        epoch: u32,
        now: Duration,
    ) -> Option<Vec<u8>> {
        let (result, body) = match nat_pmp::Request::read(datagram)? {
            nat_pmp::Request::ExternalAddress => {
                let external = self.external.iter().find_map(|ip| match ip {
                    IpAddr::V4(ip) => Some(*ip),
                    IpAddr::V6(_) => None,
                });
                (0, nat_pmp::Body::ExternalAddress(external.unwrap_or(Ipv4Addr::UNSPECIFIED)))
            }
            nat_pmp::Request::Map { transport, internal, external, lifetime } => {
                let inside = SocketAddr::new(from.ip(), internal);
                let wish = Wish { transport, inside, external, lifetime, nonce: [0; 12] };
                let (result, external, lifetime) = match self.grant(wish, now) {
                    // The end of a mapping names no external port (section 3.4).
                    Ok(grant) if lifetime == 0 => (0, 0, grant.lifetime),
                    Ok(grant) => (0, grant.outside.port(), grant.lifetime),
                    Err(why) => (why.nat_pmp(), external, 0),
                };
                (result, nat_pmp::Body::Map { transport, internal, external, lifetime })
            }
        };
        Some(nat_pmp::Response { result, epoch, body }.write())
    }

    /// Opens a port, renews it, or with a lifetime of 0 closes it.
    fn grant(&mut self, wish: Wish, now: Duration) -> Result<Grant, Refusal> {
        let Wish { transport, inside, nonce, .. } = wish;
        let protocol = of(transport);
        let port_mapping = self.spec.port_mapping;
        let known = self.opened.of(protocol, inside).copied();
        if port_mapping.opens == Opens::Refused || known.is_some_and(|port| port.nonce != nonce) {
            return Err(Refusal::NotAuthorized);
        }
        if wish.lifetime == 0 {
            if port_mapping.opens != Opens::Kept {
                // Internal port 0 stands for all of this host (RFC 6886 section 3.4, RFC 6887 section 15.1).
                let is_meant = |it: SocketAddr| it == inside || inside.port() == 0 && it.ip() == inside.ip();
                self.opened.close(protocol, is_meant);
            }
            return Ok(Grant { outside: SocketAddr::new(inside.ip(), wish.external), lifetime: 0 });
        }
        let outside = match known {
            Some(port) => port.outside,
            None => self.outside_for(&wish, now).ok_or(Refusal::NoResources)?,
        };
        let lifetime = Duration::from_secs(wish.lifetime.into()).min(port_mapping.lease);
        if matches!(port_mapping.opens, Opens::Ports | Opens::Kept) {
            let port = OpenedPort { protocol, inside, outside, nonce, until: now + lifetime };
            if !self.opened.open(port) {
                return Err(Refusal::NoResources);
            }
        }
        Ok(Grant { outside, lifetime: u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX) })
    }

    /// The external endpoint for a port that is to be opened: the one that is wished for, if it is free. A firewall that does
    /// not translate opens the port itself.
    fn outside_for(&mut self, wish: &Wish, now: Duration) -> Option<SocketAddr> {
        let Wish { inside, external, .. } = *wish;
        let protocol = of(wish.transport);
        if !self.translates(self.spec.rules(protocol), inside.ip()) {
            return Some(inside);
        }
        let ip = self.pool_address(inside, inside)?;
        let (low, high) = self.spec.ports.range;
        let first = self.rng.u16(low..=high);
        let others = (first..=high).chain(low..first);
        let wished = Some(external).filter(|port| (low..=high).contains(port));
        let mut ports = wished.into_iter().chain(others).map(|port| SocketAddr::new(ip, port));
        ports.find(|outside| {
            let opened = self.opened.at(protocol, *outside);
            opened.is_none() && self.table.is_free_for(protocol, *outside, inside, now)
        })
    }

    /// Whether an opened port serves what leaves, too (RFC 6886 section 3.9); the kernel's rules serve what comes in alone.
    pub(super) fn opens_both_directions(&self, mapping: Mapping) -> bool {
        self.spec.tracking == Tracking::Mapping && mapping == Mapping::EndpointIndependent
    }
}

fn of(transport: Transport) -> Protocol {
    match transport {
        Transport::Udp => Protocol::Udp,
        Transport::Tcp => Protocol::Tcp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::model::{Packet, TcpFlags, Verdict};

    const HOST: &str = "192.168.1.2:5000";
    const REMOTE: &str = "198.51.100.9:7000";
    const SECOND: Duration = Duration::from_secs(1);

    fn nat(settings: &str) -> Nat {
        Nat::new(settings.parse().unwrap(), &["203.0.113.1".parse().unwrap()], 1)
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn map(nat: &mut Nat, transport: Transport, lifetime: u32, nonce: u8, now: Duration) -> pcp::Response {
        let map = pcp::Map {
            nonce: [nonce; 12],
            transport,
            internal: 5000,
            external: 41_000,
            external_address: Ipv4Addr::UNSPECIFIED.into(),
        };
        let client = at(HOST).ip();
        let request = pcp::Request { lifetime, client, operation: pcp::Operation::Map(map) };
        let answer = nat.serve(at("192.168.1.2:6000"), &request.write(), now).unwrap();
        let answer = pcp::Response::read(&answer).unwrap();
        assert!(request.is_answered_by(&answer));
        answer
    }

    fn arrives(nat: &mut Nat, to: &str, now: Duration) -> Option<SocketAddr> {
        match nat.inbound(Packet::udp(at(REMOTE), at(to), vec![1]), now) {
            Verdict::Forward(packet) => Some(packet.destination),
            _ => None,
        }
    }

    fn leaves(nat: &mut Nat, to: &str, now: Duration) -> SocketAddr {
        match nat.outbound(Packet::udp(at(HOST), at(to), vec![1]), now) {
            Verdict::Forward(packet) => packet.source,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_opened_port_lets_everybody_in_until_it_is_closed() {
        for spec in ["port-restricted-cone", "symmetric", "linux"] {
            let mut nat = nat(&format!("{spec},port-mapping=pcp"));
            assert_eq!(arrives(&mut nat, "203.0.113.1:41000", SECOND), None, "{spec}");
            let answer = map(&mut nat, Transport::Udp, 120, 1, SECOND);
            assert_eq!((answer.result, answer.lifetime), (0, 120), "{spec}");
            let pcp::Operation::Map(granted) = answer.operation else { panic!("{answer:?}") };
            assert_eq!((granted.external_address, granted.external), (at("203.0.113.1:0").ip(), 41_000));
            assert_eq!(arrives(&mut nat, "203.0.113.1:41000", SECOND), Some(at(HOST)), "{spec}");
            assert_eq!(leaves(&mut nat, REMOTE, SECOND), at("203.0.113.1:41000"), "an answer: {spec}");
            let elsewhere = leaves(&mut nat, "198.51.100.8:1", SECOND);
            assert_eq!(elsewhere.port() == 41_000, spec == "port-restricted-cone", "{spec}");
            assert_eq!(map(&mut nat, Transport::Udp, 0, 1, 2 * SECOND).result, 0, "{spec}");
            let other = Packet::udp(at("198.51.100.7:1"), at("203.0.113.1:41000"), vec![1]);
            assert!(!matches!(nat.inbound(other, 2 * SECOND), Verdict::Forward(_)), "{spec}");
        }
    }

    #[test]
    fn a_lease_ends_by_itself_and_is_no_longer_than_the_longest() {
        let mut nat = nat("symmetric,port-mapping=both,lease=10");
        assert_eq!(map(&mut nat, Transport::Udp, 120, 1, SECOND).lifetime, 10);
        assert!(arrives(&mut nat, "203.0.113.1:41000", 10 * SECOND).is_some());
        let other = Packet::udp(at("198.51.100.7:1"), at("203.0.113.1:41000"), vec![1]);
        assert!(!matches!(nat.inbound(other, 11 * SECOND), Verdict::Forward(_)));
    }

    #[test]
    fn another_nonce_changes_nothing() {
        let mut nat = nat("linux,port-mapping=pcp");
        map(&mut nat, Transport::Udp, 120, 1, SECOND);
        assert_eq!(map(&mut nat, Transport::Udp, 0, 2, SECOND).result, Refusal::NotAuthorized.pcp());
        assert!(arrives(&mut nat, "203.0.113.1:41000", SECOND).is_some());
    }

    #[test]
    fn a_gateway_may_refuse_or_do_nothing() {
        let mut refuses = nat("linux,port-mapping=pcp,opens=refused");
        assert_eq!(map(&mut refuses, Transport::Udp, 120, 1, SECOND).result, Refusal::NotAuthorized.pcp());
        let mut idle = nat("linux,port-mapping=pcp,opens=nothing");
        assert_eq!(map(&mut idle, Transport::Udp, 120, 1, SECOND).result, 0);
        assert_eq!(arrives(&mut idle, "203.0.113.1:41000", SECOND), None);
    }

    #[test]
    fn the_epoch_begins_again_when_the_ports_are_lost() {
        let mut nat = nat("linux,port-mapping=pcp,restarts=60");
        let before = map(&mut nat, Transport::Udp, 600, 1, 59 * SECOND);
        assert!(before.epoch >= 86_400, "{before:?}");
        let request =
            pcp::Request { lifetime: 0, client: at(HOST).ip(), operation: pcp::Operation::Announce };
        let after = nat.serve(at(HOST), &request.write(), 65 * SECOND).unwrap();
        assert_eq!(pcp::Response::read(&after).unwrap().epoch, 5);
        assert_eq!(arrives(&mut nat, "203.0.113.1:41000", 65 * SECOND), None);
    }

    #[test]
    fn a_port_in_use_is_not_opened_for_another_host() {
        let mut nat = nat("port-restricted-cone,port-mapping=both");
        let neighbour = Packet::udp(at("192.168.1.3:41000"), at(REMOTE), vec![1]);
        assert!(matches!(nat.outbound(neighbour, SECOND), Verdict::Forward(_)));
        let pcp::Operation::Map(granted) = map(&mut nat, Transport::Udp, 120, 1, SECOND).operation else {
            panic!("no mapping")
        };
        assert_ne!(granted.external, 41_000);
        // And what is opened is not given to those who send.
        let wanted = Packet::udp(at(&format!("192.168.1.4:{}", granted.external)), at(REMOTE), vec![1]);
        match nat.outbound(wanted, SECOND) {
            Verdict::Forward(packet) => assert_ne!(packet.source.port(), granted.external),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nat_pmp_is_served_and_each_version_is_answered_in_its_own() {
        let mut both = nat("linux,port-mapping=nat-pmp");
        let address = nat_pmp::Request::ExternalAddress.write();
        let answer = nat_pmp::Response::read(&both.serve(at(HOST), &address, SECOND).unwrap()).unwrap();
        assert_eq!(answer.body, nat_pmp::Body::ExternalAddress([203, 0, 113, 1].into()));
        let tcp = nat_pmp::Request::Map {
            transport: Transport::Tcp,
            internal: 5000,
            external: 41_000,
            lifetime: 60,
        };
        let answer = nat_pmp::Response::read(&both.serve(at(HOST), &tcp.write(), SECOND).unwrap()).unwrap();
        assert!(tcp.is_answered_by(&answer) && answer.result == 0, "{answer:?}");
        let syn = Packet::tcp(at(REMOTE), at("203.0.113.1:41000"), TcpFlags::SYN, Vec::new());
        assert!(matches!(both.inbound(syn, SECOND), Verdict::Forward(_)));
        let announce =
            pcp::Request { lifetime: 0, client: at(HOST).ip(), operation: pcp::Operation::Announce };
        let answer = both.serve(at(HOST), &announce.write(), SECOND).unwrap();
        assert_eq!((pcp::Response::read(&answer), answer[3]), (None, 1), "unsupported version");
        let mut none = nat("linux");
        assert_eq!(none.serve(at(HOST), &address, SECOND), None);
    }

    #[test]
    fn a_request_that_passed_a_nat_is_refused_by_name() {
        let mut nat = nat("linux,port-mapping=pcp");
        let request =
            pcp::Request { lifetime: 0, client: at(HOST).ip(), operation: pcp::Operation::Announce };
        let answer = nat.serve(at("100.64.0.2:5000"), &request.write(), SECOND).unwrap();
        assert_eq!(pcp::Response::read(&answer).unwrap().result, ADDRESS_MISMATCH);
    }

    #[test]
    fn a_firewall_opens_the_port_itself() {
        let mut nat = Nat::new("firewall,port-mapping=pcp".parse().unwrap(), &[], 1);
        let answer = map(&mut nat, Transport::Udp, 120, 1, SECOND);
        let pcp::Operation::Map(granted) = answer.operation else { panic!("{answer:?}") };
        assert_eq!(SocketAddr::new(granted.external_address, granted.external), at(HOST));
        assert_eq!(arrives(&mut nat, HOST, SECOND), Some(at(HOST)));
    }
}
