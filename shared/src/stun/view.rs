//! A borrowed reader of STUN messages, tolerant of content and strict about framing (RFC 8489 sections 5, 14).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{COOKIE, Class, Dialect, HEADER, TransactionId, attr, fingerprint};

/// Why bytes are no STUN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Fewer bytes than a header has.
    #[error("shorter than a STUN header")]
    Short,
    /// The two top bits are set: another protocol.
    #[error("the first two bits are not zero")]
    NotStun,
    /// The length field is no multiple of four or does not match the number of bytes.
    #[error("the length field does not fit the message")]
    Length,
    /// An attribute reaches over the end.
    #[error("an attribute reaches over the end of the message")]
    Attribute,
}

/// A message whose header and attribute lengths are known to fit. Reading it never fails or allocates; the
/// content of each attribute is judged only when it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    bytes: &'a [u8],
}

/// One attribute: number and value without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Attribute number, see [`attr`].
    pub number: u16,
    /// Its value.
    pub value: &'a [u8],
    /// Offset of its header from the start of the message.
    pub offset: usize,
}

/// The number in ERROR-CODE, 300 to 699.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ErrorCode(pub u16);

impl<'a> View<'a> {
    /// Reads one whole datagram.
    ///
    /// # Errors
    /// When the framing is not STUN's: nothing of it can then be trusted.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        if bytes.len() < HEADER {
            return Err(ParseError::Short);
        }
        if bytes[0] & 0xc0 != 0 {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16_at(bytes, 2));
        if length % 4 != 0 || length + HEADER != bytes.len() {
            return Err(ParseError::Length);
        }
        let mut at = HEADER;
        while at < bytes.len() {
            // The length is a multiple of four and so is `at`: four header bytes are there.
            at += 4 + padded(usize::from(u16_at(bytes, at + 2)));
        }
        if at == bytes.len() { Ok(Self { bytes }) } else { Err(ParseError::Attribute) }
    }

    /// The whole message.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The class.
    #[must_use]
    pub fn class(&self) -> Class {
        match u16_at(self.bytes, 0) & 0x0110 {
            0x0000 => Class::Request,
            0x0010 => Class::Indication,
            0x0100 => Class::Success,
            _ => Class::Error,
        }
    }

    /// The method; [`super::BINDING`] is the one that matters here.
    #[must_use]
    pub fn method(&self) -> u16 {
        let t = u16_at(self.bytes, 0);
        (t & 0x000f) | ((t & 0x00e0) >> 1) | ((t & 0x3e00) >> 2)
    }

    /// The transaction id.
    #[must_use]
    pub fn id(&self) -> TransactionId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[4..HEADER]);
        TransactionId(id)
    }

    /// The dialect: modern where the magic cookie stands.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        if self.bytes[4..8] == COOKIE.to_be_bytes() { Dialect::Modern } else { Dialect::Classic }
    }

    /// All attributes in order, unknown ones included.
    #[must_use]
    pub fn attributes(&self) -> Attributes<'a> {
        Attributes { bytes: self.bytes, at: HEADER }
    }

    /// The value of the first attribute with this number; later ones are to be ignored (RFC 8489 section 14).
    #[must_use]
    pub fn find(&self, number: u16) -> Option<&'a [u8]> {
        self.attributes().find(|a| a.number == number).map(|a| a.value)
    }

    /// An attribute in MAPPED-ADDRESS format.
    #[must_use]
    pub fn address(&self, number: u16) -> Option<SocketAddr> {
        decode_address(self.find(number)?)
    }

    /// An attribute in XOR-MAPPED-ADDRESS format.
    #[must_use]
    pub fn xor_address(&self, number: u16) -> Option<SocketAddr> {
        decode_address(self.find(number)?).map(|masked| unmask(masked, &self.id()))
    }

    /// XOR-MAPPED-ADDRESS, also under the number that it had before RFC 5389.
    ///
    /// Classic answers have no standard for it: there is no cookie, and servers of that time (Vovida's stund) XOR with
    /// the first bytes of the transaction id instead. There it counts only where one of the two forms confirms
    /// MAPPED-ADDRESS.
    #[must_use]
    pub fn xor_mapped(&self) -> Option<SocketAddr> {
        let masked = self.find(attr::XOR_MAPPED_ADDRESS).or_else(|| self.find(attr::XOR_MAPPED_ADDRESS_OLD));
        let masked = decode_address(masked?)?;
        let by_cookie = unmask(masked, &self.id());
        match self.dialect() {
            Dialect::Modern => Some(by_cookie),
            Dialect::Classic => {
                let mapped = self.address(attr::MAPPED_ADDRESS)?;
                [by_cookie, unmask_by_id(masked, &self.id())].contains(&mapped).then_some(mapped)
            }
        }
    }

    /// The address under which the server saw the request: XORed where present, in clear otherwise.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.xor_mapped().or_else(|| self.address(attr::MAPPED_ADDRESS))
    }

    /// The server's other address: OTHER-ADDRESS, or CHANGED-ADDRESS of RFC 3489, which classic servers send in
    /// either dialect.
    #[must_use]
    pub fn other_address(&self) -> Option<SocketAddr> {
        self.address(attr::OTHER_ADDRESS).or_else(|| self.address(attr::CHANGED_ADDRESS))
    }

    /// Where the answer was sent from: RESPONSE-ORIGIN, or SOURCE-ADDRESS of RFC 3489.
    #[must_use]
    pub fn response_origin(&self) -> Option<SocketAddr> {
        self.address(attr::RESPONSE_ORIGIN).or_else(|| self.address(attr::SOURCE_ADDRESS))
    }

    /// An attribute of four bytes.
    #[must_use]
    pub fn u32(&self, number: u16) -> Option<u32> {
        self.find(number)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The port in RESPONSE-PORT, in its 2-byte and its 4-byte form; `None` also for other lengths.
    #[must_use]
    pub fn response_port(&self) -> Option<u16> {
        let value = self.find(attr::RESPONSE_PORT)?;
        matches!(value.len(), 2 | 4).then(|| u16_at(value, 0))
    }

    /// The number in ERROR-CODE.
    #[must_use]
    pub fn error(&self) -> Option<ErrorCode> {
        match self.find(attr::ERROR_CODE)? {
            [_, _, class, number, ..] => {
                Some(ErrorCode(u16::from(class & 7) * 100 + u16::from(*number % 100)))
            }
            _ => None,
        }
    }

    /// Whether FINGERPRINT is right; `None` where there is none. It must be the last attribute.
    #[must_use]
    pub fn fingerprint(&self) -> Option<bool> {
        let found = self.attributes().find(|a| a.number == attr::FINGERPRINT)?;
        let right = found.offset + 8 == self.bytes.len()
            && found.value == fingerprint(&self.bytes[..found.offset]).to_be_bytes();
        Some(right)
    }
}

