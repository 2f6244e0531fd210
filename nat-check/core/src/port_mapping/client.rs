//! A gateway that opens ports, by whichever protocol: one mapping is asked for, looked up, ended.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shared::port_mapping::{
    Transport,
    nat_pmp::{self, Body},
    pcp::{self, Map, Operation},
};
use tokio::time::Instant;

use super::{
    MappingError, Protocol,
    datagrams::{self, AGAIN, SELDOM},
    description::Service,
    discovery::endpoint,
    epochs::Epochs,
    soap::{Action, Results},
};
use crate::net::Net;

/// The shortest lifetime that can be asked for, in seconds; servers may make it longer (RFC 6887 section 15).
const SHORTEST: u32 = 1;

/// A gateway, as one protocol reaches it. Clones stand for the same one.
#[derive(Clone)]
pub struct Client {
    net: Arc<dyn Net>,
    /// This host's address on the way to it.
    local: IpAddr,
    /// The address that it sees this host with: another one where a NAT stands in between.
    seen_as: IpAddr,
    at: SocketAddr,
    way: Way,
    epochs: Epochs,
}

#[derive(Clone, Debug)]
enum Way {
    Pcp,
    NatPmp,
    Upnp(Arc<Service>),
    /// WANIPv6FirewallControl, with the identifiers of the pinholes that it opened.
    Firewall(Arc<Service>, Arc<Mutex<Pinholes>>),
}

/// What its mappings are called in a gateway's list.
const DESCRIPTION: &str = "nat-check";
/// Entries of a gateway's list that are looked at.
const MOST_ENTRIES: u16 = 100;

/// Identifiers by transport and internal port.
type Pinholes = HashMap<(Transport, u16), String>;

/// A mapping that is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Of which transport.
    pub transport: Transport,
    /// This host's port.
    pub internal: u16,
    /// The external port.
    pub external: u16,
    /// For how long.
    pub lifetime: Duration,
    /// Whoever knows it may change the mapping (RFC 6887 section 11.1); the other protocols have none.
    pub nonce: [u8; 12],
}

/// A mapping that a gateway says it has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The external port, which may be another than was wished for.
    pub external: u16,
    /// The external address, where the protocol tells it.
    pub external_address: Option<IpAddr>,
    /// For how long; zero where there is no end.
    pub lifetime: Duration,
    /// Seconds since the gateway lost its mappings, where the protocol tells them.
    pub epoch: Option<u32>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.protocol().name(), self.at)
    }
}

impl Client {
    /// A gateway of PCP or NAT-PMP.
    pub(super) fn over_datagrams(
        net: &Arc<dyn Net>,
        local: IpAddr,
        gateway: IpAddr,
        protocol: Protocol,
    ) -> Option<Self> {
        let way = match protocol {
            Protocol::Pcp => Way::Pcp,
            Protocol::NatPmp => Way::NatPmp,
            Protocol::Upnp => return None,
        };
        let at = endpoint(&**net, local, gateway, shared::port_mapping::PORT);
        let epochs = Epochs::new(protocol);
        Some(Self { net: Arc::clone(net), local, seen_as: local, at, way, epochs })
    }

    /// A service of UPnP, at the address of its description.
    pub(super) fn upnp(net: &Arc<dyn Net>, local: IpAddr, at: SocketAddr, service: Service) -> Self {
        let epochs = Epochs::new(Protocol::Upnp);
        let service = Arc::new(service);
        let way = match service.opens_firewall() {
            true => Way::Firewall(service, Arc::default()),
            false => Way::Upnp(service),
        };
        Self { net: Arc::clone(net), local, seen_as: local, at, way, epochs }
    }

    /// The same behind a NAT whose external address this is: what is opened leads there.
    #[must_use]
    pub(crate) fn behind(self, nat: IpAddr) -> Self {
        Self { seen_as: nat, ..self }
    }

