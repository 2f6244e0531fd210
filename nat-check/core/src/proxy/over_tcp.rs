//! What a proxy does for connections: to the server's address, by name, over IPv6, to other ports, listening, UDP over HTTP.

use std::{sync::PoisonError, time::Duration};

use shared::stun::Dialect;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout},
};

use super::{
    applications::{HTTPS, PORTS},
    client::{PATIENCE, ProxyError},
    conclude::{self, Held, Tried},
    measure::Trial,
    wire::Destination,
};
use crate::{
    report::{Finding, ProxyKind, ProxyPort, ProxyReport, ReasonCode},
    stun_over_tcp,
};

/// What came of a connection to the server.
struct Asked {
    tried: Tried,
    software: Option<String>,
    /// The code that the proxy granted it with, where its protocol has several.
    status: Option<u16>,
    /// How long all of it took.
    took: Duration,
}

impl Trial<'_> {
    /// Fills in everything that takes a connection each.
    pub(super) async fn over_tcp(&self, report: &mut ProxyReport) {
        let first = self.first().await;
        report.connect = conclude::connect(&first.tried, self.server.at.is_ipv6());
        report.exit_address = conclude::exit_address(&first.tried);
        if let Tried::Failed(error) = &first.tried
            && is_about_everything(error)
        {
            report.error = Some(error.to_string());
            let why = conclude::reason(error);
            report.remote_dns = Finding::unknown(why.clone(), "CONNECT");
            report.ipv6 = Finding::unknown(why.clone(), "CONNECT");
            report.bind = Finding::unknown(why.clone(), "RFC 1928");
            report.udp_associate = Finding::unknown(why, "RFC 1928");
            return;
        }
        let (by_name, over_ipv6, bound, ports, upgraded) = tokio::join!(
            self.by_name(),
            self.over_ipv6(),
            self.proxy.bind(&**self.net, self.server.at),
            self.ports(first.took),
            self.upgraded(),
        );
        report.remote_dns = by_name;
        report.ipv6 = over_ipv6;
        report.bind = conclude::bind(&bound.map(|granted| granted.bound.address()));
        report.connect_ports = vec![self.own_port(&first)];
        report.connect_ports.extend(ports);
        report.software = first.software;
        if let Some(upgraded) = upgraded {
            report.connect_udp = upgraded;
        }
        if self.proxy.kind != ProxyKind::Socks5 {
            // Nothing is sent for it.
            let refused = self.proxy.associate(&**self.net).await.err();
            report.udp_associate = conclude::not_relayed(refused);
        }
    }

    /// Asks for the server. Where it gets no answer at all, another port tells whether the proxy is silent or the server: in
    /// protocols without a greeting the answer to a request is the first one.
    async fn first(&self) -> Asked {
        let first = self.ask(&Destination::Address(self.server.at)).await;
        let Tried::Failed(error @ (ProxyError::Timeout | ProxyError::Closed)) = &first.tried else {
            return first;
        };
        if self.proxy.kind == ProxyKind::Socks5 {
            return first;
        }
        let other = if self.server.at.port() == HTTPS { HTTP } else { HTTPS };
        let elsewhere = self.proxy.connect(&**self.net, &self.at_port(other)).await.err();
        if elsewhere.as_ref() == Some(error) {
            return first;
        }
        Asked { tried: Tried::Failed(error.clone().of_request()), ..first }
    }

    /// Another port of the server.
    fn at_port(&self, port: u16) -> Destination {
        let mut at = self.server.at;
        at.set_port(port);
        Destination::Address(at)
    }

    /// Has the proxy connect to the server, and asks that over STUN.
    async fn ask(&self, to: &Destination) -> Asked {
        let begun = Instant::now();
        let mut granted = match self.proxy.connect(&**self.net, to).await {
            Ok(granted) => granted,
            Err(error) => {
                let tried = Tried::Failed(error);
                return Asked { tried, software: None, status: None, took: begun.elapsed() };
            }
        };
        let id = self.random.lock().unwrap_or_else(PoisonError::into_inner).transaction_id(Dialect::Modern);
        let answer = match id {
            Ok(id) => timeout(PATIENCE, stun_over_tcp::binding(&mut *granted.stream, id)).await,
            Err(_) => Ok(Err(std::io::ErrorKind::Other.into())),
        };
        let tried = match answer {
            Ok(Ok(seen)) => Tried::Answered(seen),
            Ok(Err(_)) | Err(_) => Tried::Silent,
        };
        Asked { tried, software: granted.software, status: granted.status, took: begun.elapsed() }
    }

    async fn by_name(&self) -> Finding<bool> {
        let Some(name) = &self.server.name else {
            let why = "the server was not given by a name with an address, so there is none to look up";
            return Finding::unknown((ReasonCode::NoNameToLookUp, why), "CONNECT");
        };
        conclude::can(&self.ask(name).await.tried)
    }

    async fn over_ipv6(&self) -> Finding<bool> {
        let Some(at) = self.server.ipv6 else {
            let why = "the server has no IPv6 address to ask for";
            return Finding::unknown((ReasonCode::ServerHasNoAddress, why), "CONNECT");
        };
        conclude::can(&self.ask(&Destination::Address(at)).await.tried)
    }

    fn own_port(&self, first: &Asked) -> ProxyPort {
        let held = match &first.tried {
            Tried::Answered(_) => Held::Speaks(first.status),
            Tried::Silent => Held::Ends,
            Tried::Failed(error) => Held::Failed(error.clone()),
        };
        conclude::port(self.server.at.port(), &held, false)
    }

    /// Other ports of the server, all at the same time, and one that nobody serves: some proxies grant before they connect.
    async fn ports(&self, first_took: Duration) -> Vec<ProxyPort> {
        let [a, b, c] = PORTS.map(|port| self.hold(port, first_took));
        let (unserved, a, b, c) = tokio::join!(self.hold(UNSERVED, first_took), a, b, c);
        let grants_all = matches!(unserved, Held::Lasts(_));
        PORTS
            .into_iter()
            .zip([a, b, c])
            .filter(|(port, _)| *port != self.server.at.port())
            .map(|(port, held)| conclude::port(port, &held, grants_all))
            .collect()
    }

    /// Has the proxy connect to a port, and waits for longer than it took to reach the server.
    async fn hold(&self, port: u16, first_took: Duration) -> Held {
        let begun = Instant::now();
        let mut granted = match self.proxy.connect(&**self.net, &self.at_port(port)).await {
            Ok(granted) => granted,
            Err(error) => return Held::Failed(error),
        };
        // Some grant at once and hang up once they know better.
        let soon = (first_took.max(begun.elapsed()) * 2).clamp(LEAST_WAIT, PATIENCE);
        match timeout(soon, granted.stream.read(&mut [0; 1])).await {
            Ok(Ok(0) | Err(_)) => Held::Ends,
            Ok(Ok(_)) => Held::Speaks(granted.status),
            Err(_) => Held::Lasts(granted.status),
        }
    }

    /// Whether a proxy of HTTP offers UDP; none for others.
    async fn upgraded(&self) -> Option<Finding<bool>> {
        if self.proxy.kind != ProxyKind::HttpConnect {
            return None;
        }
        Some(conclude::connect_udp(&self.proxy.connect_udp(&**self.net, self.server.at).await))
    }
}

/// How long a connection that was granted has to last at the least to be believed.
const LEAST_WAIT: Duration = Duration::from_millis(300);

/// The port that is asked for besides where the server itself is at port 443.
const HTTP: u16 = 80;

/// A port that nobody serves: tcpmux (RFC 1078).
const UNSERVED: u16 = 1;

/// Whether the proxy would answer everything else alike.
fn is_about_everything(error: &ProxyError) -> bool {
    match error {
        ProxyError::NoConnection(_)
        | ProxyError::Timeout
        | ProxyError::Closed
        | ProxyError::OtherProtocol(_)
        | ProxyError::WantsCredentials
        | ProxyError::WrongCredentials
        | ProxyError::HungUpAtLogin
        | ProxyError::OtherAuthentication => true,
        ProxyError::NoReply
        | ProxyError::Refused(_)
        | ProxyError::NotReached(_)
        | ProxyError::Failed(_)
        | ProxyError::NotInProtocol(_) => false,
    }
}
