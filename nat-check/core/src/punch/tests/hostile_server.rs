//! A rendezvous that does with the protocol what it likes: it floods, stops reading, or says nothing.

use std::{io, net::IpAddr, pin::Pin, task::Context};

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

use super::*;
use crate::net::{Boxed, Datagram};

/// A network with nothing but a rendezvous that behaves as it was told to; datagrams are counted and lost.
struct Rendezvous<F> {
    behave: F,
    sent: Arc<Mutex<Vec<SocketAddr>>>,
}

impl<F> Rendezvous<F> {
    fn new(behave: F) -> Self {
        Self { behave, sent: Arc::default() }
    }
}

#[derive(Debug)]
struct DeafSocket(Arc<Mutex<Vec<SocketAddr>>>);

impl Datagram for DeafSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([192, 168, 77, 2], 50_000).into())
    }

    fn send_to<'a>(&'a self, _: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        self.0.lock().unwrap().push(to);
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(&'a self, _: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(std::future::pending())
    }

    fn set_ttl(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
}

pub(super) struct Wire(pub(super) DuplexStream);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> std::task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Stream for Wire {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(([192, 168, 77, 2], 50_000).into())
    }
}

impl<F, R> Net for Rendezvous<F>
where
    F: Fn(WebSocketStream<DuplexStream>) -> R + Send + Sync + Clone + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    fn bind(&self, _: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async { Ok(Box::new(DeafSocket(Arc::clone(&self.sent))) as Box<dyn Datagram>) })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        Ok(if remote.is_ipv4() { [192, 168, 77, 2].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into() })
    }

    fn connect(&self, _: Option<SocketAddr>, _: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        let behave = self.behave.clone();
        Box::pin(async move {
            let (mine, theirs) = duplex(4096);
            tokio::spawn(async move {
                if let Ok(socket) = accept_async(theirs).await {
                    behave(socket).await;
                }
            });
            Ok(Box::new(Wire(mine)) as Box<dyn Stream>)
        })
    }
}

/// What comes of an attempt with a server that says `welcome`, hands out a code, and then does `then`.
async fn opened<R>(
    then: impl Fn(WebSocketStream<DuplexStream>) -> R + Send + Sync + Clone + 'static,
) -> (IntroError, Duration)
where
    R: Future<Output = ()> + Send + 'static,
{
    let net = Rendezvous::new(move |mut socket: WebSocketStream<DuplexStream>| {
        let then = then.clone();
        async move {
            let _open = socket.next().await;
            for text in [
                r#"{"type":"welcome","stun":[]}"#,
                r#"{"type":"waiting","code":"tabo-kiru-lama-dosu","seconds":60}"#,
            ] {
                socket.send(Message::text(text)).await.expect("sent");
            }
            then(socket).await;
        }
    });
    let begun = Instant::now();
    let setup = PunchSetup { wait: Duration::from_secs(40), ..setup(1) };
    let target = Target::at("198.51.100.10:3478".parse().unwrap());
    let ended = punch(&setup, Arc::new(net), &target, &Silent, &Ear::default(), never()).await;
    (ended.expect_err("there is no peer"), begun.elapsed())
}

#[test]
fn a_server_that_pings_and_never_reads_does_not_stop_the_clock() {
    run(async {
        let (error, took) = opened(async |mut socket: WebSocketStream<DuplexStream>| {
            while socket.send(Message::Ping(vec![7; 125].into())).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(error, IntroError::Flood);
        assert!(took < Duration::from_secs(41), "{took:?}");
    });
}

#[test]
fn a_server_that_pings_now_and_then_and_never_reads_is_waited_for_no_longer_than_told() {
    run(async {
        let (error, took) = opened(async |mut socket: WebSocketStream<DuplexStream>| {
            while socket.send(Message::Ping(vec![7; 125].into())).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
        assert!(
            matches!(error, IntroError::NoPeer(40) | IntroError::Stalled(_) | IntroError::Broken),
            "{error}"
        );
        assert!(took < Duration::from_secs(51), "{took:?}");
    });
}

#[test]
fn a_server_that_repeats_itself_is_no_peer() {
    run(async {
        let (error, took) =
            opened(
                async |mut socket: WebSocketStream<DuplexStream>| {
                    while socket.send(Message::text(r#"{"type":"pong","id":0}"#)).await.is_ok() {}
                },
            )
            .await;
        assert_eq!(error, IntroError::Flood);
        assert!(took < Duration::from_secs(41), "{took:?}");
    });
}

#[test]
fn a_message_without_end_is_not_kept() {
    run(async {
        let (error, _) = opened(async |mut socket: WebSocketStream<DuplexStream>| {
            // The limit of the sender is its own; that of the receiver counts.
            let _ = socket.send(Message::text("x".repeat(1 << 20))).await;
            std::future::pending().await
        })
        .await;
        assert_eq!(error, IntroError::Broken);
    });
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    run(async {
        let net = Rendezvous::new(async |socket: WebSocketStream<DuplexStream>| {
            let _open = socket;
            std::future::pending().await
        });
        let begun = Instant::now();
        let target = Target::at("198.51.100.10:3478".parse().unwrap());
        let ended = punch(&setup(1), Arc::new(net), &target, &Silent, &Ear::default(), never()).await;
        assert_eq!(ended.unwrap_err(), IntroError::Stalled(10));
        assert!(begun.elapsed() < Duration::from_secs(41));
    });
}

#[test]
fn an_address_that_the_server_says_is_its_own_gets_a_few_packets_until_it_answers() {
    run(async {
        let net = Rendezvous::new(async |mut socket: WebSocketStream<DuplexStream>| {
            let _open = socket.next().await;
            let stun = r#"["[2001:db8::9]:5000","[ff02::c]:1900"]"#;
            let code = r#"{"type":"waiting","code":"tabo-kiru-lama-dosu","seconds":60}"#;
            for text in [format!(r#"{{"type":"welcome","stun":{stun}}}"#), code.to_owned()] {
                socket.send(Message::text(text)).await.expect("sent");
            }
            std::future::pending().await
        });
        let sent = Arc::clone(&net.sent);
        let target = Target::at("198.51.100.10:3478".parse().unwrap());
        let ended = punch(&setup(1), Arc::new(net), &target, &Silent, &Ear::default(), never()).await;
        assert_eq!(ended.unwrap_err(), IntroError::NoPeer(60));
        let sent = sent.lock().unwrap();
        let others = sent.iter().filter(|to| to.ip() != target.v4.unwrap().ip()).count();
        println!("packets to an address of another family that a rendezvous names: {others}");
        assert!((1..=6).contains(&others), "{others}: {sent:?}");
    });
}
