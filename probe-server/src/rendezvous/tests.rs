//! Clients of all kinds over streams in memory, in paused time: what one of them does harms nobody else.

use shared::rendezvous::{Code, MAX_MESSAGE, Payload, Role, VERSION};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::*;

type Client = WebSocketStream<DuplexStream>;

const HERE: [SocketAddr; 1] = [SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 100)), 3478)];

fn connect_raw(rendezvous: &Arc<Rendezvous>, from: &str) -> DuplexStream {
    connect_window(rendezvous, from, 64 * 1024)
}

/// A connection that holds so many bytes that nobody has read.
fn connect_window(rendezvous: &Arc<Rendezvous>, from: &str, window: usize) -> DuplexStream {
    let (here, there) = duplex(window);
    let (rendezvous, from) = (Arc::clone(rendezvous), SocketAddr::new(from.parse().unwrap(), 1));
    tokio::spawn(async move { rendezvous.serve(there, from, HERE.to_vec()).await });
    here
}

async fn connect(rendezvous: &Arc<Rendezvous>, from: &str) -> Client {
    client_async("ws://probe/punch", connect_raw(rendezvous, from)).await.unwrap().0
}

async fn say(client: &mut Client, message: &ToServer) {
    client.send(Message::text(serde_json::to_string(message).unwrap())).await.unwrap();
}

/// What is said to the client, after the welcome.
async fn hear(client: &mut Client) -> ToClient {
    loop {
        let message = match timeout(Duration::from_secs(3600), client.next()).await.unwrap().unwrap().unwrap()
        {
            Message::Text(text) => ToClient::parse(&text).unwrap().unwrap(),
            other => panic!("{other:?}"),
        };
        match message {
            ToClient::Welcome { stun, .. } => assert_eq!(stun, HERE),
            message => return message,
        }
    }
}

async fn open(rendezvous: &Arc<Rendezvous>, from: &str) -> (Client, Code) {
    open_over(connect(rendezvous, from).await).await
}

async fn open_over(mut client: Client) -> (Client, Code) {
    say(&mut client, &ToServer::Open { version: VERSION }).await;
    let ToClient::Waiting { code, .. } = hear(&mut client).await else { panic!("no code") };
    (client, code)
}

async fn pair(rendezvous: &Arc<Rendezvous>) -> (Client, Client) {
    let first = open(rendezvous, "192.0.2.1").await;
    pair_with(rendezvous, first).await
}

async fn pair_with(rendezvous: &Arc<Rendezvous>, (mut first, code): (Client, Code)) -> (Client, Client) {
    let mut second = connect(rendezvous, "192.0.2.2").await;
    say(&mut second, &ToServer::Join { version: VERSION, code }).await;
    assert!(matches!(hear(&mut first).await, ToClient::Paired { role: Role::First, .. }));
    assert!(matches!(hear(&mut second).await, ToClient::Paired { role: Role::Second, .. }));
    (first, second)
}

fn ready(port: u16) -> ToServer {
    ToServer::Ready { step: 0, rtt_ms: 10, payload: Payload::write(&port).unwrap() }
}

/// That two strangers can still meet.
async fn still_works(rendezvous: &Arc<Rendezvous>) {
    let (mut first, mut second) = pair(rendezvous).await;
    say(&mut first, &ready(1)).await;
    say(&mut second, &ready(2)).await;
    assert!(matches!(hear(&mut first).await, ToClient::Start { step: 0, .. }));
    assert!(matches!(hear(&mut second).await, ToClient::Start { step: 0, .. }));
    say(&mut first, &ToServer::PeerPing { id: 3 }).await;
    assert_eq!(hear(&mut second).await, ToClient::PeerPing { id: 3 });
    say(&mut second, &ToServer::PeerPong { id: 3 }).await;
    assert_eq!(hear(&mut first).await, ToClient::PeerPong { id: 3 });
}

#[tokio::test(start_paused = true)]
async fn whoever_gets_in_is_told_first_where_stun_is() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let mut client = connect(&rendezvous, "192.0.2.1").await;
    say(&mut client, &ToServer::Open { version: VERSION }).await;
    let first = client.next().await.unwrap().unwrap();
    let first = ToClient::parse(first.to_text().unwrap()).unwrap().unwrap();
    assert_eq!(first, ToClient::Welcome { stun: HERE.to_vec(), page: false });
}

