//! Speaks with a proxy: asks it to connect, to listen, to relay datagrams. All answers are bounded in bytes and time.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{
    credentials::Credentials,
    http, socks4, socks5,
    wire::{Blames, Bound, Destination, Malformed, Read},
};
use crate::{
    net::{Net, Stream},
    report::ProxyKind,
};

/// How long a proxy may take for each thing that it is asked.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection to it may take.
const REACH: Duration = Duration::from_secs(4);

/// A proxy that can be asked.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The protocol that it speaks.
    pub kind: ProxyKind,
    /// Where it is.
    pub at: SocketAddr,
    /// Who asks, if it wants to know.
    pub credentials: Option<Credentials>,
    /// The local address to ask from, if it matters.
    pub local: Option<IpAddr>,
}

/// What a proxy says where it does not do what it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code of its protocol.
    pub code: u16,
    /// What the code means.
    pub text: &'static str,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.text, self.code)
    }
}

/// Why nothing came of asking a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// It was not reached.
    #[error("no connection to the proxy: {0}")]
    NoConnection(String),
    /// It takes too long.
    #[error("the proxy does not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// It hung up.
    #[error("the proxy closed the connection before it answered")]
    Closed,
    /// Something else listens there.
    #[error("what answers is no {0} proxy")]
    OtherProtocol(&'static str),
    /// It let this host in, and then said nothing to what it was asked for, or hung up.
    #[error("the proxy does not answer this request, as the destination may not")]
    NoReply,
    /// It serves nobody whom it does not know.
    #[error("the proxy wants a user name and a password")]
    WantsCredentials,
    /// It does not know this user name, or not with this password.
    #[error("the proxy refuses the user name or the password")]
    WrongCredentials,
    /// It hung up when it was told them.
    #[error("the proxy hung up when it was told the user name and the password")]
    HungUpAtLogin,
    /// It has not looked at a user name and a password.
    #[error("the proxy wants another authentication than a user name and a password")]
    OtherAuthentication,
    /// It does not do what it was asked for.
    #[error("the proxy refuses: {0}")]
    Refused(Refusal),
    /// It tried, and the destination stands against it.
    #[error("the proxy does not reach the destination: {0}")]
    NotReached(Refusal),
    /// It does not say what stands against it.
    #[error("nothing came of asking the proxy: {0}")]
    Failed(Refusal),
    /// Its protocol has no words for it.
    #[error("{0} cannot be asked for that")]
    NotInProtocol(&'static str),
}

impl ProxyError {
    /// The code of the proxy's answer, if it gave one.
    pub(super) fn code(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) | Self::NotReached(refusal) | Self::Failed(refusal) => Some(refusal.code),
            _ => None,
        }
    }

    /// The same of a request to a proxy that has answered before: silence does not tell whose it is.
    pub(super) fn of_request(self) -> Self {
        match self {
            Self::Timeout | Self::Closed => Self::NoReply,
            error => error,
        }
    }
}

impl From<ProxyError> for io::Error {
    fn from(error: ProxyError) -> Self {
        Self::other(error)
    }
}

/// A connection to a proxy that has granted something.
pub(super) struct Granted {
    pub(super) stream: Box<dyn Stream>,
    /// The endpoint that the proxy names as its own.
    pub(super) bound: Bound,
    /// What the proxy says that it is.
    pub(super) software: Option<String>,
    /// The code of HTTP.
    pub(super) status: Option<u16>,
}

