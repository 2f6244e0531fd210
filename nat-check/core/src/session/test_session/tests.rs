//! A server that names addresses of others, and strangers that connect.

use std::{
    io,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use shared::test_session::{ServerAddress, Token};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;

use super::{greetings::MOST, *};
use crate::net::Boxed;

const PATIENCE: Duration = Duration::from_secs(60);

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

#[tokio::test]
async fn nothing_in_the_welcome_leads_to_another_address_than_the_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let named = |ip: &str| ServerAddress {
        stun: vec![at(&format!("{ip}:3478"))],
        pending: Some(at(&format!("{ip}:22"))),
        closed: Some(at(&format!("{ip}:80"))),
    };
    let welcome = Welcome {
        token: Token([1; 16]),
        nonces: Nonce([2; 16]),
        you: at("127.0.0.1:1"),
        primary: named("192.0.2.66"),
        alternate: Some(named("10.0.0.1")),
        hold_ms: 0,
        trace_ms: 0,
    };
    let lying = tokio::spawn(async move {
        let mut socket = accept_async(listener.accept().await.unwrap().0).await.unwrap();
        let text = serde_json::to_string(&ToClient::Welcome(Box::new(welcome))).unwrap();
        socket.send(Message::text(text)).await.unwrap();
        socket
    });
    let stream = Box::new(TcpStream::connect(server).await.unwrap());
    let (test, ..) = timeout(PATIENCE, begin(stream, server)).await.unwrap().unwrap();
    let alternate = test.welcome.alternate.as_ref().unwrap();
    for (address, port) in [(&test.welcome.primary, 22), (alternate, 22)] {
        assert_eq!(address.pending, Some(SocketAddr::new(server.ip(), port)));
        assert!(address.stun.iter().chain(&address.closed).all(|it| it.ip() == server.ip()), "{address:?}");
    }
    drop(lying.await.unwrap());
}

/// Gives one connection after another, with an error between them.
#[derive(Debug)]
struct Strangers(AtomicUsize, TcpListener);

impl Listener for Strangers {
    fn accept(&self) -> Boxed<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async {
            if self.0.fetch_add(1, SeqCst) % 2 == 1 {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            let (stream, from) = self.1.accept().await?;
            Ok((Box::new(stream) as Box<dyn Stream>, from))
        })
    }
}

/// Counts those that are listened to.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

#[tokio::test]
async fn of_many_strangers_few_are_listened_to_and_who_speaks_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    let strangers = Strangers(AtomicUsize::new(0), listener);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (heard, mut speaks) = mpsc::unbounded_channel();
    let greet = |mut stream: Box<dyn Stream>| {
        let (counted, heard) = (Counted(Arc::clone(&now)), heard.clone());
        most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
        async move {
            let _counted = counted;
            // Whoever is silent is waited for without an end.
            if let Ok(byte) = stream.read_u8().await {
                _ = heard.send(byte);
            }
        }
    };
    let connecting = async {
        let mut open = Vec::new();
        for _ in 0..10 * MOST {
            open.push(TcpStream::connect(here).await.unwrap());
        }
        let mut server = TcpStream::connect(here).await.unwrap();
        server.write_all(&[7]).await.unwrap();
        assert_eq!(speaks.recv().await, Some(7));
    };
    tokio::select! {
        () = greetings::take_each(&strangers, greet) => panic!("it goes on"),
        over = timeout(PATIENCE, connecting) => over.unwrap(),
    }
    // Those that have been told to end may not have ended yet.
    assert!(most.load(SeqCst) <= 2 * MOST, "{most:?} at once");
}