    /// Its protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.way {
            Way::Pcp => Protocol::Pcp,
            Way::NatPmp => Protocol::NatPmp,
            Way::Upnp(_) | Way::Firewall(..) => Protocol::Upnp,
        }
    }

    /// Its address.
    #[must_use]
    pub fn gateway(&self) -> IpAddr {
        self.at.ip()
    }

    /// The epochs that it has told.
    #[must_use]
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Takes an epoch that it told before anything was asked for.
    pub(super) fn note_epoch(&self, told: u32, at: Instant) {
        self.epochs.note(told, at);
    }

    /// Asks for a mapping, or for more time for one that there is.
    ///
    /// # Errors
    /// When the gateway refuses, or does not answer.
    pub async fn map(&self, wish: &Wish) -> Result<Granted, MappingError> {
        match &self.way {
            Way::Pcp => self.pcp(wish, seconds(wish.lifetime)).await,
            Way::NatPmp => self.nat_pmp(wish, wish.external, seconds(wish.lifetime)).await,
            Way::Upnp(service) => self.upnp_map(service, wish).await,
            Way::Firewall(service, pinholes) => self.open_pinhole(service, pinholes, wish).await,
        }
    }

    /// Ends a mapping that it has granted. That there is none is success.
    ///
    /// # Errors
    /// When the gateway refuses, or does not answer.
    pub async fn unmap(&self, wish: &Wish) -> Result<(), MappingError> {
        match &self.way {
            Way::Pcp => self.end_by_pcp(wish).await,
            Way::NatPmp => ended(self.nat_pmp(wish, 0, 0).await?),
            Way::Firewall(service, pinholes) => {
                // Without its number it cannot be named; it may be there.
                let named = pinhole(pinholes, wish).ok_or(MappingError::NoAnswer)?;
                match self.call(service, "DeletePinhole", named).await {
                    Err(MappingError::Refused(code)) if is_no_such_pinhole(&code) => Ok(()),
                    answer => answer.map(|_| ()),
                }
            }
            Way::Upnp(service) => match self.call(service, "DeletePortMapping", named(wish).to_vec()).await {
                Err(MappingError::Refused(code)) if is_no_such_entry(&code) => Ok(()),
                answer => answer.map(|_| ()),
            },
        }
    }

    /// Ends a mapping whose answer did not come: it may be there, and with UPnP the port may be another host's.
    ///
    /// # Errors
    /// When the gateway refuses, or does not answer.
    pub async fn unmap_if_made(&self, wish: &Wish) -> Result<(), MappingError> {
        match self.is_listed(wish).await {
            Some(false) => match self.listed_elsewhere(wish).await {
                Some(external) => self.unmap(&Wish { external, ..*wish }).await,
                None => Ok(()),
            },
            Some(true) | None => self.unmap(wish).await,
        }
    }

    /// The external port that a gateway has chosen itself for this mapping, as far as its list tells.
    async fn listed_elsewhere(&self, wish: &Wish) -> Option<u16> {
        let Way::Upnp(service) = &self.way else { return None };
        if !service.chooses_ports() {
            return None;
        }
        for index in 0..MOST_ENTRIES {
            let index = vec![("NewPortMappingIndex", index.to_string())];
            // Past the end of the list the answer is an error.
            let entry = self.call(service, "GetGenericPortMappingEntry", index).await.ok()?;
            let is = |name: &str, own: &str| entry.get(name) == Some(own);
            if is("NewInternalClient", &self.seen_as.to_string())
                && is("NewInternalPort", &wish.internal.to_string())
                && is("NewProtocol", wish.transport.name())
                && is("NewPortMappingDescription", DESCRIPTION)
            {
                return entry.get("NewExternalPort")?.parse().ok();
            }
        }
        None
    }

    /// Whether the gateway lists the mapping, where the protocol can tell.
    pub async fn is_listed(&self, wish: &Wish) -> Option<bool> {
        match &self.way {
            Way::Upnp(service) => self.has_entry(service, wish).await,
            Way::Firewall(service, pinholes) => {
                match self.call(service, "GetPinholePackets", pinhole(pinholes, wish)?).await {
                    Ok(_) => Some(true),
                    Err(MappingError::Refused(code)) if is_no_such_pinhole(&code) => Some(false),
                    Err(_) => None,
                }
            }
            Way::Pcp | Way::NatPmp => None,
        }
    }

    /// Whether there is an entry for this mapping, and not one of another host; none where the gateway does not say.
    async fn has_entry(&self, service: &Service, wish: &Wish) -> Option<bool> {
        match self.call(service, "GetSpecificPortMappingEntry", named(wish).to_vec()).await {
            // A device that fills nothing in knows of none.
            Ok(results) if results.get("NewInternalClient").is_none_or(str::is_empty) => None,
            Ok(results) => {
                let is =
                    |name: &str, own: &str| results.get(name).is_none_or(|it| it.is_empty() || it == own);
                let is_here = is("NewInternalClient", &self.seen_as.to_string());
                Some(is_here && is("NewInternalPort", &wish.internal.to_string()))
            }
            Err(MappingError::Refused(code)) if is_no_such_entry(&code) => Some(false),
            Err(_) => None,
        }
    }

    /// The external address that the gateway names, where the protocol has a question for it.
    pub async fn external_address(&self) -> Option<IpAddr> {
        match &self.way {
            Way::Pcp | Way::Firewall(..) => None,
            Way::NatPmp => {
                let request = nat_pmp::Request::ExternalAddress;
                let response = self.ask_nat_pmp(request).await.ok()?;
                match response.body {
                    Body::ExternalAddress(address) if response.result == 0 => some_address(address.into()),
                    _ => None,
                }
            }
            Way::Upnp(service) => {
                let results = self.call(service, "GetExternalIPAddress", Vec::new()).await.ok()?;
                some_address(results.get("NewExternalIPAddress")?.parse().ok()?)
            }
        }
    }

    /// Whether the connection behind a service of UPnP is up, as far as the gateway says.
    pub(super) async fn is_connected(&self) -> bool {
        let Way::Upnp(service) = &self.way else { return true };
        let status = self.call(service, "GetStatusInfo", Vec::new()).await;
        status.is_ok_and(|results| {
            let status = results.get("NewConnectionStatus").unwrap_or_default();
            ["Connected", "Up"].iter().any(|up| status.eq_ignore_ascii_case(up))
        })
    }

    /// miniupnpd before 2.3.6 forgets the nonce of a pinhole that is asked for again, which a repeated request is, too, and then
    /// refuses to end it for whoever opened it. It still gives it another lifetime: the shortest one ends it soon.
    async fn end_by_pcp(&self, wish: &Wish) -> Result<(), MappingError> {
        let ended = self.pcp(wish, 0).await.and_then(ended);
        let is_refused = ended == Err(MappingError::Refused(pcp::result_name(pcp::NOT_AUTHORIZED)));
        if is_refused && self.local.is_ipv6() {
            _ = self.pcp(wish, SHORTEST).await;
        }
        ended
    }

    async fn pcp(&self, wish: &Wish, lifetime: u32) -> Result<Granted, MappingError> {
        let map = Map {
            nonce: wish.nonce,
            transport: wish.transport,
            internal: wish.internal,
            external: wish.external,
            external_address: match self.local {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
        };
        let request = pcp::Request { lifetime, client: self.seen_as, operation: Operation::Map(map) };
        let again = if self.local.is_ipv6() && lifetime > SHORTEST { SELDOM } else { AGAIN };
        let asked = request.write();
        let response = datagrams::ask(&*self.net, self.local, self.at, (&asked, again), |message| {
            pcp::Response::read(message).filter(|response| request.is_answered_by(response))
        })
        .await?;
        self.epochs.note(response.epoch, Instant::now());
        match response.operation {
            Operation::Map(granted) if response.result == 0 => Ok(Granted {
                external: granted.external,
                external_address: some_address(granted.external_address),
                lifetime: Duration::from_secs(response.lifetime.into()),
                epoch: Some(response.epoch),
            }),
            _ => Err(MappingError::Refused(pcp::result_name(response.result))),
        }
    }

    async fn nat_pmp(&self, wish: &Wish, external: u16, lifetime: u32) -> Result<Granted, MappingError> {
        let (transport, internal) = (wish.transport, wish.internal);
        let response =
            self.ask_nat_pmp(nat_pmp::Request::Map { transport, internal, external, lifetime }).await?;
        match response.body {
            Body::Map { external, lifetime, .. } if response.result == 0 => Ok(Granted {
                external,
                external_address: None,
                lifetime: Duration::from_secs(lifetime.into()),
                epoch: Some(response.epoch),
            }),
            _ => Err(MappingError::Refused(nat_pmp::result_name(response.result))),
        }
    }

    async fn ask_nat_pmp(&self, request: nat_pmp::Request) -> Result<nat_pmp::Response, MappingError> {
        let asked = request.write();
        let response = datagrams::ask(&*self.net, self.local, self.at, (&asked, AGAIN), |message| {
            nat_pmp::Response::read(message).filter(|response| request.is_answered_by(response))
        })
        .await?;
        // An error that was cut short has no epoch.
        if response.body != Body::Nothing {
            self.epochs.note(response.epoch, Instant::now());
        }
        Ok(response)
    }

    async fn upnp_map(&self, service: &Service, wish: &Wish) -> Result<Granted, MappingError> {
        let [host, external, protocol] = named(wish);
        let arguments = vec![
            host,
            external,
            protocol,
            ("NewInternalPort", wish.internal.to_string()),
            ("NewInternalClient", self.seen_as.to_string()),
            ("NewEnabled", "1".into()),
            ("NewPortMappingDescription", DESCRIPTION.into()),
            ("NewLeaseDuration", seconds(wish.lifetime).to_string()),
        ];
        let external = match self.call(service, "AddPortMapping", arguments.clone()).await {
            // The action gives nothing back: what was asked for is what there is.
            Ok(_) => wish.external,
            // Version 2 looks for a port that is free (WANIPConnection:2 section 2.5.20).
            Err(MappingError::Refused(code)) if is_conflict(&code) && service.chooses_ports() => {
                let answer = self.call(service, "AddAnyPortMapping", arguments).await;
                if let Err(error @ MappingError::Refused(_)) = answer {
                    return Err(error);
                }
                let reserved = answer.as_ref().ok().and_then(|results| results.get("NewReservedPort"));
                // Whatever came of the answer, the mapping may be there.
                match reserved.and_then(|port| port.parse().ok()) {
                    Some(port) => port,
                    None => match self.listed_elsewhere(wish).await {
                        Some(port) => port,
                        None => {
                            let nonsense = || MappingError::Nonsense("an answer without the port".into());
                            return Err(answer.err().unwrap_or_else(nonsense));
                        }
                    },
                }
            }
            Err(error) => return Err(error),
        };
        Ok(Granted { external, external_address: None, lifetime: wish.lifetime, epoch: None })
    }

    /// WANIPv6FirewallControl:1 section 2.4.3. Nothing is translated, so the external port is the internal one.
    async fn open_pinhole(
        &self,
        service: &Service,
        pinholes: &Mutex<Pinholes>,
        wish: &Wish,
    ) -> Result<Granted, MappingError> {
        let arguments = vec![
            ("RemoteHost", String::new()),
            ("RemotePort", "0".into()),
            ("InternalClient", self.local.to_string()),
            ("InternalPort", wish.internal.to_string()),
            ("Protocol", wish.transport.number().to_string()),
            ("LeaseTime", seconds(wish.lifetime).to_string()),
        ];
        let results = self.call(service, "AddPinhole", arguments).await?;
        let id = results.get("UniqueID").and_then(|id| id.parse::<u16>().ok());
        let id = id.ok_or_else(|| MappingError::Nonsense("an answer without the pinhole's number".into()))?;
        let mut pinholes = pinholes.lock().unwrap_or_else(PoisonError::into_inner);
        pinholes.insert((wish.transport, wish.internal), id.to_string());
        Ok(Granted {
            external: wish.internal,
            // Nothing is translated, and the gateway names no address.
            external_address: None,
            lifetime: wish.lifetime,
            epoch: None,
        })
    }

    async fn call(
        &self,
        service: &Service,
        name: &'static str,
        arguments: Vec<(&'static str, String)>,
    ) -> Result<Results, MappingError> {
        Action { name, arguments, service, at: self.at }.call(&*self.net, self.local).await
    }
}

/// Whether a gateway that agrees has ended the mapping: one that names a time keeps it.
fn ended(granted: Granted) -> Result<(), MappingError> {
    match granted.lifetime.is_zero() {
        true => Ok(()),
        false => Err(MappingError::Nonsense("an answer that keeps the mapping".into())),
    }
}

/// The arguments that name a mapping.
fn named(wish: &Wish) -> [(&'static str, String); 3] {
    [
        ("NewRemoteHost", String::new()),
        ("NewExternalPort", wish.external.to_string()),
        ("NewProtocol", wish.transport.name().into()),
    ]
}

/// The argument that names a pinhole, where one was opened.
fn pinhole(pinholes: &Mutex<Pinholes>, wish: &Wish) -> Option<Vec<(&'static str, String)>> {
    let pinholes = pinholes.lock().unwrap_or_else(PoisonError::into_inner);
    Some(vec![("UniqueID", pinholes.get(&(wish.transport, wish.internal))?.clone())])
}

/// WANIPv6FirewallControl's error for a pinhole that there is not.
fn is_no_such_pinhole(code: &str) -> bool {
    code.starts_with("704")
}

/// WANIPConnection's error for a mapping that there is not.
fn is_no_such_entry(code: &str) -> bool {
    code.starts_with("714")
}

/// WANIPConnection's error for a port that is somebody else's.
pub(crate) fn is_conflict(code: &str) -> bool {
    code.starts_with("718")
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

/// An address that stands for one.
fn some_address(address: IpAddr) -> Option<IpAddr> {
    Some(address).filter(|address| !address.is_unspecified())
}