#[tokio::test(start_paused = true)]
async fn two_clients_meet() {
    still_works(&Rendezvous::new(SessionLimits::default())).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_vanishes_is_reported_and_leaves_nothing() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (first, mut second) = pair(&rendezvous).await;
    drop(first);
    assert_eq!(hear(&mut second).await, ToClient::PeerLeft);
    drop(second);
    let (waiting, _) = open(&rendezvous, "192.0.2.3").await;
    drop(waiting);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(rendezvous.counts().sessions, 0);
    still_works(&rendezvous).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_joins_ends() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut waiting, _) = open(&rendezvous, "192.0.2.3").await;
    assert_eq!(hear(&mut waiting).await, ToClient::Refused { reason: Refusal::Expired });
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(rendezvous.counts().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused_and_harms_nobody() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let bystander = pair(&rendezvous).await;
    let mut rng = fastrand::Rng::with_seed(5);
    for round in 0..200 {
        let mut raw = connect_raw(&rendezvous, "198.51.100.7");
        let noise: Vec<u8> = (0..rng.usize(1..3000)).map(|_| rng.u8(..)).collect();
        raw.write_all(&noise).await.unwrap();
        let mut client = connect(&rendezvous, "198.51.100.7").await;
        let text: String = (0..rng.usize(0..200)).map(|_| rng.char('\0'..'\u{ff}')).collect();
        let message = if round % 2 == 0 {
            Message::text(text)
        } else {
            Message::binary(noise[..noise.len().min(1000)].to_vec())
        };
        client.send(message).await.unwrap();
        assert_eq!(hear(&mut client).await, ToClient::Refused { reason: Refusal::BadMessage });
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(rendezvous.counts().sessions, 1);
    drop(bystander);
    still_works(&rendezvous).await;
}

/// The frame is put together by hand: the library does not write such text.
#[tokio::test(start_paused = true)]
async fn what_is_no_message_is_refused_with_a_reason() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    for text in [
        &b"\xff\xfe"[..],
        b"{",
        b"[[[[[[[[[[",
        b"{\"type\":\"sing\",\"id\":1}",
        b"{\"type\":\"ready\",\"step\":0,\"rtt_ms\":1}",
    ] {
        let (mut client, mut peer) = pair(&rendezvous).await;
        let header = [0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        client.get_mut().write_all(&[&header, text].concat()).await.unwrap();
        assert_eq!(hear(&mut client).await, ToClient::Refused { reason: Refusal::BadMessage }, "{text:?}");
        assert_eq!(hear(&mut peer).await, ToClient::PeerLeft);
    }
    still_works(&rendezvous).await;
}

/// What clients tell each other is theirs: neither unknown fields nor depth, neither numbers nor order are touched.
#[tokio::test(start_paused = true)]
async fn payloads_pass_as_they_came() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut first, mut second) = pair(&rendezvous).await;
    let deep = format!("{}1{}", "[".repeat(1500), "]".repeat(1500));
    for (step, text) in [r#"{"type":"later","z":1.50, "a":[1e999]}"#, &deep].into_iter().enumerate() {
        let ready = format!(r#"{{"type":"ready","step":{step},"rtt_ms":1,"payload":{text}}}"#);
        first.send(Message::text(ready.clone())).await.unwrap();
        second.send(Message::text(ready)).await.unwrap();
        for client in [&mut first, &mut second] {
            let ToClient::Start { payload, .. } = hear(client).await else { panic!("no start") };
            assert_eq!(payload.as_text(), text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_long_ends_the_connection() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut client, _) = open(&rendezvous, "192.0.2.3").await;
    client.send(Message::text("x".repeat(MAX_MESSAGE + 1))).await.unwrap();
    assert_eq!(hear(&mut client).await, ToClient::Refused { reason: Refusal::TooMuch });
    still_works(&rendezvous).await;
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_ends_its_own_session_only() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut first, mut second) = pair(&rendezvous).await;
    let (_, code) = {
        let (client, code) = open(&rendezvous, "192.0.2.9").await;
        tokio::spawn(async move {
            let mut client = client;
            while client.next().await.is_some() {}
        });
        ((), code)
    };
    let mut pongs = 0;
    let end = loop {
        say(&mut first, &ToServer::Ping { id: pongs }).await;
        match hear(&mut first).await {
            ToClient::Pong { .. } => pongs += 1,
            other => break other,
        }
    };
    assert_eq!(end, ToClient::Refused { reason: Refusal::TooMuch });
    assert_eq!(pongs, SessionLimits::default().messages);
    assert_eq!(hear(&mut second).await, ToClient::PeerLeft);
    // The third client still waits, and can be joined.
    let mut late = connect(&rendezvous, "192.0.2.10").await;
    say(&mut late, &ToServer::Join { version: VERSION, code }).await;
    assert!(matches!(hear(&mut late).await, ToClient::Paired { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_sessions_leaves_room_for_others() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let mut held = Vec::new();
    for _ in 0..SessionLimits::default().per_host {
        held.push(open(&rendezvous, "198.51.100.7").await);
    }
    let mut client = connect(&rendezvous, "198.51.100.7").await;
    say(&mut client, &ToServer::Open { version: VERSION }).await;
    assert_eq!(hear(&mut client).await, ToClient::Refused { reason: Refusal::HostFull });
    still_works(&rendezvous).await;
}

/// A pair whose first client has a small window.
async fn narrow_pair(rendezvous: &Arc<Rendezvous>) -> (Client, Client) {
    let raw = connect_window(rendezvous, "192.0.2.1", 64);
    let first = open_over(client_async("ws://probe/punch", raw).await.unwrap().0).await;
    pair_with(rendezvous, first).await
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_cut_off() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (first, mut second) = narrow_pair(&rendezvous).await;
    let begun = Instant::now();
    for id in 0..6 {
        say(&mut second, &ToServer::PeerPing { id }).await;
    }
    assert_eq!(hear(&mut second).await, ToClient::PeerLeft);
    assert_eq!(begun.elapsed().as_secs(), CLIENT_TIMEOUT.as_secs());
    assert_eq!(rendezvous.counts().sessions, 0, "though the first one is still connected");
    still_works(&rendezvous).await;
    drop(first);
}

#[tokio::test(start_paused = true)]
async fn a_burst_reaches_a_peer_that_reads() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut first, mut second) = pair(&rendezvous).await;
    for id in 0..40 {
        let text = serde_json::to_string(&ToServer::PeerPing { id }).unwrap();
        second.feed(Message::text(text)).await.unwrap();
    }
    second.flush().await.unwrap();
    for id in 0..40 {
        assert_eq!(hear(&mut first).await, ToClient::PeerPing { id });
    }
    say(&mut first, &ToServer::PeerPong { id: 39 }).await;
    assert_eq!(hear(&mut second).await, ToClient::PeerPong { id: 39 });
}

#[tokio::test(start_paused = true)]
async fn whoever_says_more_than_the_peer_takes_is_cut_off() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut first, mut second) = narrow_pair(&rendezvous).await;
    for id in 0..40 {
        let text = serde_json::to_string(&ToServer::PeerPing { id }).unwrap();
        second.feed(Message::text(text)).await.unwrap();
    }
    second.flush().await.unwrap();
    assert_eq!(hear(&mut second).await, ToClient::Refused { reason: Refusal::TooMuch });
    // The other one gets what was waiting, and is told.
    let mut probes = 0;
    while hear(&mut first).await == (ToClient::PeerPing { id: probes }) {
        probes += 1;
    }
    assert!((MAILBOX as u32..MAILBOX as u32 + 5).contains(&probes), "{probes}");
    assert_eq!(rendezvous.counts().sessions, 0);
}