impl Proxy {
    /// Has it connect.
    pub(super) async fn connect(&self, net: &dyn Net, to: &Destination) -> Result<Granted, ProxyError> {
        match self.kind {
            ProxyKind::Socks5 => self.socks5(net, socks5::Command::Connect, to).await,
            ProxyKind::Socks4 | ProxyKind::Socks4a => self.socks4(net, socks4::Command::Connect, to).await,
            ProxyKind::HttpConnect => {
                let mut stream = self.reach(net).await?;
                let credentials = self.credentials.as_ref();
                let head = exchange_http(&mut *stream, &http::connect(to, credentials)).await?;
                let (software, status) = (head.software, Some(head.status));
                match head.status {
                    200..300 => Ok(Granted { stream, bound: Bound::default(), software, status }),
                    401 | 407 if !head.takes_password => Err(ProxyError::OtherAuthentication),
                    401 | 407 if credentials.is_none() => Err(ProxyError::WantsCredentials),
                    401 | 407 => Err(ProxyError::WrongCredentials),
                    code => Err(http::blames(code).error(code, http::refusal(code))),
                }
            }
        }
    }

    /// Has it listen for one connection from there (BIND).
    pub(super) async fn bind(&self, net: &dyn Net, from: SocketAddr) -> Result<Granted, ProxyError> {
        let from = Destination::Address(from);
        match self.kind {
            ProxyKind::Socks5 => self.socks5(net, socks5::Command::Bind, &from).await,
            ProxyKind::Socks4 | ProxyKind::Socks4a => self.socks4(net, socks4::Command::Bind, &from).await,
            ProxyKind::HttpConnect => Err(ProxyError::NotInProtocol("HTTP")),
        }
    }

    /// Has it relay datagrams (UDP ASSOCIATE). The connection has to stay open for as long as it is to do so.
    pub(super) async fn associate(&self, net: &dyn Net) -> Result<Granted, ProxyError> {
        match self.kind {
            ProxyKind::Socks5 => {
                // The address that this host sends from (RFC 1928 section 4): not known, as a NAT may stand before the proxy.
                let any = Destination::Address(SocketAddr::from(([0, 0, 0, 0], 0)));
                self.socks5(net, socks5::Command::UdpAssociate, &any).await
            }
            ProxyKind::Socks4 | ProxyKind::Socks4a => Err(ProxyError::NotInProtocol("SOCKS4")),
            ProxyKind::HttpConnect => Err(ProxyError::NotInProtocol("HTTP CONNECT")),
        }
    }

    /// Has it become a proxy for UDP (RFC 9298): the status that it answers with, 101 where it does.
    pub(super) async fn connect_udp(&self, net: &dyn Net, to: SocketAddr) -> Result<u16, ProxyError> {
        let mut stream = self.reach(net).await?;
        let to = Destination::Address(to);
        let request = http::connect_udp(&to, &self.at.to_string(), self.credentials.as_ref());
        exchange_http(&mut *stream, &request).await.map(|head| head.status)
    }

    async fn reach(&self, net: &dyn Net) -> Result<Box<dyn Stream>, ProxyError> {
        let local = self.local.filter(|local| local.is_ipv4() == self.at.is_ipv4());
        let connected = timeout(REACH, net.connect(local.map(|ip| SocketAddr::new(ip, 0)), self.at)).await;
        match connected {
            Ok(connected) => connected.map_err(|error| ProxyError::NoConnection(error.to_string())),
            Err(_) => Err(ProxyError::NoConnection(format!("no answer within {} s", REACH.as_secs()))),
        }
    }

    async fn socks5(
        &self,
        net: &dyn Net,
        command: socks5::Command,
        to: &Destination,
    ) -> Result<Granted, ProxyError> {
        let mut stream = self.reach(net).await?;
        within_patience(self.log_in(&mut *stream)).await?;
        // From here on silence may be that of the destination.
        let asked = async {
            send(&mut *stream, &socks5::request(command, to)).await?;
            read(&mut *stream, SOCKS5, socks5::parse_reply).await
        };
        let reply = within_patience(asked).await.map_err(ProxyError::of_request)?;
        match reply.code {
            0 => Ok(Granted { stream, bound: reply.bound, software: None, status: None }),
            code => Err(socks5::blames(code).error(code.into(), socks5::refusal(code))),
        }
    }

