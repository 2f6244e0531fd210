//! What the fuzzer holds the part against that takes beacons: hosts of the local network may send anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::{
    beacon::{Beacon, LONGEST},
    conclude::{self, Beside},
    neighbourhood::{MOST_ASKED_OF_ALL, MOST_NEIGHBOURS, Neighbourhood, Us},
    pairs,
};
use crate::report::Confidence;

const OWN: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 2), 40_000);

/// What can be read is written to the same bytes; whatever comes, only so many neighbours are kept, only so much is sent, nothing to
/// others than hosts of the network, and nothing is sure of hosts that have not repeated the nonce.
///
/// Packets follow each other, each behind two bytes with its length and one with the last byte of its source; a source of 0 begins a
/// round. The sender is made the one that the beacon names where the highest bit of the length is set.
pub fn beacons(bytes: &[u8]) {
    let us = Us {
        id: [0x55; 8],
        nonce: [0xaa; 8],
        at: OWN,
        at6: None,
        prefix: 24,
        own: vec![IpAddr::from(*OWN.ip())],
        peers: Vec::new(),
    };
    let mut hood = Neighbourhood::new(us, 0xff, 0xff);
    let (mut rest, mut asked) = (bytes, 0);
    while let [high, low, source, more @ ..] = rest {
        let is_named = high & 0x80 != 0;
        let length = usize::from(u16::from_be_bytes([high & 0x7f, *low]));
        let (packet, more) = more.split_at(length.min(more.len()));
        rest = more;
        if *source == 0 {
            asked += round(&mut hood);
        }
        let read = Beacon::read(packet);
        if let Some(beacon) = &read {
            assert_eq!(beacon.write(), packet, "what is read is written again");
        }
        let named = read.filter(|_| is_named).map(|beacon| SocketAddr::from(beacon.at));
        let from = named.unwrap_or_else(|| ([192, 168, 77, *source], 40_000).into());
        hood.take(from, packet);
        assert!(hood.neighbours.len() <= MOST_NEIGHBOURS);
    }
    asked += round(&mut hood);
    assert!(asked <= usize::from(MOST_ASKED_OF_ALL));
    let beside = Beside { gateway: None, devices: &[], ended_early: false };
    let found = conclude::conclude(&hood, beside);
    _ = (pairs::matrix(&hood), conclude::neighbours(&hood), hood.is_settled());
    if !hood.neighbours.iter().any(|it| it.is_proven) {
        for confidence in [
            found.multicast.confidence,
            found.broadcast.confidence,
            found.ipv6_multicast.confidence,
            found.isolation.confidence,
            found.one_way.confidence,
            found.lasts.confidence,
        ] {
            assert!(confidence < Confidence::Strong, "{found:?}");
        }
    }
}

/// Sends a round and counts the packets to hosts that are not proven.
fn round(hood: &mut Neighbourhood) -> usize {
    let proven: Vec<SocketAddr> = hood
        .neighbours
        .iter()
        .filter(|it| it.is_proven)
        .flat_map(|it| std::iter::once(it.at.into()).chain(it.at6.map(SocketAddr::from)))
        .collect();
    let out = hood.next_round();
    assert!(out.len() <= 6 + 2 * MOST_NEIGHBOURS);
    let mut asked = 0;
    for packet in out {
        assert!(packet.bytes.len() <= LONGEST && Beacon::read(&packet.bytes).is_some());
        let Some(to) = packet.to else { continue };
        if !proven.contains(&to) {
            let SocketAddr::V4(to) = to else { panic!("{to}") };
            assert!(to.ip().octets()[..3] == OWN.ip().octets()[..3] && to.port() >= 1024, "{to}");
            assert!(![0, 2, 255].contains(&to.ip().octets()[3]), "{to}");
            asked += 1;
        }
    }
    asked
}
