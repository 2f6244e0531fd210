//! The rendezvous, fuzzed: whatever a connection brings over HTTP and WebSocket, and whatever clients do with sessions.

use std::{net::IpAddr, time::Duration};

use probe_server::rendezvous::{
    MemoryStore, Participant, Rendezvous, RoomLimits, RoomMember, Rooms, SessionLimits, SessionStore,
};
use shared::rendezvous::{Code, MAX_MESSAGE, Payload, ToClient, ToServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    time::timeout,
};

const UPGRADE: &[u8] = b"GET /punch HTTP/1.1\r\nHost: probe\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// Longer than anything that the server waits for.
const LONGEST: Duration = Duration::from_secs(3600);

/// A connection ends in bounded time and is told little more than it has said. The first byte chooses the size of the
/// pieces, and what the others are: the connection from its beginning, frames, or messages, one a line.
pub(crate) fn http(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let said = match choice & 3 {
        0 => bytes.to_vec(),
        1 => [UPGRADE, bytes].concat(),
        _ => bytes
            .split(|byte| *byte == b'\n')
            .fold(UPGRADE.to_vec(), |said, line| [said, frame(line)].concat()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let rendezvous = Rendezvous::new(SessionLimits::default());
        let (mut client, server) = duplex(1 << 20);
        let serving = rendezvous.serve(server, ([192, 0, 2, 7], 40000).into(), Vec::new());
        let talking = async {
            for piece in said.chunks(usize::from(choice >> 2).max(1)) {
                // The server may have had enough.
                if client.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let mut heard = Vec::new();
            _ = client.read_to_end(&mut heard).await;
            heard.len()
        };
        let (_, heard) = timeout(LONGEST, async { tokio::join!(serving, talking) }).await.expect("it ends");
        assert!(heard <= 1024 + 2 * said.len(), "{heard} bytes for {}", said.len());
        assert_eq!(rendezvous.counts().sessions, 0);
    });
}

/// A text frame of a client, its mask zero.
pub(crate) fn frame(text: &[u8]) -> Vec<u8> {
    let length = match text.len() {
        short @ 0..126 => vec![0x80 | short as u8],
        long => [&[0xfe], &(long as u16).to_be_bytes()[..]].concat(),
    };
    [&[0x81], &length[..], &[0; 4], text].concat()
}

/// Sessions and clients stay within their limits, nothing is delivered to anybody who was not there, and when all have
/// left nothing stays. Four bytes a step: what, from where, whose, how long after the one before.
pub(crate) fn sessions(bytes: &[u8]) {
    let limits = SessionLimits {
        sessions: 6,
        clients: 8,
        per_host: 2,
        per_net: 3,
        messages: 10,
        bytes: 400,
        ..SessionLimits::default()
    };
    let mut store = MemoryStore::new(limits);
    let (mut known, mut codes): (Vec<Participant>, Vec<Code>) = (Vec::new(), Vec::new());
    let mut now = Duration::ZERO;
    for (number, step) in bytes.chunks_exact(4).enumerate() {
        let [what, from, whose, passes] = [step[0], step[1], step[2], step[3]].map(usize::from);
        now += Duration::from_secs(passes as u64);
        let somebody = (!known.is_empty()).then(|| known[whose % known.len()]);
        let told = match (what % 8, somebody) {
            (0 | 1, _) => store.open(address(from), number as u64, now).map(|opened| {
                known.push(opened.participant);
                codes.push(opened.code);
                opened.deliveries
            }),
            (2 | 3, _) => {
                let code = codes.get(whose % codes.len().max(1)).copied().unwrap_or(Code::from_bits(1 << 40));
                store.join(code, address(from), now).map(|(guest, told)| {
                    known.push(guest);
                    told
                })
            }
            (4, Some(one)) => store.handle(one, ToServer::PeerPing { id: 1 }, from, now),
            (5 | 6, Some(one)) => store.handle(one, ready(whose as u32 / 64, from as u32), 40, now),
            (_, Some(one)) => Ok(store.leave(one)),
            (_, None) => Ok(Vec::new()),
        };
        for delivery in told.iter().flatten() {
            assert!(known.contains(&delivery.participant), "{delivery:?}");
        }
        assert!(store.count() <= limits.sessions);
        let alive = known.iter().filter(|one| store.deadline(**one).is_some()).count();
        assert!(alive <= limits.clients, "{alive} clients");
    }
    known.into_iter().for_each(|one| drop(store.leave(one)));
    assert_eq!(store.count(), 0);
}

/// Rooms and members stay within their limits, nobody is paired twice with anybody, what members are told fits into messages and
/// ends, and when all have left nothing stays. Four bytes a step, as above.
pub(crate) fn rooms(bytes: &[u8]) {
    let limits = RoomLimits {
        rooms: 3,
        members: 8,
        per_room: 4,
        per_host: 2,
        per_net: 3,
        messages: 10,
        bytes: 4000,
        ..RoomLimits::default()
    };
    let mut rooms = Rooms::new(limits);
    let mut known: Vec<(RoomMember, Vec<u32>)> = Vec::new();
    let mut now = Duration::ZERO;
    let payload = || Payload::write(&"x".repeat(200)).expect("a short payload");
    for (number, step) in bytes.chunks_exact(4).enumerate() {
        let [what, from, whose, passes] = [step[0], step[1], step[2], step[3]].map(usize::from);
        now += Duration::from_secs(passes as u64);
        let somebody = (!known.is_empty()).then(|| known[whose % known.len()].0);
        let peer = from as u32 % 8;
        let said = match what % 8 {
            0..3 => {
                let name = ["a", "b", "c", "d"][whose % 4].parse().ok().filter(|_| what < 128);
                if let Ok(entrance) = rooms.enter(name, address(from), number as u64, now) {
                    known.push((entrance.member, Vec::new()));
                }
                None
            }
            3 => Some(ToServer::Available { payload: payload() }),
            4 => Some(ToServer::Invite { peer, code: Code::from_bits(number as u64) }),
            5 => Some(ToServer::Result { peer, payload: payload() }),
            6 => {
                somebody.into_iter().for_each(|one| drop(rooms.expire(one, now)));
                None
            }
            _ => {
                somebody.into_iter().for_each(|one| drop(rooms.leave(one, now)));
                None
            }
        };
        if let Some((said, one)) = said.zip(somebody) {
            _ = rooms.handle(one, said, 300, Some(address(number)), now);
        }
        let (count, members) = rooms.count();
        assert!(count <= limits.rooms && members <= limits.members);
        for (member, peers) in &mut known {
            let told = std::iter::from_fn(|| rooms.next(*member)).map_while(Result::ok);
            let told: Vec<ToClient> = told.take(1000).collect();
            assert!(told.len() < 1000, "it ends");
            for message in told {
                assert!(serde_json::to_string(&message).expect("JSON").len() <= MAX_MESSAGE);
                if let ToClient::Pair { peer, .. } = message {
                    assert!(!peers.contains(&peer), "paired twice with {peer}");
                    peers.push(peer);
                }
            }
        }
    }
    known.into_iter().for_each(|(one, _)| drop(rooms.leave(one, now)));
    assert_eq!(rooms.count(), (0, 0));
}

fn ready(step: u32, rtt_ms: u32) -> ToServer {
    let payload = Payload::write(&rtt_ms).expect("a short payload");
    ToServer::Ready { step, rtt_ms, payload }
}

/// Hosts, networks and providers, of both families.
fn address(choice: usize) -> IpAddr {
    let part = |at: u32| (choice >> at & 3) as u8;
    match choice & 1 {
        0 => [20 + part(1), part(3), part(5), choice as u8].into(),
        _ => [0x2001, 0x100 + u16::from(part(1)), u16::from(part(3)), u16::from(part(5)) << 8, 0, 0, 0, 1]
            .into(),
    }
}