#[tokio::test(start_paused = true)]
async fn frames_that_say_nothing_count() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    for (frame, reason) in [
        ([0x89, 0x80, 1, 2, 3, 4], Refusal::TooMuch),
        ([0x8a, 0x80, 1, 2, 3, 4], Refusal::TooMuch),
        ([0x01, 0x80, 1, 2, 3, 4], Refusal::BadMessage),
        ([0x00, 0x80, 1, 2, 3, 4], Refusal::BadMessage),
    ] {
        let (mut client, _) = open(&rendezvous, "192.0.2.3").await;
        client.get_mut().write_all(&frame.repeat(1000)).await.unwrap();
        let end = loop {
            match client.next().await.unwrap().unwrap() {
                Message::Pong(_) => {}
                Message::Text(text) => break ToClient::parse(&text).unwrap().unwrap(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(end, ToClient::Refused { reason }, "{frame:x?}");
        while client.next().await.is_some() {}
        assert_eq!(rendezvous.counts().sessions, 0);
    }
}

/// What the server says to a whole HTTP request, up to the end or the first empty line.
async fn ask_http(rendezvous: &Arc<Rendezvous>, path: &str, header: &str) -> String {
    let mut raw = connect_raw(rendezvous, "192.0.2.1");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: probe\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{header}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    raw.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        let Ok(byte) = raw.read_u8().await else { break };
        answer.push(byte.into());
    }
    answer
}

#[tokio::test(start_paused = true)]
async fn a_web_page_gets_nothing_and_a_head_is_short() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    assert!(ask_http(&rendezvous, "/punch", "").await.starts_with("HTTP/1.1 101 "));
    let from_page = ask_http(&rendezvous, "/punch", "Origin: https://example.org\r\n").await;
    assert!(from_page.starts_with("HTTP/1.1 403 "), "{from_page}");
    let long = format!("X: {}\r\n", "x".repeat(4096));
    assert_eq!(ask_http(&rendezvous, "/punch", &long).await, "");
    assert!(ask_http(&rendezvous, "/other", "").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test(start_paused = true)]
async fn when_the_server_ends_those_who_wait_are_told_and_pairs_may_go_on() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let (mut waiting, _) = open(&rendezvous, "192.0.2.3").await;
    let (mut first, mut second) = pair(&rendezvous).await;
    let mut late = connect(&rendezvous, "192.0.2.4").await;
    let stopping = ToClient::Refused { reason: Refusal::Stopping };
    rendezvous.close();
    assert_eq!(hear(&mut waiting).await, stopping);
    let Message::Close(Some(close)) = waiting.next().await.unwrap().unwrap() else { panic!("no reason") };
    assert_eq!(close.code, CloseCode::Away);
    say(&mut late, &ToServer::Open { version: VERSION }).await;
    assert_eq!(hear(&mut late).await, stopping);
    say(&mut first, &ToServer::PeerPing { id: 3 }).await;
    assert_eq!(hear(&mut second).await, ToClient::PeerPing { id: 3 });
    rendezvous.end();
    assert_eq!(hear(&mut first).await, stopping);
    assert_eq!(hear(&mut second).await, stopping);
}

