//! How a server tells a client that came without TLS where the same is served over TLS: `Alt-Svc` (RFC 7838) in the
//! answer that opens the WebSocket, before the client has said anything.

/// The protocol of an alternative: HTTP/1.1 over TLS, by its ALPN name, percent-encoded (RFC 7838 section 3).
const PROTOCOL: &str = "http%2F1.1";

/// The value of `Alt-Svc` that offers this port of the same host.
#[must_use]
pub fn tls_offer(port: u16) -> String {
    format!("{PROTOCOL}=\":{port}\"")
}

/// The port that a value of `Alt-Svc` offers. Other hosts and protocols are skipped.
#[must_use]
pub fn offered_tls(value: &str) -> Option<u16> {
    value.split(',').find_map(|alternative| {
        let (protocol, authority) = alternative.split(';').next()?.trim().split_once('=')?;
        let port = authority.strip_prefix("\":")?.strip_suffix('"')?;
        let is_port = port.bytes().all(|digit| digit.is_ascii_digit());
        let port = port.parse().ok().filter(|port| is_port && *port != 0);
        port.filter(|_| protocol.eq_ignore_ascii_case(PROTOCOL))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_read_and_anything_else_is_none() {
        assert_eq!(offered_tls(&tls_offer(5349)), Some(5349));
        assert_eq!(offered_tls("h2=\":443\"; ma=60, http%2f1.1=\":5349\"; ma=60"), Some(5349));
        for none in [
            "",
            "clear",
            "http%2F1.1",
            "http%2F1.1=\":0\"",
            "http%2F1.1=\":+5\"",
            "http%2F1.1=\":65536\"",
            "http%2F1.1=\"other.example:5349\"",
            "http%2F1.1=5349",
            "h2=\":443\"",
        ] {
            assert_eq!(offered_tls(none), None, "{none}");
        }
    }
}
