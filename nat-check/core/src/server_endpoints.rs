//! The four endpoints of a server (RFC 5780 section 3): which of them it named, and which can be used.

use std::net::SocketAddr;

use shared::stun::attr;

use crate::{
    contactable::{Scope, is_contactable},
    observation::{ObservationLog, Transaction},
    report::{Reason, ReasonCode},
};

/// Which of a probe server's four endpoints: by IP and by port, primary or alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerEndpoint {
    /// At the alternate IP address.
    pub other_ip: bool,
    /// At the alternate port.
    pub other_port: bool,
}

impl ServerEndpoint {
    /// The endpoint that was asked first, A1:P1.
    pub const PRIMARY: Self = Self { other_ip: false, other_port: false };
    /// A1:P2.
    pub const PORT: Self = Self { other_ip: false, other_port: true };
    /// A2:P1.
    pub const IP: Self = Self { other_ip: true, other_port: false };
    /// A2:P2.
    pub const BOTH: Self = Self { other_ip: true, other_port: true };
    /// All four, in the order of the mapping test.
    pub const ALL: [Self; 4] = [Self::PRIMARY, Self::PORT, Self::IP, Self::BOTH];

    /// The flags that ask A1:P1 to answer from here (RFC 5780 section 7.2).
    #[must_use]
    pub fn change_flags(self) -> u32 {
        u32::from(self.other_ip) * attr::CHANGE_IP + u32::from(self.other_port) * attr::CHANGE_PORT
    }

    /// What it is to a person.
    #[must_use]
    pub fn described(self) -> &'static str {
        match (self.other_ip, self.other_port) {
            (false, false) => "the endpoint that was asked",
            (false, true) => "its other port",
            (true, false) => "its other IP address",
            (true, true) => "its other IP address and port",
        }
    }

    /// A short name for evidence: A1:P1 and so on.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.other_ip, self.other_port) {
            (false, false) => "A1:P1",
            (false, true) => "A1:P2",
            (true, false) => "A2:P1",
            (true, true) => "A2:P2",
        }
    }
}

/// The server's four endpoints, as far as its first answer named a usable alternate address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerEndpoints {
    at: [Option<SocketAddr>; 4],
    fault: Option<AlternateFault>,
}

/// What is wrong with OTHER-ADDRESS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlternateFault {
    /// There is none: a server with a single address.
    Missing,
    /// It has the address that was asked: no second address.
    SameIp,
    /// It has the port that was asked: no second port.
    SamePort,
    /// It is of the other family, or must not be [contacted](is_contactable) on the word of this server.
    Unusable(SocketAddr),
}

impl AlternateFault {
    /// Why a measurement that needs the alternate address cannot be made.
    #[must_use]
    pub fn reason(self) -> Reason {
        let code = match self {
            Self::Missing => ReasonCode::ServerHasNoAlternate,
            Self::SameIp | Self::SamePort | Self::Unusable(_) => ReasonCode::ServerAlternateUnusable,
        };
        (code, self.sentence()).into()
    }

    /// The sentence for a person.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::Missing => "the server names no alternate address (OTHER-ADDRESS)".into(),
            Self::SameIp => "the server's alternate address has the same IP as its primary one".into(),
            Self::SamePort => "the server's alternate address has the same port as its primary one".into(),
            Self::Unusable(address) => {
                format!(
                    "the server names {address} as its alternate address, which cannot be reached from outside"
                )
            }
        }
    }
}

impl ServerEndpoints {
    /// Reads the alternate address from the answer that came first; later ones come from other endpoints, whose
    /// alternate is another.
    #[must_use]
    pub fn of(primary: SocketAddr, log: &ObservationLog) -> Self {
        let first = log
            .transactions
            .iter()
            .filter(|t| t.to == primary)
            .flat_map(Transaction::successes)
            .filter(|a| a.from == primary)
            .min_by_key(|a| a.at);
        let Some(answer) = first else {
            return Self { at: [Some(primary), None, None, None], fault: None };
        };
        Self::judge(primary, answer.other)
    }

    /// The endpoints of a server that named this one as its alternate.
    #[must_use]
    pub fn named(primary: SocketAddr, other: Option<SocketAddr>) -> Self {
        Self::judge(primary, other)
    }

    fn judge(primary: SocketAddr, other: Option<SocketAddr>) -> Self {
        let mut at = [Some(primary), None, None, None];
        let Some(other) = other else {
            return Self { at, fault: Some(AlternateFault::Missing) };
        };
        if other.is_ipv4() != primary.is_ipv4()
            || !is_contactable(other.ip(), other.port(), Scope::Server(primary))
        {
            return Self { at, fault: Some(AlternateFault::Unusable(other)) };
        }
        let (new_ip, new_port) = (other.ip() != primary.ip(), other.port() != primary.port());
        for endpoint in ServerEndpoint::ALL {
            if (!endpoint.other_ip || new_ip) && (!endpoint.other_port || new_port) {
                let ip = if endpoint.other_ip { other.ip() } else { primary.ip() };
                let port = if endpoint.other_port { other.port() } else { primary.port() };
                at[index(endpoint)] = Some(SocketAddr::new(ip, port));
            }
        }
        let fault = match (new_ip, new_port) {
            (true, true) => None,
            (false, _) => Some(AlternateFault::SameIp),
            (true, false) => Some(AlternateFault::SamePort),
        };
        Self { at, fault }
    }

    /// The address of an endpoint, if the server has it.
    #[must_use]
    pub fn get(&self, endpoint: ServerEndpoint) -> Option<SocketAddr> {
        self.at[index(endpoint)]
    }

    /// The endpoint at an address.
    #[must_use]
    pub fn endpoint_at(&self, address: SocketAddr) -> Option<ServerEndpoint> {
        ServerEndpoint::ALL.into_iter().find(|&p| self.get(p) == Some(address))
    }

    /// What is wrong with the alternate address, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<AlternateFault> {
        self.fault
    }
}

fn index(endpoint: ServerEndpoint) -> usize {
    usize::from(endpoint.other_ip) * 2 + usize::from(endpoint.other_port)
}