#[tokio::test(start_paused = true)]
async fn another_path_or_version_is_refused() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let raw = connect_raw(&rendezvous, "192.0.2.1");
    assert!(client_async("ws://probe/other", raw).await.is_err());
    let mut client = connect(&rendezvous, "192.0.2.1").await;
    client.send(Message::text(r#"{"type":"open","version":99,"more":"words"}"#)).await.unwrap();
    assert_eq!(hear(&mut client).await, ToClient::Refused { reason: Refusal::Version });
    // The very bytes that clients of version 1 say and understand.
    let mut client = connect(&rendezvous, "192.0.2.1").await;
    client.send(Message::text(r#"{"type":"open","version":1}"#)).await.unwrap();
    let refusal = client.next().await.unwrap().unwrap();
    assert_eq!(refusal.to_text().unwrap(), r#"{"type":"refused","reason":"version"}"#);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_not_waited_for() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let mut client = connect(&rendezvous, "192.0.2.1").await;
    assert_eq!(hear(&mut client).await, ToClient::Refused { reason: Refusal::Expired });
}

/// A member of a room that can be paired.
async fn member(rendezvous: &Arc<Rendezvous>, from: &str) -> Client {
    let mut client = connect(rendezvous, from).await;
    say(&mut client, &ToServer::Enter { version: VERSION, room: "team".parse().ok() }).await;
    assert!(matches!(hear(&mut client).await, ToClient::Entered { .. }));
    say(&mut client, &ToServer::Available { payload: Payload::write(&0).unwrap() }).await;
    client
}

/// The code that it is told to join with, or none when it hears that its pair is over.
async fn invited(guest: &mut Client) -> Option<Code> {
    loop {
        match hear(guest).await {
            ToClient::Pair { code, .. } => return code,
            ToClient::Room { results, .. } if !results.is_empty() => return None,
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn members_are_sent_to_sessions_of_their_pair_only() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let mut first = member(&rendezvous, "192.0.2.1").await;
    let mut guest = member(&rendezvous, "192.0.2.2").await;
    while !matches!(hear(&mut first).await, ToClient::Pair { peer: 2, .. }) {}
    let (_others, code) = open(&rendezvous, "192.0.2.3").await;
    say(&mut first, &ToServer::Invite { peer: 2, code }).await;
    assert_eq!(invited(&mut guest).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_guest_whose_session_has_ended_has_not_guessed() {
    let rendezvous = Rendezvous::new(SessionLimits::default());
    let mut first = member(&rendezvous, "192.0.2.1").await;
    let mut guest = member(&rendezvous, "192.0.2.2").await;
    while !matches!(hear(&mut first).await, ToClient::Pair { peer: 2, .. }) {}
    let (session, code) = open(&rendezvous, "192.0.2.1").await;
    say(&mut first, &ToServer::Invite { peer: 2, code }).await;
    assert_eq!(invited(&mut guest).await, Some(code));
    drop(session);
    while rendezvous.counts().sessions > 0 {
        tokio::task::yield_now().await;
    }
    let join = async || {
        let mut client = connect(&rendezvous, "192.0.2.2").await;
        say(&mut client, &ToServer::Join { version: VERSION, code }).await;
        hear(&mut client).await
    };
    for _ in 0..30 {
        assert_eq!(join().await, ToClient::Refused { reason: Refusal::UnknownCode });
    }
    still_works(&rendezvous).await;
    // Once it has said what came of it, it is no better than others.
    say(&mut guest, &ToServer::Result { peer: 1, payload: Payload::write(&0).unwrap() }).await;
    assert_eq!(invited(&mut guest).await, None);
    for _ in 0..10 {
        join().await;
    }
    assert_eq!(join().await, ToClient::Refused { reason: Refusal::TooFast });
}
