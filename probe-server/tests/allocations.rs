//! The way from datagram to answers allocates nothing, whatever the datagram.

use probe_server::{
    last_heard::LastHeard,
    limits::{Buckets, Limits},
    respond::{Answers, respond},
    topology::{Endpoint, Topology},
};
use shared::stun::{Class, TransactionId, Writer, attr};

#[test]
fn nothing_is_allocated_for_a_datagram() {
    let topology =
        Topology::new("2001:db8::1".parse().unwrap(), Some("2001:db8::2".parse().unwrap()), (3478, 3479));
    let from: std::net::SocketAddr = "[2001:db8:1::1]:40000".parse().unwrap();
    let (last_heard, buckets, limits) = (LastHeard::new(1, false), Buckets::new(1), Limits::default());
    let mut rng = fastrand::Rng::with_seed(1);
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    for fill in [
        (|_| {}) as fn(&mut Writer<'_>),
        |w| _ = w.u32(attr::CHANGE_REQUEST, 6).bytes(attr::RECEIPT, &[0; 200]).fingerprint(),
        |w| _ = w.zeros(attr::PADDING, 1400),
        |w| (0..16).for_each(|i| _ = w.bytes(0x7000 + i, &[])),
        |w| _ = w.response_port(80),
    ] {
        for id in [TransactionId::modern(&mut rng), TransactionId::classic(&mut rng)] {
            let mut buffer = [0; 2048];
            let mut writer = Writer::new(&mut buffer, Class::Request, &id);
            fill(&mut writer);
            let length = writer.finish().unwrap();
            datagrams.push(buffer[..length].to_vec());
        }
    }
    datagrams.push(vec![0xff; 100]);
    let mut out = Answers::new();
    let mut sent = 0;
    let info = allocation_counter::measure(|| {
        for datagram in &datagrams {
            let unheard = last_heard.note(from.ip(), Endpoint::Primary, 1);
            if respond(&topology, Endpoint::Primary, from, unheard, datagram, &mut out).is_ok()
                && buckets.admit(&limits, from, 1).is_ok()
            {
                sent += out.iter().map(|(_, _, bytes)| bytes.len()).sum::<usize>();
            }
        }
    });
    assert!(sent > 0);
    assert_eq!(info.count_total, 0);
}