/// Iterator over the attributes of a [`View`].
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.at;
        let header = self.bytes.get(offset..offset + 4)?;
        let length = usize::from(u16_at(header, 2));
        let value = self.bytes.get(offset + 4..offset + 4 + length)?;
        self.at = offset + 4 + padded(length);
        Some(Attribute { number: u16_at(header, 0), value, offset })
    }
}

fn decode_address(value: &[u8]) -> Option<SocketAddr> {
    let port = match value {
        [_, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => return None,
    };
    let ip = match (value[1], value.len()) {
        (1, 8) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&value[4..]).ok()?)),
        (2, 20) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&value[4..]).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Masks an address as XOR-MAPPED-ADDRESS does, or takes the mask off: it is its own inverse.
pub(super) fn unmask(address: SocketAddr, id: &TransactionId) -> SocketAddr {
    unmask_with(COOKIE.to_be_bytes(), address, id)
}

/// The same as classic servers do it, with the first bytes of the transaction id in the place of the cookie.
fn unmask_by_id(address: SocketAddr, id: &TransactionId) -> SocketAddr {
    let [a, b, c, d, ..] = id.0;
    unmask_with([a, b, c, d], address, id)
}

fn unmask_with(cookie: [u8; 4], address: SocketAddr, id: &TransactionId) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) => {
            let mut octets = ip.octets();
            octets.iter_mut().zip(cookie).for_each(|(o, m)| *o ^= m);
            IpAddr::from(octets)
        }
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            let mask = cookie.iter().chain(&id.0[4..]);
            octets.iter_mut().zip(mask).for_each(|(o, m)| *o ^= m);
            IpAddr::from(octets)
        }
    };
    SocketAddr::new(ip, address.port() ^ u16::from_be_bytes([cookie[0], cookie[1]]))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

const fn padded(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stun::Writer;

    /// A classic answer that shows `mapped` in clear, and `masked` under XOR-MAPPED-ADDRESS as it stands.
    fn classic(mapped: &str, masked: SocketAddr) -> Option<SocketAddr> {
        let mut bytes = [0; 64];
        let mut writer = Writer::new(&mut bytes, Class::Success, &ID);
        writer.address(attr::MAPPED_ADDRESS, mapped.parse().unwrap());
        let length = writer.address(attr::XOR_MAPPED_ADDRESS, masked).finish().unwrap();
        View::parse(&bytes[..length]).unwrap().xor_mapped()
    }

    const ID: TransactionId = TransactionId([0xde, 0xad, 0xbe, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    #[test]
    fn classic_servers_xor_with_the_transaction_id() {
        // As stund 0.97 answered on the wire: 198.51.100.10:53497, id de ad be ef ...
        let seen: SocketAddr = "198.51.100.10:53497".parse().unwrap();
        assert_eq!(classic("198.51.100.10:53497", "24.158.218.229:3668".parse().unwrap()), Some(seen));
        assert_eq!(classic("198.51.100.10:53497", unmask(seen, &ID)), Some(seen), "with the cookie");
        assert_eq!(classic("198.51.100.10:53497", seen), None, "not XORed at all");
        assert_eq!(classic("192.168.1.2:53497", "24.158.218.229:3668".parse().unwrap()), None, "rewritten");
    }
}
