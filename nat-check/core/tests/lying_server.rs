//! What a server that lies can make a check send, and to whom: every packet and every connection is counted. The figures
//! stand in SECURITY.md; `cargo test -p nat-check-core --test lying_server -- --nocapture` prints them.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use nat_check_core::{
    check::{Setup, check},
    net::{Boxed, Datagram, Net, Stream},
    progress::Silent,
    target::Target,
};
use shared::stun::{Class, View, Writer, attr};
use tokio::sync::{Mutex as AsyncMutex, mpsc, watch};

/// Most packets that anybody gets on the word of a server.
const MOST: u32 = 32;

/// What the server says, whatever it is asked.
#[derive(Clone, Copy, Debug)]
struct Lie {
    mapped: SocketAddr,
    other: Option<SocketAddr>,
}

/// Packets and connections, by where they went.
#[derive(Debug, Default)]
struct Sent {
    packets: BTreeMap<SocketAddr, u32>,
    connections: BTreeMap<SocketAddr, u32>,
}

/// A network with one server on it, which answers every request with the same lie.
struct LyingNet {
    server: SocketAddr,
    lie: Lie,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Debug)]
struct Socket {
    local: SocketAddr,
    server: SocketAddr,
    lie: Lie,
    sent: Arc<Mutex<Sent>>,
    answers: mpsc::UnboundedSender<Vec<u8>>,
    inbox: AsyncMutex<mpsc::UnboundedReceiver<Vec<u8>>>,
}

impl Net for LyingNet {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        let (answers, inbox) = mpsc::unbounded_channel();
        let port = 40_000 + fastrand::u16(..10_000);
        let socket = Socket {
            local: SocketAddr::new(local.ip(), port),
            server: self.server,
            lie: self.lie,
            sent: Arc::clone(&self.sent),
            answers,
            inbox: AsyncMutex::new(inbox),
        };
        Box::pin(async { Ok(Box::new(socket) as Box<dyn Datagram>) })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        match remote {
            SocketAddr::V4(_) => Ok([192, 168, 1, 2].into()),
            SocketAddr::V6(_) => Err(io::ErrorKind::NetworkUnreachable.into()),
        }
    }

    fn connect(&self, _: Option<SocketAddr>, remote: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        *self.sent.lock().unwrap().connections.entry(remote).or_default() += 1;
        Box::pin(std::future::pending())
    }
}

impl Datagram for Socket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        *self.sent.lock().unwrap().packets.entry(to).or_default() += 1;
        if to == self.server
            && let Ok(request) = View::parse(datagram)
        {
            let mut answer = [0; 256];
            let mut writer = Writer::new(&mut answer, Class::Success, &request.id());
            writer.xor_address(attr::XOR_MAPPED_ADDRESS, self.lie.mapped);
            if let Some(other) = self.lie.other {
                writer.address(attr::OTHER_ADDRESS, other);
            }
            let length = writer.finish().unwrap();
            let (answers, answer) = (self.answers.clone(), answer[..length].to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(40)).await;
                // The run may be over.
                let _ = answers.send(answer);
            });
        }
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async {
            let Some(answer) = self.inbox.lock().await.recv().await else {
                return std::future::pending().await;
            };
            buffer[..answer.len()].copy_from_slice(&answer);
            Ok((answer.len(), self.server))
        })
    }

    fn set_ttl(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
}

/// What goes to anybody but the address of the server that the user named.
async fn lured(server: &str, lie: Lie) -> Sent {
    let server: SocketAddr = server.parse().unwrap();
    let sent = Arc::new(Mutex::new(Sent::default()));
    let net = Arc::new(LyingNet { server, lie, sent: Arc::clone(&sent) });
    let (_never, stop) = watch::channel(false);
    let report = check(&Setup::default(), net, &[Target::at(server).into()], &Silent, stop).await;
    assert!(report.ipv4.udp.is_some(), "the server was not heard: {report:#?}");
    let mut sent = std::mem::take(&mut *sent.lock().unwrap());
    assert!(sent.packets.values().sum::<u32>() > 10, "the check did next to nothing");
    sent.packets.retain(|to, _| to.ip() != server.ip());
    sent.connections.retain(|to, _| to.ip() != server.ip());
    sent
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

const SERVER: &str = "198.51.100.10:3478";

#[tokio::test(start_paused = true)]
async fn nobody_is_sent_to_whom_no_server_may_name() {
    for victim in [
        "203.0.113.9:53",
        "239.255.255.250:1900",
        "203.0.113.9:1900",
        "192.168.1.1:5000",
        "127.0.0.1:5000",
        "169.254.169.254:8080",
        "255.255.255.255:5000",
        "10.0.0.1:5000",
    ] {
        for lie in [
            Lie { mapped: at("203.0.113.1:41000"), other: Some(at(victim)) },
            Lie { mapped: at(victim), other: None },
        ] {
            let mut sent = lured(SERVER, lie).await;
            // Its own external address, as far as it can know, is tried for hairpinning.
            sent.packets.remove(&at("203.0.113.1:41000"));
            println!("{lie:?}: {sent:?}");
            assert!(sent.packets.is_empty() && sent.connections.is_empty(), "{lie:?}: {sent:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_family_is_nobodys_to_name() {
    let lie = Lie { mapped: at("203.0.113.1:41000"), other: Some(at("[2001:db8::9]:5000")) };
    let sent = lured(SERVER, lie).await;
    assert!(sent.packets.keys().all(SocketAddr::is_ipv4) && sent.connections.is_empty(), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn whoever_may_be_the_alternate_address_gets_a_few_packets_until_it_answers() {
    let lie = Lie { mapped: at("203.0.113.8:41000"), other: Some(at("203.0.113.9:5000")) };
    let sent = lured(SERVER, lie).await;
    let packets: u32 = sent.packets.values().sum();
    println!("packets to strangers whom a server names: {packets}, {sent:?}");
    assert!((1..=MOST).contains(&packets) && sent.connections.is_empty(), "{sent:?}");
}
