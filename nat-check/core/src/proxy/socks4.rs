//! SOCKS4 and its extension for names, SOCKS4a, as bytes. No RFC describes them: the protocol is that of Ying-Da Lee's "SOCKS: A
//! protocol for TCP proxy across firewalls", and of "SOCKS 4A" by the same.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{
    credentials::Credentials,
    wire::{Blames, Destination, Malformed, Read},
};

/// What a proxy is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Connect = 1,
    Bind = 2,
}

/// What a proxy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// 90 is granted.
    pub(super) code: u8,
    /// The proxy's own endpoint, for BIND.
    pub(super) bound: SocketAddr,
}

/// The code of what is granted.
pub(super) const GRANTED: u8 = 90;

const VERSION: u8 = 4;
/// An address that stands for a name behind the message.
const NAME_FOLLOWS: [u8; 4] = [0, 0, 0, 1];

/// Asks for this; none for IPv6, which the protocol does not have.
pub(super) fn request(
    command: Command,
    to: &Destination,
    credentials: Option<&Credentials>,
) -> Option<Vec<u8>> {
    let (octets, port, name) = match to {
        Destination::Address(address) => match address.ip() {
            IpAddr::V4(ip) => (ip.octets(), address.port(), None),
            IpAddr::V6(_) => return None,
        },
        Destination::Name(name, port) => (NAME_FOLLOWS, *port, Some(name)),
    };
    let mut message = vec![VERSION, command as u8];
    message.extend(port.to_be_bytes());
    message.extend(octets);
    message.extend(credentials.map_or(&[][..], Credentials::user));
    message.push(0);
    if let Some(name) = name {
        message.extend(name.as_bytes());
        message.push(0);
    }
    Some(message)
}

/// What came of it.
pub(super) fn parse_reply(message: &[u8]) -> Result<Read<Reply>, Malformed> {
    match message {
        [0, code, high, low, a, b, c, d, ..] => {
            let ip = Ipv4Addr::new(*a, *b, *c, *d);
            let bound = SocketAddr::new(ip.into(), u16::from_be_bytes([*high, *low]));
            Ok(Read::Whole(Reply { code: *code, bound }))
        }
        [] | [0, ..] => Ok(Read::Needs(8)),
        _ => Err(Malformed),
    }
}

/// Why it was refused.
pub(super) fn refusal(code: u8) -> &'static str {
    match code {
        91 => "rejected or failed",
        92 => "it cannot reach identd on this host",
        93 => "identd on this host names another user",
        _ => "a code that SOCKS4 does not know",
    }
}

/// What stands against it: that a request was rejected and that it failed are one code.
pub(super) fn blames(code: u8) -> Blames {
    match code {
        92 | 93 => Blames::Itself,
        _ => Blames::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        let to = Destination::Address("198.51.100.10:80".parse().unwrap());
        let user = Credentials::new("fred", "").unwrap();
        let wanted = b"\x04\x01\x00\x50\xc6\x33\x64\x0afred\0";
        assert_eq!(request(Command::Connect, &to, Some(&user)).unwrap(), wanted);
        let name = Destination::name("a.example", 80).unwrap();
        let wanted = b"\x04\x02\x00\x50\0\0\0\x01\0a.example\0";
        assert_eq!(request(Command::Bind, &name, None).unwrap(), wanted);
        let six = Destination::Address("[2001:db8::1]:1".parse().unwrap());
        assert_eq!(request(Command::Connect, &six, None), None);
    }
}
