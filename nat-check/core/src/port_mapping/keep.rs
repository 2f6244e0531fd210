//! A port kept open at the gateway for as long as it is wanted: opened by the first protocol that grants it (PCP, NAT-PMP,
//! UPnP), tested from outside, renewed at half of its lifetime (RFC 6887 section 11.2.1), closed at the end.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{Client, Granted, MappingError, Protocol, Transport, Wish, discover};
use crate::{
    net::Net,
    probe::port_mapping::{OutsideTest, test_from_outside},
    randomness::Randomness,
    report::Finding,
};

/// How long a mapping is asked for at a time: what is killed leaves it open no longer.
const LIFETIME: Duration = Duration::from_secs(600);
/// When a gateway that has not renewed a mapping is asked again.
const AGAIN: Duration = Duration::from_secs(10);
/// How long closing one may take, where the gateway is slow to say what it lists.
const CLOSING: Duration = Duration::from_secs(15);

/// What is to be kept open.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The port, inside and, where that is free, outside.
    pub port: u16,
    /// For which transports.
    pub transports: Vec<Transport>,
    /// For how long; none = until it is stopped.
    pub hold: Option<Duration>,
    /// Over IPv6, where nothing is translated: the gateway opens a pinhole in its firewall.
    pub over_ipv6: bool,
    /// The probe server that tests it from outside, of the same family; none = it is not tested.
    pub server: Option<SocketAddr>,
}

/// What happens to it.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// The gateway says that the port is open.
    Opened {
        /// By which protocol.
        protocol: Protocol,
        /// Who.
        gateway: IpAddr,
        /// Of which transport.
        transport: Transport,
        /// What it has granted.
        granted: Granted,
    },
    /// What came of trying it from outside, and where the server sees this host.
    Tested {
        /// Of which transport.
        transport: Transport,
        /// The external port.
        external: u16,
        /// Whether it is reached.
        reachable: &'a Finding<bool>,
        /// The external address that the server sees.
        seen: Option<IpAddr>,
    },
    /// The gateway has renewed it.
    Renewed(Transport, Granted),
    /// The gateway had lost its mappings, and has made it anew.
    Restored(Transport, Granted),
    /// The gateway has not renewed it, for this reason.
    NotRenewed(Transport, MappingError),
    /// It is closed.
    Closed(Transport),
    /// The gateway has not closed it, for this reason.
    NotClosed(Transport, MappingError),
}

impl Event<'_> {
    /// The transport that it is about.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match *self {
            Self::Opened { transport, .. } | Self::Tested { transport, .. } => transport,
            Self::Renewed(transport, _)
            | Self::Restored(transport, _)
            | Self::NotRenewed(transport, _)
            | Self::Closed(transport)
            | Self::NotClosed(transport, _) => transport,
        }
    }
}

/// Why a port cannot be kept open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// There is no gateway, or it is not known.
    #[error("there is no gateway, or this system does not say which")]
    NoGateway,
    /// Nobody opens ports.
    #[error("the gateway {0} answers neither PCP nor NAT-PMP, and no device answers UPnP")]
    NobodyAnswers(IpAddr),
    /// Everybody who does refuses to.
    #[error("{0} port {1} was not opened: {2}")]
    NotOpened(&'static str, u16, String),
}

/// One mapping that is open, or may be.
struct Open {
    client: Client,
    wish: Wish,
    granted: Granted,
    /// Whether the gateway has said so; otherwise it is only closed.
    is_granted: bool,
    renew_at: Instant,
    /// How often the gateway had lost its mappings when this one was made.
    losses: u32,
}

