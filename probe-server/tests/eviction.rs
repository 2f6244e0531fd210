//! One IPv6 allocation against everybody else, over a real IPv6 network: whatever it opens, whoever else waits for a peer
//! goes on waiting, and whoever comes gets in.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod namespace;

use std::{
    io::{BufRead, BufReader},
    net::{Ipv6Addr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt, future::join_all};
use namespace::{Host, in_a_namespace, run};
use shared::rendezvous::{Code, PATH, Refusal, ToClient, ToServer, VERSION};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

const SERVER: &str = "[2001:db8:ffff::1]:3478";
/// Sessions that there may be.
const MOST: usize = 200;
/// Sessions that the attacker opens, from as many /48 of one /32.
const ATTACKS: u16 = 600;
const LONG: Duration = Duration::from_secs(20);

type Client = WebSocketStream<TcpStream>;

/// The program, ended with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn start() -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe-server"));
    command.args(["--primary", "2001:db8:ffff::1", "--max-sessions", &MOST.to_string(), "--log", "error"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready udp "), "{line}");
    Server(child)
}

#[test]
fn one_allocation_takes_nothing_from_others() {
    in_a_namespace("one_allocation_takes_nothing_from_others", &[], || {
        let clients = Host::new();
        clients.connect("clients", "eth0");
        run("ip address add 2001:db8:ffff::1/64 dev clients nodad");
        clients.run("ip address add 2001:db8:ffff::2/64 dev eth0 nodad");
        // A /16 of clients on one host.
        run("ip -6 route add 2a00::/16 via 2001:db8:ffff::2");
        clients.run("ip -6 route add local 2a00::/16 dev lo");
        clients.run("sysctl -q -w net.ipv6.ip_nonlocal_bind=1");
        let _server = start();
        clients.run_inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(attack());
        });
    });
}

async fn attack() {
    let (mut waiting, code) = open(host(0xa, 1)).await.expect("the first of all");
    let mut attackers = Vec::new();
    for batch in (1..=ATTACKS).collect::<Vec<_>>().chunks(50) {
        let opened = join_all(batch.iter().map(|n| open(host(0xbad, *n)))).await;
        attackers.extend(opened.into_iter().flatten());
    }
    println!("{} of {ATTACKS} sessions opened by one allocation, where {MOST} may be", attackers.len());
    assert!(attackers.len() >= MOST, "no attack");

    let newcomer = open(host(0xc, 1)).await;
    assert!(newcomer.is_some(), "a stranger was shut out");
    let mut guest = connect(host(0xd, 1)).await;
    say(&mut guest, &ToServer::Join { version: VERSION, code }).await;
    assert!(matches!(hear(&mut guest).await, Some(ToClient::Welcome { .. })));
    let met = |heard: &Option<ToClient>| matches!(heard, Some(ToClient::Paired { .. }));
    let heard = [hear(&mut guest).await, hear(&mut waiting).await];
    assert!(heard.iter().all(met), "{heard:?}");
}

/// The `n`th /48 of this provider's /32.
fn host(provider: u16, n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2a00, provider, n, 0, 0, 0, 0, 1)
}

/// Opens a session; none if it was refused.
async fn open(from: Ipv6Addr) -> Option<(Client, Code)> {
    let mut client = connect(from).await;
    say(&mut client, &ToServer::Open { version: VERSION }).await;
    match hear(&mut client).await? {
        ToClient::Welcome { .. } => {}
        ToClient::Refused { reason } => {
            assert!(matches!(reason, Refusal::Full | Refusal::TooFast), "{reason:?}");
            return None;
        }
        other => panic!("{other:?}"),
    }
    // It may have had to go again at once.
    let ToClient::Waiting { code, .. } = hear(&mut client).await? else { return None };
    Some((client, code))
}

async fn connect(from: Ipv6Addr) -> Client {
    let socket = TcpSocket::new_v6().unwrap();
    socket.bind(SocketAddr::new(from.into(), 0)).unwrap();
    let stream = timeout(LONG, socket.connect(SERVER.parse().unwrap())).await.unwrap().unwrap();
    client_async(format!("ws://probe{PATH}"), stream).await.unwrap().0
}

async fn say(client: &mut Client, message: &ToServer) {
    client.send(Message::text(serde_json::to_string(message).unwrap())).await.unwrap();
}

/// What the server says next; none when it says nothing more.
async fn hear(client: &mut Client) -> Option<ToClient> {
    let message = timeout(LONG, client.next()).await.unwrap()?.ok()?;
    ToClient::parse(message.to_text().ok()?).ok()?
}
