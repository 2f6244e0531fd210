//! What a proxy of HTTP is told and answers: CONNECT (RFC 9110 section 9.3.6) and the upgrade to proxied UDP (RFC 9298 section
//! 3.2).

use super::{
    credentials::Credentials,
    wire::{Blames, Destination, Malformed, Read},
};
use crate::printable::printable;

/// Longest head that is read.
pub(super) const LONGEST_HEAD: usize = 16 * 1024;
/// Header fields that are read.
const MOST_FIELDS: usize = 64;

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// What the proxy says that it is.
    pub(super) software: Option<String>,
    /// Whether a user name and a password would do (RFC 7617), as far as it names what it wants.
    pub(super) takes_password: bool,
}

/// Asks for a connection.
pub(super) fn connect(to: &Destination, credentials: Option<&Credentials>) -> String {
    let authorization = authorization(credentials);
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{authorization}\r\n")
}

/// Asks a proxy to become one for UDP.
pub(super) fn connect_udp(to: &Destination, proxy: &str, credentials: Option<&Credentials>) -> String {
    let (host, port) = match to {
        // The colons of IPv6 are escaped (RFC 9298 section 2).
        Destination::Address(address) => (address.ip().to_string().replace(':', "%3A"), address.port()),
        Destination::Name(name, port) => (String::from_utf8_lossy(name.as_bytes()).into_owned(), *port),
    };
    let authorization = authorization(credentials);
    format!(
        "GET /.well-known/masque/udp/{host}/{port}/ HTTP/1.1\r\nHost: {proxy}\r\nConnection: Upgrade\r\n\
         Upgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n{authorization}\r\n"
    )
}

fn authorization(credentials: Option<&Credentials>) -> String {
    credentials.map_or_else(String::new, |known| format!("Proxy-Authorization: Basic {}\r\n", known.basic()))
}

/// The head of the response. Nothing behind it is read: that belongs to whom the proxy connects to.
pub(super) fn parse_head(received: &[u8]) -> Result<Read<Head>, Malformed> {
    // The end of a head shows byte by byte.
    let more =
        if received.len() < LONGEST_HEAD { Ok(Read::Needs(received.len() + 1)) } else { Err(Malformed) };
    let ends = received.ends_with(b"\n");
    if !received.is_empty() && !ends {
        return if b"HTTP/1.".iter().zip(received).all(|(a, b)| a == b) { more } else { Err(Malformed) };
    }
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    match head.parse(received) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return more,
        Err(_) => return Err(Malformed),
    }
    let named = |name: &str| {
        let field = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        field.map(|field| printable(&String::from_utf8_lossy(field.value)))
    };
    let software = ["Proxy-Agent", "Via", "Server"].into_iter().find_map(named);
    let takes_password = takes_password(head.headers);
    Ok(Read::Whole(Head { status: head.code.unwrap_or_default(), software, takes_password }))
}

/// Whether Basic is among the schemes of authentication (RFC 9110 section 11.7.1), or none is named.
fn takes_password(fields: &[httparse::Header<'_>]) -> bool {
    const FIELDS: [&str; 2] = ["Proxy-Authenticate", "WWW-Authenticate"];
    let is_meant =
        |field: &&httparse::Header<'_>| FIELDS.into_iter().any(|name| field.name.eq_ignore_ascii_case(name));
    let is_basic = |challenge: &[u8]| {
        challenge.trim_ascii_start().get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
    };
    let mut named = fields.iter().filter(is_meant).peekable();
    named.peek().is_none() || named.any(|field| field.value.split(|byte| *byte == b',').any(is_basic))
}

/// What a status says of a request to connect (RFC 9110 section 15).
pub(super) fn refusal(status: u16) -> &'static str {
    match status {
        400 => "bad request",
        401 | 407 => "it wants a user name and a password",
        403 => "forbidden",
        404 => "not found",
        405 | 501 => "it does not connect",
        408 => "request timeout",
        429 => "too many requests",
        511 => "it wants a login on a page of its own",
        502 => "bad gateway: it does not reach the destination",
        503 => "service unavailable: it does not reach the destination",
        504 => "gateway timeout: it does not reach the destination",
        _ => "not granted",
    }
}

/// What stands against it.
pub(super) fn blames(status: u16) -> Blames {
    match status {
        502..=504 => Blames::Destination,
        // Redirections to a page, and what is true only now; some say 500 of destinations, too.
        100..400 | 408 | 429 | 500 | 511 => Blames::Nobody,
        _ => Blames::Itself,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_standards() {
        let to = Destination::Address("[2001:db8::1]:443".parse().unwrap());
        let credentials = Credentials::new("Aladdin", "open sesame").unwrap();
        assert_eq!(
            connect(&to, Some(&credentials)),
            "CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n\
             Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        );
        assert!(
            connect_udp(&to, "p:1", None)
                .starts_with("GET /.well-known/masque/udp/2001%3Adb8%3A%3A1/443/ HTTP/1.1\r\nHost: p:1\r\n")
        );
    }

    #[test]
    fn a_head_is_read_to_its_end_and_no_further() {
        let whole = b"HTTP/1.0 200 Connection established\r\nProxy-agent: tinyproxy/1.11.1\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse_head(&whole[..length]), Ok(Read::Needs(length + 1)), "{length}");
        }
        let software = Some("tinyproxy/1.11.1".into());
        let head = Head { status: 200, software, takes_password: true };
        assert_eq!(parse_head(whole), Ok(Read::Whole(head)));
    }

    #[test]
    fn which_authentication_is_wanted_is_read() {
        for (fields, takes_password) in [
            ("", true),
            ("Proxy-Authenticate: Basic realm=\"x\"\r\n", true),
            ("proxy-authenticate: Negotiate, NTLM, basic realm=x\r\n", true),
            ("Proxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic\r\n", true),
            ("Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n", false),
            ("Proxy-Authenticate: Digest realm=\"basic\"\r\n", false),
        ] {
            let head = format!("HTTP/1.1 407 x\r\n{fields}\r\n");
            let wanted = Head { status: 407, software: None, takes_password };
            assert_eq!(parse_head(head.as_bytes()), Ok(Read::Whole(wanted)), "{fields}");
        }
    }

    #[test]
    fn only_what_the_proxy_says_of_itself_is_a_refusal() {
        for status in [400, 403, 404, 405, 501] {
            assert_eq!(blames(status), Blames::Itself, "{status}");
        }
        for status in [101, 302, 307, 408, 429, 500, 511] {
            assert_eq!(blames(status), Blames::Nobody, "{status}");
        }
    }

    #[test]
    fn what_is_no_http_or_has_no_end_is_given_up() {
        assert_eq!(parse_head(b"S"), Err(Malformed));
        assert_eq!(parse_head(b"HTTP/1.x\n"), Err(Malformed));
        let endless = [&b"HTTP/1.1 200 "[..], &[b'x'; LONGEST_HEAD]].concat();
        assert_eq!(parse_head(&endless), Err(Malformed));
    }
}
