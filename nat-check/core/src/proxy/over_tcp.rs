//! What a proxy does for connections: to the server's address, by name, over IPv6, to other ports, listening, UDP over HTTP.

use std::sync::PoisonError;

use shared::stun::Dialect;
use tokio::{
    io::AsyncReadExt,
    time::{Instant, timeout},
};

use super::{
    applications::PORTS,
    client::{PATIENCE, ProxyError},
    conclude::{self, Tried},
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
}

impl Trial<'_> {
    /// Fills in everything that takes a connection each.
    pub(super) async fn over_tcp(&self, report: &mut ProxyReport) {
        let first = self.ask(&Destination::Address(self.server.at)).await;
        report.connect = conclude::connect(&first.tried);
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
            self.ports(),
            self.upgraded(),
        );
        report.remote_dns = by_name;
        report.ipv6 = over_ipv6;
        report.bind = conclude::bind(&bound.map(|granted| granted.bound));
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

    /// Has the proxy connect to the server, and asks that over STUN.
    async fn ask(&self, to: &Destination) -> Asked {
        let mut granted = match self.proxy.connect(&**self.net, to).await {
            Ok(granted) => granted,
            Err(error) => return Asked { tried: Tried::Failed(error), software: None, status: None },
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
        Asked { tried, software: granted.software, status: granted.status }
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
        let answer = match &first.tried {
            Tried::Answered(_) => Ok(first.status),
            Tried::Silent => Err(None),
            Tried::Failed(error) => Err(Some(error)),
        };
        conclude::port(self.server.at.port(), answer)
    }

    /// Other ports of the server, all at the same time.
    async fn ports(&self) -> Vec<ProxyPort> {
        let [a, b, c] = PORTS.map(|port| self.port(port));
        let (a, b, c) = tokio::join!(a, b, c);
        [a, b, c].into_iter().filter(|it| it.port != self.server.at.port()).collect()
    }

    async fn port(&self, port: u16) -> ProxyPort {
        let mut at = self.server.at;
        at.set_port(port);
        let begun = Instant::now();
        let mut granted = match self.proxy.connect(&**self.net, &Destination::Address(at)).await {
            Ok(granted) => granted,
            Err(error) => return conclude::port(port, Err(Some(&error))),
        };
        // Some grant at once and hang up once they know better.
        let soon = (begun.elapsed() * 2).clamp(LEAST_WAIT, PATIENCE);
        match timeout(soon, granted.stream.read(&mut [0; 1])).await {
            Ok(Ok(0) | Err(_)) => conclude::port(port, Err(None)),
            Ok(Ok(_)) | Err(_) => conclude::port(port, Ok(granted.status)),
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
const LEAST_WAIT: std::time::Duration = std::time::Duration::from_millis(300);

/// Whether the proxy would answer everything else alike.
fn is_about_everything(error: &ProxyError) -> bool {
    match error {
        ProxyError::NoConnection(_)
        | ProxyError::Timeout
        | ProxyError::Closed
        | ProxyError::OtherProtocol(_)
        | ProxyError::WantsCredentials
        | ProxyError::WrongCredentials => true,
        ProxyError::Refused(_)
        | ProxyError::NotReached(_)
        | ProxyError::Failed(_)
        | ProxyError::NotInProtocol(_) => false,
    }
}
