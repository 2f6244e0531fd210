//! SOCKS5 as bytes (RFC 1928), with user name and password (RFC 1929), and the header of relayed datagrams (section 7).

use std::net::SocketAddr;

use super::{
    credentials::Credentials,
    wire::{Blames, Bound, Destination, Malformed, Read, destination_at, put_destination},
};

/// What a proxy is asked for (RFC 1928 section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Connect = 1,
    Bind = 2,
    UdpAssociate = 3,
}

/// How the proxy wants to know who asks (RFC 1928 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    NoAuthentication,
    Password,
    /// None of those that were offered.
    NoneAcceptable,
}

/// What a proxy answers to a request (RFC 1928 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// 0 is granted.
    pub(super) code: u8,
    /// The proxy's own endpoint.
    pub(super) bound: Bound,
}

const VERSION: u8 = 5;
/// Version of the negotiation of RFC 1929.
const LOGIN_VERSION: u8 = 1;
const NO_AUTHENTICATION: u8 = 0;
const PASSWORD: u8 = 2;

/// Offers what the client can do.
pub(super) fn greeting(with_password: bool) -> Vec<u8> {
    match with_password {
        true => vec![VERSION, 2, NO_AUTHENTICATION, PASSWORD],
        false => vec![VERSION, 1, NO_AUTHENTICATION],
    }
}

/// What the proxy chose of it.
pub(super) fn parse_choice(message: &[u8]) -> Result<Read<Method>, Malformed> {
    match message {
        [VERSION] | [] => Ok(Read::Needs(2)),
        [VERSION, NO_AUTHENTICATION, ..] => Ok(Read::Whole(Method::NoAuthentication)),
        [VERSION, PASSWORD, ..] => Ok(Read::Whole(Method::Password)),
        [VERSION, 0xff, ..] => Ok(Read::Whole(Method::NoneAcceptable)),
        _ => Err(Malformed),
    }
}

/// User name and password.
pub(super) fn login(credentials: &Credentials) -> Vec<u8> {
    let (user, password) = (credentials.user(), credentials.password());
    let mut message = vec![LOGIN_VERSION, user.len() as u8];
    message.extend(user);
    message.push(password.len() as u8);
    message.extend(password);
    message
}

/// Whether they were right. Some proxies answer with the version of SOCKS.
pub(super) fn parse_login(message: &[u8]) -> Result<Read<bool>, Malformed> {
    match message {
        [LOGIN_VERSION | VERSION] | [] => Ok(Read::Needs(2)),
        [LOGIN_VERSION | VERSION, status, ..] => Ok(Read::Whole(*status == 0)),
        _ => Err(Malformed),
    }
}

/// Asks for this.
pub(super) fn request(command: Command, to: &Destination) -> Vec<u8> {
    let mut message = vec![VERSION, command as u8, 0];
    put_destination(to, &mut message);
    message
}

/// What came of it.
pub(super) fn parse_reply(message: &[u8]) -> Result<Read<Reply>, Malformed> {
    match message {
        [VERSION, code, ..] => Ok(match destination_at(message, 3) {
            Ok(Read::Needs(length)) => Read::Needs(length),
            Ok(Read::Whole((bound, _))) => Read::Whole(Reply { code: *code, bound }),
            // Whoever refuses may leave out a sensible address.
            Err(Malformed) if *code != 0 => Read::Whole(Reply { code: *code, bound: Bound::default() }),
            Err(Malformed) => return Err(Malformed),
        }),
        [VERSION] | [] => Ok(Read::Needs(5)),
        _ => Err(Malformed),
    }
}

/// Why it was refused, in the words of RFC 1928 section 6.
pub(super) fn refusal(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "not allowed by its rules",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "time to live expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "a code that RFC 1928 does not know",
    }
}

/// What stands against it.
pub(super) fn blames(code: u8) -> Blames {
    match code {
        2 | 7 | 8 => Blames::Itself,
        3..=6 => Blames::Destination,
        _ => Blames::Nobody,
    }
}

/// A datagram for the relay.
pub(super) fn wrap(to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(LONGEST_HEADER + payload.len());
    datagram.extend([0, 0, WHOLE]);
    put_destination(&Destination::Address(to), &mut datagram);
    datagram.extend(payload);
    datagram
}

/// Header of a datagram with an IPv6 address.
pub(super) const LONGEST_HEADER: usize = 3 + 1 + 16 + 2;
/// The number of a fragment that is none.
const WHOLE: u8 = 0;

/// A datagram of the relay: who it says has sent it, and what. None for fragments, which RFC 1928 lets a client drop, and for
/// what is no such datagram.
pub(super) fn unwrap(datagram: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let [_, _, WHOLE, ..] = datagram else { return None };
    match destination_at(datagram, 3) {
        Ok(Read::Whole((from, end))) => Some((from.address()?, &datagram[end..])),
        Ok(Read::Needs(_)) | Err(Malformed) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_standard() {
        let to = Destination::Address("198.51.100.10:3478".parse().unwrap());
        assert_eq!(request(Command::Connect, &to), [5, 1, 0, 1, 198, 51, 100, 10, 0x0d, 0x96]);
        let name = Destination::name("a.example", 443).unwrap();
        assert_eq!(request(Command::Connect, &name), b"\x05\x01\x00\x03\x09a.example\x01\xbb");
        let six = Destination::Address("[2001:db8::1]:1".parse().unwrap());
        assert_eq!(request(Command::UdpAssociate, &six)[..8], [5, 3, 0, 4, 0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(login(&Credentials::new("u", "pw").unwrap()), b"\x01\x01u\x02pw");
        let datagram = wrap("198.51.100.10:3478".parse().unwrap(), b"x");
        assert_eq!(datagram, [0, 0, 0, 1, 198, 51, 100, 10, 0x0d, 0x96, b'x']);
    }

    #[test]
    fn fragments_and_names_of_relays_are_dropped() {
        let mut datagram = wrap("192.0.2.1:1".parse().unwrap(), b"x");
        assert!(unwrap(&datagram).is_some());
        datagram[2] = 1;
        assert_eq!(unwrap(&datagram), None);
        assert_eq!(unwrap(b"\0\0\0\x03\x01a\0\x01x"), None);
    }

    #[test]
    fn a_refusal_without_an_address_is_still_one() {
        let granted_nothing = [5, 0, 0, 9, 0, 0];
        assert_eq!(parse_reply(&granted_nothing), Err(Malformed));
        let refused = [5, 7, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(parse_reply(&refused), Ok(Read::Whole(Reply { code: 7, bound: Bound::default() })));
    }
}
