//! Gateways over datagrams that a test writes, in virtual time: their epochs, and the ports that they grant.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use shared::port_mapping::{
    Protocol, Transport,
    nat_pmp::{Body, Request, Response},
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, advance},
};

use super::{Client, Wish, epochs::Epochs, keep};
use crate::net::{Boxed, Datagram, Net, Stream};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 2));
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));
const PORT: u16 = 42_000;

type Answer = Arc<dyn Fn(Request) -> Vec<u8> + Send + Sync>;

/// A network whose only inhabitant speaks NAT-PMP.
struct Gateway(Answer);

impl Gateway {
    fn net(answer: impl Fn(Request) -> Vec<u8> + Send + Sync + 'static) -> Arc<dyn Net> {
        Arc::new(Self(Arc::new(answer)))
    }
}

impl Net for Gateway {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        let (answers, inbox) = mpsc::unbounded_channel();
        let socket = Socket { local, answer: Answer::clone(&self.0), answers, inbox: Mutex::new(inbox) };
        Box::pin(async { Ok(Box::new(socket) as Box<dyn Datagram>) })
    }

    fn source_for(&self, _: SocketAddr) -> io::Result<IpAddr> {
        Ok(HERE)
    }

    fn gateway(&self, _: IpAddr) -> Option<IpAddr> {
        Some(GATEWAY)
    }

    fn connect(&self, _: Option<SocketAddr>, _: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }
}

struct Socket {
    local: SocketAddr,
    answer: Answer,
    answers: mpsc::UnboundedSender<(Vec<u8>, SocketAddr)>,
    inbox: Mutex<mpsc::UnboundedReceiver<(Vec<u8>, SocketAddr)>>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.local)
    }
}

impl Datagram for Socket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        let request = Request::read(datagram).filter(|_| to.ip() == GATEWAY);
        if let Some(request) = request {
            self.answers.send(((self.answer)(request), to)).unwrap();
        }
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async {
            let (datagram, from) = self.inbox.lock().await.recv().await.unwrap();
            buffer[..datagram.len()].copy_from_slice(&datagram);
            Ok((datagram.len(), from))
        })
    }

    fn set_ttl(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
}

fn success(epoch: u32, body: Body) -> Vec<u8> {
    Response { result: 0, epoch, body }.write()
}

#[tokio::test(start_paused = true)]
async fn an_error_without_an_epoch_tells_of_no_loss() {
    let net = Gateway::net(|request| match request {
        Request::ExternalAddress => success(5000, Body::ExternalAddress(Ipv4Addr::new(203, 0, 113, 1))),
        // "Not authorized", and nothing after it.
        Request::Map { .. } => vec![0, 129, 0, 2],
    });
    let client = Client::over_datagrams(&net, HERE, GATEWAY, Protocol::NatPmp).unwrap();
    assert!(client.external_address().await.is_some());
    let wish = Wish {
        transport: Transport::Udp,
        internal: PORT,
        external: PORT,
        lifetime: Duration::from_secs(120),
        nonce: [0; 12],
    };
    assert!(client.map(&wish).await.is_err());
    assert_eq!(client.epochs().losses(), 0, "{:?}", client.epochs());
}

#[tokio::test(start_paused = true)]
async fn an_epoch_counts_from_when_it_was_heard() {
    let heard = Instant::now();
    // Whoever else answers is waited for.
    advance(Duration::from_secs(5)).await;
    let epochs = Epochs::new(Protocol::Pcp);
    epochs.note(500, heard);
    epochs.note(505, Instant::now());
    assert_eq!(epochs.losses(), 0, "{epochs:?}");
}

/// Whoever asks on for the port that was granted first renews, and at the end closes, what is another host's by now.
#[tokio::test(start_paused = true)]
async fn the_port_that_was_granted_last_is_asked_for() {
    let begun = Instant::now();
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (noted, times) = (Arc::clone(&asked), AtomicU32::new(0));
    let net = Gateway::net(move |request| {
        let epoch = u32::try_from(begun.elapsed().as_secs()).unwrap();
        let Request::Map { transport, internal, external, lifetime } = request else {
            return success(epoch, Body::ExternalAddress(Ipv4Addr::new(203, 0, 113, 1)));
        };
        noted.lock().unwrap().push(external);
        // At the first renewal somebody else has the port.
        let is_taken = times.fetch_add(1, Ordering::Relaxed) == 1;
        let external = if is_taken { PORT + 7 } else { external };
        success(epoch, Body::Map { transport, internal, external, lifetime })
    });
    let hold = Some(Duration::from_secs(700));
    let kept =
        keep::Kept { port: PORT, transports: vec![Transport::Udp], hold, over_ipv6: false, server: None };
    let (_stop, stopped) = watch::channel(false);
    assert_eq!(keep::keep(&net, &kept, &|_| {}, stopped).await, Ok(()));
    assert_eq!(*asked.lock().unwrap(), [PORT, PORT, PORT + 7, 0], "opened, renewed twice, closed");
}
