//! What is fuzzed: each target takes any bytes and panics only where a promise of the product is broken. The fuzzer
//! and the replay of its corpus in the ordinary tests run exactly this.

pub(crate) mod clients;
pub(crate) mod lies;
pub(crate) mod rendezvous;
pub(crate) mod test_sessions;

use std::net::SocketAddr;

use probe_server::{
    last_heard::Unheard,
    respond::{Answers, budget, respond, respond_stream},
    topology::{Endpoint, Topology},
};
use shared::stun::{Class, Dialect, View, Writer, attr, frame::Frames, strict};
use stun_rs::MessageDecoderBuilder;

/// A target: any bytes in, no panic.
pub(crate) type Target = fn(&[u8]);

/// All targets, by the name of their corpus.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("parser", parser),
    ("respond", any_respond),
    ("framing", framing),
    ("against_stun_rs", against_stun_rs),
    ("lies", lies::lies),
    ("http", rendezvous::http),
    ("sessions", rendezvous::sessions),
    ("rooms", rendezvous::rooms),
    ("test_sessions", test_sessions::test_sessions),
    ("punch", clients::punch),
    ("srv", clients::srv),
];

/// The reader never panics, covers the message to the last byte, and what is read can be written again to the same.
pub(crate) fn parser(bytes: &[u8]) {
    let Ok(view) = View::parse(bytes) else { return };
    let covered: usize = view.attributes().map(|a| 4 + a.value.len().next_multiple_of(4)).sum();
    assert_eq!(covered + 20, bytes.len());
    assert_eq!(view.id().dialect(), view.dialect());
    _ = (
        view.mapped(),
        view.error(),
        view.response_port(),
        view.fingerprint(),
        view.u32(attr::CHANGE_REQUEST),
    );
    let mut buffer = vec![0; bytes.len()];
    let mut writer = Writer::new(&mut buffer, view.class(), &view.id());
    view.attributes().for_each(|a| _ = writer.bytes(a.number, a.value));
    assert_eq!(writer.finish(), Ok(bytes.len()));
    let again = View::parse(&buffer).expect("what the writer writes can be read");
    assert!(again.attributes().eq(view.attributes()));
}

/// Answers keep to the budget, to the source's host, to the id, and are sound; the first byte chooses where the
/// request comes to and from.
pub(crate) fn any_respond(bytes: &[u8]) {
    let Some((choice, datagram)) = bytes.split_first() else { return };
    let (ips, from): (_, SocketAddr) = match choice & 4 {
        0 => (["198.51.100.10", "198.51.100.11"], ([192, 0, 2, 7], 40000).into()),
        _ => (["2001:db8::10", "2001:db8::11"], ([0x2001, 0xdb8, 7, 0, 0, 0, 0, 7], 40000).into()),
    };
    let [primary, alternate] = ips.map(|ip| ip.parse().expect("an address"));
    let alone = choice & 8 != 0;
    let at = if alone { Endpoint::Primary } else { Endpoint::ALL[usize::from(choice & 3)] };
    let topology = Topology::new(primary, (!alone).then_some(alternate), (3478, 3479));
    let mut out = Answers::new();
    let outcome = respond(&topology, at, from, Unheard(600), datagram, &mut out);
    assert_eq!(outcome.is_err(), out.is_empty());
    assert!(out.len() <= budget(datagram.len(), from));
    for (leaves, to, answer) in out.iter() {
        let request = View::parse(datagram).expect("only messages are answered");
        assert_eq!(to.ip(), from.ip());
        assert!(to.port() == from.port() || to.port() >= 1024);
        assert!(topology.bound(leaves).is_some());
        let view = View::parse(answer).expect("answers can be read");
        assert_eq!(view.id(), request.id());
        assert!(matches!(view.class(), Class::Success | Class::Error));
        if request.dialect() == Dialect::Modern {
            assert_eq!(
                view.fingerprint().is_some(),
                request.fingerprint().is_some() && view.find(attr::RECEIPT).is_none()
            );
        }
    }
    let stream = respond_stream(&topology, at, from, datagram, &mut out);
    assert_eq!(stream.is_err(), out.is_empty());
    assert!(out.iter().all(|(leaves, to, _)| leaves == at && to == from));
}

/// A stream gives the same messages whatever the pieces; the first byte chooses their size.
pub(crate) fn framing(bytes: &[u8]) {
    let Some((size, stream)) = bytes.split_first() else { return };
    let read = |size: usize| {
        let mut frames = Frames::new(512);
        let mut seen = Vec::new();
        for piece in stream.chunks(size) {
            frames.push(piece);
            loop {
                match frames.next_message() {
                    Ok(Some(message)) => seen.push(message.to_vec()),
                    Ok(None) => break,
                    Err(error) => return (seen, Some(error)),
                }
            }
        }
        (seen, None)
    };
    let whole = read(stream.len().max(1));
    assert_eq!(read(usize::from(*size).max(1)), whole);
    let length: usize = whole.0.iter().map(Vec::len).sum();
    assert_eq!(whole.0.concat(), stream[..length]);
}

/// What the strict reader takes, ours takes, and where both see an address they see the same. Ours is the stricter in
/// one thing: an address with bytes behind it is none.
pub(crate) fn against_stun_rs(bytes: &[u8]) {
    // Longer messages cost the strict reader quadratic time.
    if bytes.len() > 512 {
        return;
    }
    _ = strict::objection(bytes);
    let Ok((theirs, used)) = MessageDecoderBuilder::default().build().decode(bytes) else { return };
    if used != bytes.len() {
        return;
    }
    let ours = View::parse(bytes).expect("the strict reader took it");
    assert_eq!(theirs.transaction_id().as_bytes(), &ours.id().0[4..]);
    assert_eq!(theirs.method().as_u16(), ours.method());
    use stun_rs::attributes::{
        discovery::OtherAddress,
        stun::{MappedAddress, XorMappedAddress},
    };
    if let Some(Ok(address)) = theirs.get::<MappedAddress>().map(|a| a.as_mapped_address()) {
        assert!(ours.address(attr::MAPPED_ADDRESS).is_none_or(|ours| ours == *address.socket_address()));
    }
    if let Some(Ok(address)) = theirs.get::<XorMappedAddress>().map(|a| a.as_xor_mapped_address()) {
        assert!(
            ours.xor_address(attr::XOR_MAPPED_ADDRESS).is_none_or(|ours| ours == *address.socket_address())
        );
    }
    if let Some(Ok(address)) = theirs.get::<OtherAddress>().map(|a| a.as_other_address()) {
        assert!(ours.address(attr::OTHER_ADDRESS).is_none_or(|ours| ours == *address.socket_address()));
    }
}
