//! PCP as bytes (RFC 6887 sections 7 and 11): the opcodes ANNOUNCE and MAP.

use std::net::{IpAddr, Ipv6Addr};

use super::{Transport, bytes, u16_at, u32_at};

/// The version of the protocol.
pub const VERSION: u8 = 2;
/// The longest message (section 7).
pub const LONGEST: usize = 1100;
/// Result code of a gateway that knows no PCP (section 7.4).
pub const UNSUPP_VERSION: u8 = 1;
/// Result code of a gateway that does not allow this, or not with this nonce (sections 7.4 and 11.1).
pub const NOT_AUTHORIZED: u8 = 2;
/// Result code of a gateway that sees the client with another address than it names: a NAT stands in between (section 8.2).
pub const ADDRESS_MISMATCH: u8 = 12;

const HEADER: usize = 24;
const RESPONSE: u8 = 0x80;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// For how many seconds; 0 ends a mapping.
    pub lifetime: u32,
    /// The address that the client believes to send from.
    pub client: IpAddr,
    /// What.
    pub operation: Operation,
}

/// What a gateway says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Zero is success (section 7.4).
    pub result: u8,
    /// For how many seconds.
    pub lifetime: u32,
    /// Seconds since the gateway lost its mappings (section 8.5).
    pub epoch: u32,
    /// What it answers to.
    pub operation: Operation,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing: only the epoch is told (section 14.1).
    Announce,
    /// A mapping (section 11).
    Map(Map),
}

/// A mapping, as it is asked for or granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Whoever knows it may change the mapping.
    pub nonce: [u8; 12],
    /// Of which transport.
    pub transport: Transport,
    /// The client's port.
    pub internal: u16,
    /// The external port that is asked for, or granted.
    pub external: u16,
    /// The external address that is asked for, or granted; unspecified for any.
    pub external_address: IpAddr,
}

impl Operation {
    const fn opcode(&self) -> u8 {
        match self {
            Self::Announce => ANNOUNCE,
            Self::Map(_) => MAP,
        }
    }

    fn write(&self, message: &mut Vec<u8>) {
        let Self::Map(map) = self else { return };
        message.extend(map.nonce);
        message.extend([map.transport.number(), 0, 0, 0]);
        message.extend(map.internal.to_be_bytes());
        message.extend(map.external.to_be_bytes());
        message.extend(sixteen(map.external_address));
    }

    fn read(opcode: u8, message: &[u8]) -> Option<Self> {
        match opcode {
            ANNOUNCE => Some(Self::Announce),
            MAP => Some(Self::Map(Map {
                nonce: bytes(message, HEADER)?,
                transport: Transport::of_number(*message.get(HEADER + 12)?)?,
                internal: u16_at(message, HEADER + 16)?,
                external: u16_at(message, HEADER + 18)?,
                external_address: address(bytes(message, HEADER + 20)?),
            })),
            _ => None,
        }
    }
}

impl Request {
    /// The request as bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut message = vec![VERSION, self.operation.opcode(), 0, 0];
        message.extend(self.lifetime.to_be_bytes());
        message.extend(sixteen(self.client));
        self.operation.write(&mut message);
        message
    }

    /// Reads a request; none where it is no request of this protocol, or of another opcode.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let [VERSION, opcode] = *message.first_chunk()? else { return None };
        if !has_sound_length(message) {
            return None;
        }
        Some(Self {
            lifetime: u32_at(message, 4)?,
            client: address(bytes(message, 8)?),
            operation: Operation::read(opcode, message)?,
        })
    }

    /// Whether this is an answer to it (sections 8.3 and 11.4).
    #[must_use]
    pub fn is_answered_by(&self, response: &Response) -> bool {
        match (self.operation, response.operation) {
            (Operation::Announce, Operation::Announce) => true,
            (Operation::Map(asked), Operation::Map(answered)) => {
                (asked.nonce, asked.transport, asked.internal)
                    == (answered.nonce, answered.transport, answered.internal)
            }
            _ => false,
        }
    }
}

impl Response {
    /// The response as bytes.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut message = vec![VERSION, RESPONSE | self.operation.opcode(), 0, self.result];
        message.extend(self.lifetime.to_be_bytes());
        message.extend(self.epoch.to_be_bytes());
        message.extend([0; 12]);
        self.operation.write(&mut message);
        message
    }

    /// Reads a response; none where it is no response of this protocol, or of another opcode.
    #[must_use]
    pub fn read(message: &[u8]) -> Option<Self> {
        let [VERSION, opcode] = *message.first_chunk()? else { return None };
        if opcode & RESPONSE == 0 || !has_sound_length(message) {
            return None;
        }
        Some(Self {
            result: *message.get(3)?,
            lifetime: u32_at(message, 4)?,
            epoch: u32_at(message, 8)?,
            operation: Operation::read(opcode & !RESPONSE, message)?,
        })
    }
}

/// Section 8.3: otherwise a message is ignored.
fn has_sound_length(message: &[u8]) -> bool {
    (HEADER..=LONGEST).contains(&message.len()) && message.len().is_multiple_of(4)
}

/// An address in 16 bytes, of IPv4 in the form `::ffff:a.b.c.d` (section 5).
fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn address(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

/// The name of a result code (section 7.4).
#[must_use]
pub fn result_name(result: u8) -> String {
    let names = [
        "SUCCESS",
        "UNSUPP_VERSION",
        "NOT_AUTHORIZED",
        "MALFORMED_REQUEST",
        "UNSUPP_OPCODE",
        "UNSUPP_OPTION",
        "MALFORMED_OPTION",
        "NETWORK_FAILURE",
        "NO_RESOURCES",
        "UNSUPP_PROTOCOL",
        "USER_EX_QUOTA",
        "CANNOT_PROVIDE_EXTERNAL",
        "ADDRESS_MISMATCH",
        "EXCESSIVE_REMOTE_PEERS",
    ];
    names.get(usize::from(result)).map_or_else(|| format!("result code {result}"), |name| (*name).into())
}