impl Open {
    async fn renew(&mut self, tell: &(dyn Fn(Event<'_>) + Sync)) {
        let transport = self.wish.transport;
        match self.client.map(&self.wish).await {
            Ok(granted) => {
                self.renew_at = Instant::now() + half(&granted);
                self.granted = granted;
                // The port that was wished for may be another host's by now.
                self.wish.external = granted.external;
                let losses = self.client.epochs().losses();
                let is_lost = std::mem::replace(&mut self.losses, losses) < losses;
                tell(match is_lost {
                    true => Event::Restored(transport, granted),
                    false => Event::Renewed(transport, granted),
                });
            }
            Err(error) => {
                self.renew_at = Instant::now() + AGAIN;
                self.losses = self.client.epochs().losses();
                tell(Event::NotRenewed(transport, error));
            }
        }
    }
}

/// Keeps a port open until the time is over, or `stop` becomes true. Whatever happens, what was opened is closed.
///
/// # Errors
/// When it cannot be opened; then nothing is left open.
pub async fn keep(
    net: &Arc<dyn Net>,
    kept: &Kept,
    tell: &(dyn Fn(Event<'_>) + Sync),
    mut stop: watch::Receiver<bool>,
) -> Result<(), KeepError> {
    // Any address beyond the local network tells the way out; nothing is sent there.
    let anywhere: IpAddr = match kept.over_ipv6 {
        true => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        false => Ipv4Addr::new(192, 0, 2, 1).into(),
    };
    let outside = kept.server.unwrap_or(SocketAddr::new(anywhere, 9));
    let local = net.source_for(outside).map_err(|_| KeepError::NoGateway)?;
    let gateway = net.gateway(local).ok_or(KeepError::NoGateway)?;
    let found = discover(net, local, gateway).await;
    if found.clients.is_empty() {
        return Err(KeepError::NobodyAnswers(gateway));
    }
    let mut open = Vec::new();
    let ended = tokio::select! {
        biased;
        // An error means that nobody can stop it any more: then it goes on.
        Ok(_) = stop.wait_for(|stopped| *stopped) => Ok(()),
        ended = open_and_renew((net, local), kept, &found.clients, tell, &mut open) => ended,
    };
    for Open { client, wish, is_granted, .. } in open {
        // With UPnP the port may be another host's by now.
        let is_own = is_granted && client.protocol() != Protocol::Upnp;
        let ending =
            async { if is_own { client.unmap(&wish).await } else { client.unmap_if_made(&wish).await } };
        let ended = timeout(CLOSING, ending).await.unwrap_or(Err(MappingError::NoAnswer));
        match ended {
            Ok(()) if is_granted => tell(Event::Closed(wish.transport)),
            Err(error) if is_granted => tell(Event::NotClosed(wish.transport, error)),
            Ok(()) | Err(_) => {}
        }
    }
    ended
}

async fn open_and_renew(
    (net, local): (&Arc<dyn Net>, IpAddr),
    kept: &Kept,
    clients: &[Client],
    tell: &(dyn Fn(Event<'_>) + Sync),
    open: &mut Vec<Open>,
) -> Result<(), KeepError> {
    let begun = Instant::now();
    for &transport in &kept.transports {
        open_one(kept, (clients, local), transport, tell, open).await?;
    }
    if let Some(server) = kept.server {
        for it in open.iter().filter(|it| it.is_granted) {
            let Open { client, wish, granted, .. } = it;
            let external_address = match granted.external_address {
                None => client.external_address().await,
                named => named,
            };
            let (transport, external) = (wish.transport, granted.external);
            let protocol = client.protocol();
            let test =
                OutsideTest { server, protocol, transport, port: kept.port, external, external_address };
            let (reachable, seen) = test_from_outside(net, test).await;
            tell(Event::Tested { transport, external, reachable: &reachable, seen });
        }
    }
    loop {
        let granted = || open.iter().filter(|it| it.is_granted);
        let next = granted().map(|it| it.renew_at).min().unwrap_or_else(Instant::now);
        match kept.hold.map(|hold| begun + hold) {
            Some(end) if end <= next => {
                sleep_until(end).await;
                return Ok(());
            }
            Some(_) | None => sleep_until(next).await,
        }
        for it in open.iter_mut().filter(|it| it.is_granted && it.renew_at <= next) {
            it.renew(tell).await;
        }
        // A gateway that has lost one mapping has lost all.
        for it in open.iter_mut().filter(|it| it.is_granted && it.client.epochs().losses() > it.losses) {
            it.renew(tell).await;
        }
    }
}

/// Asks one protocol after the other. What is asked for is kept from before the answer, so that it is closed in any case.
async fn open_one(
    kept: &Kept,
    (clients, local): (&[Client], IpAddr),
    transport: Transport,
    tell: &(dyn Fn(Event<'_>) + Sync),
    open: &mut Vec<Open>,
) -> Result<(), KeepError> {
    let mut refusals = Vec::new();
    for client in clients {
        let nonce = Randomness::System.source().bytes().unwrap_or_default();
        let wish = Wish { transport, internal: kept.port, external: kept.port, lifetime: LIFETIME, nonce };
        let nothing =
            Granted { external: kept.port, external_address: None, lifetime: LIFETIME, epoch: None };
        let renew_at = Instant::now() + LIFETIME;
        let losses = client.epochs().losses();
        open.push(Open {
            client: client.clone(),
            wish,
            granted: nothing,
            is_granted: false,
            renew_at,
            losses,
        });
        let answer = client.map(&wish).await;
        let (Ok(granted), Some(entry)) = (&answer, open.last_mut()) else {
            if let Err(error) = answer {
                refusals.push(format!("{}: {error}", client.protocol().name()));
                // One that does not answer may have obeyed, so it is kept; one that refuses has not.
                if matches!(error, MappingError::Refused(_)) {
                    open.pop();
                }
            }
            continue;
        };
        // Over IPv6 it is a pinhole to this host's own address, which not every protocol tells.
        let external_address = granted.external_address.or(local.is_ipv6().then_some(local));
        let granted = Granted { external_address, ..*granted };
        entry.granted = granted;
        entry.is_granted = true;
        entry.renew_at = Instant::now() + half(&granted);
        // Renewing asks for what was granted.
        entry.wish.external = granted.external;
        tell(Event::Opened { protocol: client.protocol(), gateway: client.gateway(), transport, granted });
        return Ok(());
    }
    Err(KeepError::NotOpened(transport.name(), kept.port, refusals.join("; ")))
}

/// After which time a mapping is renewed; one without end is looked after all the same, as a router may lose it.
fn half(granted: &Granted) -> Duration {
    let lifetime = if granted.lifetime.is_zero() { LIFETIME } else { granted.lifetime };
    lifetime / 2
}
