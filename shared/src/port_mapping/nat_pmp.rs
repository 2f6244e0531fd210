//! NAT-PMP as bytes (RFC 6886 section 3).

use std::net::Ipv4Addr;

use super::{Transport, bytes, u16_at, u32_at};

/// The version of the protocol.
pub const VERSION: u8 = 0;
/// Result of a gateway that does not know the version of a request (section 3.5).
pub const UNSUPPORTED_VERSION: u16 = 1;
/// Added to the opcode in a response.
const RESPONSE: u8 = 128;
const EXTERNAL_ADDRESS: u8 = 0;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The external address (section 3.2).
    ExternalAddress,
    /// A mapping (section 3.3); with a lifetime of 0 its end (section 3.4).
    Map {
        /// Of which transport.
        transport: Transport,
        /// The client's port.
        internal: u16,
        /// The external port that it would like.
        external: u16,
        /// For how many seconds.
        lifetime: u32,
    },
}

/// What a gateway says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Zero is success (section 3.5).
    pub result: u16,
    /// Seconds since the gateway lost its mappings (section 3.6).
    pub epoch: u32,
    /// The rest, which counts where the result is success.
    pub body: Body,
}

/// What a response tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// The external address; unspecified where there is none.
    ExternalAddress(Ipv4Addr),
    /// A mapping.
    Map {
        /// Of which transport.
        transport: Transport,
        /// The client's port.
        internal: u16,
        /// The external port that it got.
        external: u16,
        /// For how many seconds.
        lifetime: u32,
    },
    /// Nothing: some gateways send an error without the rest.
    Nothing,
}

const fn opcode(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
    }
}

const fn transport(opcode: u8) -> Option<Transport> {
    match opcode {
        1 => Some(Transport::Udp),
        2 => Some(Transport::Tcp),
        _ => None,
    }
}

impl Request {
    /// The request as bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        match *self {
            Self::ExternalAddress => vec![VERSION, EXTERNAL_ADDRESS],
            Self::Map { transport, internal, external, lifetime } => {
                let mut message = vec![VERSION, opcode(transport), 0, 0];
                message.extend(internal.to_be_bytes());
                message.extend(external.to_be_bytes());
                message.extend(lifetime.to_be_bytes());
                message
            }
        }
    }

    /// Reads a request; none where it is no request of this protocol.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        match *message.first_chunk()? {
            [VERSION, EXTERNAL_ADDRESS] => Some(Self::ExternalAddress),
            [VERSION, opcode] => Some(Self::Map {
                transport: transport(opcode)?,
                internal: u16_at(message, 4)?,
                external: u16_at(message, 6)?,
                lifetime: u32_at(message, 8)?,
            }),
            _ => None,
        }
    }

    /// Whether this is an answer to it.
    #[must_use]
    pub fn is_answered_by(&self, response: &Response) -> bool {
        match (*self, response.body) {
            (Self::ExternalAddress, Body::ExternalAddress(_)) => true,
            (
                Self::Map { transport, internal, .. },
                Body::Map { transport: its_transport, internal: its_internal, .. },
            ) => transport == its_transport && internal == its_internal,
            (_, Body::Nothing) => response.result != 0,
            _ => false,
        }
    }
}

impl Response {
    /// The response as bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let opcode = match self.body {
            Body::ExternalAddress(_) | Body::Nothing => EXTERNAL_ADDRESS,
            Body::Map { transport, .. } => opcode(transport),
        };
        let mut message = vec![VERSION, RESPONSE + opcode];
        message.extend(self.result.to_be_bytes());
        message.extend(self.epoch.to_be_bytes());
        match self.body {
            Body::ExternalAddress(address) => message.extend(address.octets()),
            Body::Map { internal, external, lifetime, .. } => {
                message.extend(internal.to_be_bytes());
                message.extend(external.to_be_bytes());
                message.extend(lifetime.to_be_bytes());
            }
            Body::Nothing => {}
        }
        message
    }

    /// Reads a response; none where it is no response of this protocol.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let [VERSION, opcode] = *message.first_chunk()? else { return None };
        let opcode = opcode.checked_sub(RESPONSE)?;
        let (result, epoch) = (u16_at(message, 2)?, u32_at(message, 4).unwrap_or_default());
        let body = match opcode {
            EXTERNAL_ADDRESS => bytes(message, 8).map(|octets: [u8; 4]| Body::ExternalAddress(octets.into())),
            _ => map_body(opcode, message),
        };
        match body {
            Some(body) => Some(Self { result, epoch, body }),
            None if result != 0 => Some(Self { result, epoch, body: Body::Nothing }),
            None => None,
        }
    }
}

fn map_body(opcode: u8, message: &[u8]) -> Option<Body> {
    Some(Body::Map {
        transport: transport(opcode)?,
        internal: u16_at(message, 8)?,
        external: u16_at(message, 10)?,
        lifetime: u32_at(message, 12)?,
    })
}

/// The name of a result (section 3.5).
#[must_use]
pub fn result_name(result: u16) -> String {
    let name = match result {
        0 => "success",
        1 => "unsupported version",
        2 => "not authorized or refused",
        3 => "network failure",
        4 => "out of resources",
        5 => "unsupported opcode",
        _ => return format!("result {result}"),
    };
    name.into()
}
