//! A proxy of SOCKS5 by a script: the client's network has it at one address, and what it relays leaves from a host of a
//! simulated network, behind that one's NAT.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{
        AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, copy_bidirectional, duplex,
    },
    sync::{Mutex as AsyncMutex, mpsc},
    time::sleep,
};

use super::super::{socks5, wire::Read};
use crate::net::{Boxed, Datagram, Net, Stream, sim::SimNet};

/// Where the proxy is, as the client sees it.
pub(super) const AT: &str = "192.168.200.1:1080";

/// How the proxy behaves.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Script {
    pub(super) answer: Answer,
    pub(super) relay: Relay,
    pub(super) connect: Connect,
    /// Who is let in; none = everybody.
    pub(super) password: Option<(&'static str, &'static str)>,
}

/// What comes of connecting to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Answer {
    #[default]
    Socks5,
    /// Nobody listens.
    Refuse,
    /// What is sent there gets lost.
    Lost,
    Silence,
    Garbage,
    /// A byte a second of a protocol that it is not.
    Drip,
    HangUp,
}

/// What comes of CONNECT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Connect {
    /// It says what came of it.
    #[default]
    Works,
    /// It says nothing about this port, as where what is sent there gets lost.
    Silent(u16),
    /// It grants first, and keeps the connection whatever comes of it.
    GrantsFirst,
}

/// What comes of UDP ASSOCIATE.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Relay {
    #[default]
    Works,
    /// It names this address as its own.
    Named(IpAddr),
    /// Granted, and nothing passes.
    Dead,
    /// Granted, and all that comes back is what was sent, as if it came from elsewhere.
    Echoes,
    /// Granted, and the connection is closed at once.
    Ends,
    /// With this code.
    Refused(u8),
}

type Arrival = (Vec<u8>, SocketAddr);
type Queues = Arc<Mutex<HashMap<SocketAddr, mpsc::UnboundedSender<Arrival>>>>;

/// The network of the client.
pub(super) struct ScriptedNet {
    client: Arc<SimNet>,
    proxy: Proxy,
}

#[derive(Clone)]
struct Proxy {
    /// The host that the proxy runs on.
    host: Arc<SimNet>,
    script: Script,
    /// What the relays and the client's sockets receive, by address.
    queues: Queues,
}

impl ScriptedNet {
    pub(super) fn new(client: Arc<SimNet>, host: Arc<SimNet>, script: Script) -> Self {
        Self { client, proxy: Proxy { host, script, queues: Queues::default() } }
    }
}

fn at() -> SocketAddr {
    AT.parse().expect("an address")
}

impl Net for ScriptedNet {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async move {
            let direct = self.client.bind(local).await?;
            let own = direct.local_addr()?;
            let (sender, arrived) = mpsc::unbounded_channel();
            self.proxy.queues.lock().expect("queues").insert(own, sender);
            let (queues, arrived) = (self.proxy.queues.clone(), AsyncMutex::new(arrived));
            Ok(Box::new(ClientSocket { direct, own, queues, arrived }) as Box<dyn Datagram>)
        })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        self.client.source_for(remote)
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        if remote != at() {
            return self.client.connect(local, remote);
        }
        Box::pin(async move {
            match self.proxy.script.answer {
                Answer::Refuse => return Err(io::ErrorKind::ConnectionRefused.into()),
                Answer::Lost => std::future::pending().await,
                _ => {}
            }
            let (near, far) = duplex(4096);
            tokio::spawn(self.proxy.clone().serve(far));
            Ok(Box::new(Pipe(near)) as Box<dyn Stream>)
        })
    }
}

impl Proxy {
    async fn serve(self, mut stream: DuplexStream) {
        // A client that hangs up ends it.
        let _ = self.answer(&mut stream).await;
    }

    async fn answer(&self, stream: &mut DuplexStream) -> io::Result<()> {
        match self.script.answer {
            Answer::Socks5 => self.socks5(stream).await,
            Answer::Refuse | Answer::Lost | Answer::HangUp => Ok(()),
            Answer::Silence => {
                sleep(Duration::from_secs(3600)).await;
                Ok(())
            }
            Answer::Garbage => stream.write_all(&[b'x'; 3000]).await,
            Answer::Drip => loop {
                // The beginning of an answer of each protocol: none is ever whole.
                let mut first = [0];
                stream.read_exact(&mut first).await?;
                let reply: &[u8] = match first[0] {
                    5 => b"\x05",
                    4 => b"\0\x5a\0\0\0",
                    _ => b"HTTP/1.1 200 OK\r\nX: yyyyyyyy",
                };
                for byte in reply {
                    stream.write_all(&[*byte]).await?;
                    sleep(Duration::from_secs(1)).await;
                }
                sleep(Duration::from_secs(3600)).await;
            },
        }
    }