    /// Is let in by a proxy of SOCKS5 (RFC 1928 section 3).
    async fn log_in(&self, stream: &mut dyn Stream) -> Result<(), ProxyError> {
        send(stream, &socks5::greeting(self.credentials.is_some())).await?;
        match (read(stream, SOCKS5, socks5::parse_choice).await?, &self.credentials) {
            (socks5::Method::NoAuthentication, _) => Ok(()),
            (socks5::Method::Password, Some(credentials)) if !credentials.fit_socks5() => {
                Err(ProxyError::NotInProtocol("SOCKS5 with so long a password"))
            }
            (socks5::Method::Password, Some(credentials)) => {
                let told = async {
                    send(stream, &socks5::login(credentials)).await?;
                    read(stream, SOCKS5, socks5::parse_login).await
                };
                match told.await {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(ProxyError::WrongCredentials),
                    // Some hang up without a word.
                    Err(ProxyError::Closed) => Err(ProxyError::HungUpAtLogin),
                    Err(error) => Err(error),
                }
            }
            (socks5::Method::NoneAcceptable | socks5::Method::Password, None) => {
                Err(ProxyError::WantsCredentials)
            }
            // It has not looked at them.
            (socks5::Method::NoneAcceptable, Some(_)) => Err(ProxyError::OtherAuthentication),
        }
    }

    async fn socks4(
        &self,
        net: &dyn Net,
        command: socks4::Command,
        to: &Destination,
    ) -> Result<Granted, ProxyError> {
        let mut stream = self.reach(net).await?;
        let request = match (self.kind, to) {
            (ProxyKind::Socks4, Destination::Name(..)) => None,
            _ => socks4::request(command, to, self.credentials.as_ref()),
        };
        let request = request.ok_or(ProxyError::NotInProtocol("SOCKS4"))?;
        let asked = async {
            send(&mut *stream, &request).await?;
            read(&mut *stream, "SOCKS4", socks4::parse_reply).await
        };
        let reply = within_patience(asked).await?;
        match reply.code {
            socks4::GRANTED => {
                Ok(Granted { stream, bound: reply.bound.into(), software: None, status: None })
            }
            code => Err(socks4::blames(code).error(code.into(), socks4::refusal(code))),
        }
    }
}

const SOCKS5: &str = "SOCKS5";

async fn within_patience<T>(work: impl Future<Output = Result<T, ProxyError>>) -> Result<T, ProxyError> {
    timeout(PATIENCE, work).await.unwrap_or(Err(ProxyError::Timeout))
}

impl Blames {
    fn error(self, code: u16, text: &'static str) -> ProxyError {
        let refusal = Refusal { code, text };
        match self {
            Self::Itself => ProxyError::Refused(refusal),
            Self::Destination => ProxyError::NotReached(refusal),
            Self::Nobody => ProxyError::Failed(refusal),
        }
    }
}

async fn exchange_http(stream: &mut dyn Stream, request: &str) -> Result<http::Head, ProxyError> {
    within_patience(async {
        send(stream, request.as_bytes()).await?;
        read(stream, "HTTP", http::parse_head).await
    })
    .await
}

async fn send(stream: &mut dyn Stream, message: &[u8]) -> Result<(), ProxyError> {
    stream.write_all(message).await.map_err(|_| ProxyError::Closed)?;
    stream.flush().await.map_err(|_| ProxyError::Closed)
}

/// Reads one message and not a byte more, as what follows belongs to the destination. Its length is bounded by its protocol.
async fn read<T>(
    stream: &mut dyn Stream,
    protocol: &'static str,
    parse: impl Fn(&[u8]) -> Result<Read<T>, Malformed>,
) -> Result<T, ProxyError> {
    let mut received = Vec::new();
    loop {
        match parse(&received).map_err(|Malformed| ProxyError::OtherProtocol(protocol))? {
            Read::Whole(message) => return Ok(message),
            Read::Needs(length) => {
                let known = received.len();
                received.resize(length, 0);
                stream.read_exact(&mut received[known..]).await.map_err(|_| ProxyError::Closed)?;
            }
        }
    }
}