    async fn socks5(&self, stream: &mut DuplexStream) -> io::Result<()> {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await?;
        let mut methods = vec![0; head[1].into()];
        stream.read_exact(&mut methods).await?;
        match self.script.password {
            None => stream.write_all(&[5, 0]).await?,
            Some(_) if !methods.contains(&2) => return stream.write_all(&[5, 0xff]).await,
            Some((user, password)) => {
                stream.write_all(&[5, 2]).await?;
                let right =
                    [&[1, user.len() as u8], user.as_bytes(), &[password.len() as u8], password.as_bytes()];
                let right = right.concat();
                let mut given = vec![0; 2];
                stream.read_exact(&mut given).await?;
                given.resize(2 + usize::from(given[1]) + 1, 0);
                stream.read_exact(&mut given[2..]).await?;
                let known = given.len();
                given.resize(known + usize::from(given[known - 1]), 0);
                stream.read_exact(&mut given[known..]).await?;
                let is_right = given == right;
                stream.write_all(&[1, u8::from(!is_right)]).await?;
                if !is_right {
                    return Ok(());
                }
            }
        }
        // A request reads like a reply.
        let mut request = Vec::new();
        let asked = loop {
            match socks5::parse_reply(&request) {
                Ok(Read::Whole(asked)) => break asked,
                Ok(Read::Needs(length)) => {
                    let known = request.len();
                    request.resize(length, 0);
                    stream.read_exact(&mut request[known..]).await?;
                }
                Err(_) => return Ok(()),
            }
        };
        match (asked.code, asked.bound.address(), self.script.relay) {
            (1, Some(to), _) if self.script.connect == Connect::Silent(to.port()) => {
                stream.read_exact(&mut [0]).await.map(drop)
            }
            (1, Some(to), _) if self.script.connect == Connect::GrantsFirst => {
                stream.write_all(&reply(0, at())).await?;
                match self.host.connect(None, to).await {
                    Ok(mut beyond) => copy_bidirectional(stream, &mut beyond).await.map(drop),
                    Err(_) => stream.read_exact(&mut [0]).await.map(drop),
                }
            }
            (1, Some(to), _) => match self.host.connect(None, to).await {
                Ok(mut beyond) => {
                    stream.write_all(&reply(0, at())).await?;
                    copy_bidirectional(stream, &mut beyond).await.map(drop)
                }
                Err(_) => stream.write_all(&reply(5, at())).await,
            },
            (3, _, Relay::Refused(code)) => stream.write_all(&reply(code, at())).await,
            (3, _, relay) => self.relay(stream, relay).await,
            _ => stream.write_all(&reply(7, at())).await,
        }
    }

    async fn relay(&self, stream: &mut DuplexStream, relay: Relay) -> io::Result<()> {
        let socket = self.host.bind(SocketAddr::from(([0, 0, 0, 0], 0))).await?;
        let own = SocketAddr::new(at().ip(), socket.local_addr()?.port());
        let (sender, mut arrived) = mpsc::unbounded_channel::<Arrival>();
        self.queues.lock().expect("queues").insert(own, sender);
        let named = if let Relay::Named(ip) = relay { SocketAddr::new(ip, own.port()) } else { own };
        stream.write_all(&reply(0, named)).await?;
        if let Relay::Ends = relay {
            return Ok(());
        }
        let (mut client, mut buffer, mut rest) = (None, [0; 1500], [0; 16]);
        loop {
            tokio::select! {
                read = stream.read(&mut rest) => if read? == 0 { break },
                Some((datagram, from)) = arrived.recv() => {
                    client = Some(from);
                    if let Relay::Echoes = relay {
                        let queues = self.queues.lock().expect("queues");
                        if let Some(queue) = queues.get(&from) {
                            let elsewhere = SocketAddr::from(([198, 51, 100, 99], 9));
                            let _ = queue.send((socks5::wrap(elsewhere, b"x"), own));
                        }
                        continue;
                    }
                    if let Some((to, payload)) = socks5::unwrap(&datagram)
                        && !matches!(relay, Relay::Dead)
                    {
                        socket.send_to(payload, to).await?;
                    }
                }
                received = socket.recv_from(&mut buffer) => {
                    let (length, from) = received?;
                    let wrapped = socks5::wrap(from, &buffer[..length]);
                    let queues = self.queues.lock().expect("queues");
                    if let Some(queue) = client.and_then(|client| queues.get(&client)) {
                        let _ = queue.send((wrapped, own));
                    }
                }
            }
        }
        self.queues.lock().expect("queues").remove(&own);
        Ok(())
    }
}

fn reply(code: u8, bound: SocketAddr) -> Vec<u8> {
    let mut message = vec![5, code, 0];
    super::super::wire::put_destination(&super::Destination::Address(bound), &mut message);
    message
}

/// A socket of the client: it reaches the relays of the proxy, and all else as the simulated network has it.
struct ClientSocket {
    direct: Box<dyn Datagram>,
    own: SocketAddr,
    queues: Queues,
    arrived: AsyncMutex<mpsc::UnboundedReceiver<Arrival>>,
}

impl Datagram for ClientSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.direct.local_addr()
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            if to.ip() != at().ip() {
                return self.direct.send_to(datagram, to).await;
            }
            if let Some(queue) = self.queues.lock().expect("queues").get(&to) {
                let _ = queue.send((datagram.to_vec(), self.own));
            }
            Ok(())
        })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let mut arrived = self.arrived.lock().await;
            tokio::select! {
                biased;
                Some((datagram, from)) = arrived.recv() => {
                    let length = datagram.len().min(buffer.len());
                    buffer[..length].copy_from_slice(&datagram[..length]);
                    Ok((length, from))
                }
                received = self.direct.recv_from(buffer) => received,
            }
        })
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.direct.set_ttl(ttl)
    }
}

impl fmt::Debug for ClientSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a socket at {}", self.own)
    }
}

/// The client's end of a connection to the proxy.
struct Pipe(DuplexStream);

impl Stream for Pipe {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([192, 168, 77, 2], 50000)))
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
