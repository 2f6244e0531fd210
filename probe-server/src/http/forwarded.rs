//! The address of a client behind reverse proxies: `Forwarded` (RFC 7239) and `X-Forwarded-For`, where they are to be
//! believed.

use std::net::{IpAddr, SocketAddr};

use hyper::{HeaderMap, header::FORWARDED};

use super::HttpOptions;

/// The address of who sent a request that came from `from`: that itself, unless it is a trusted proxy. Each proxy adds the
/// address that it got the request from at the end, so the last one that is no trusted proxy is the client's; all before
/// it may be made up. A client can also send the header that its proxy does not know: where both are there and do not
/// agree, neither is believed.
pub(super) fn client(from: IpAddr, headers: &HeaderMap, options: &HttpOptions) -> IpAddr {
    let from = from.to_canonical();
    if !options.is_proxy(from) {
        return from;
    }
    let all = |name: &str, read: fn(&str) -> Option<IpAddr>| -> Option<IpAddr> {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| value.to_str().unwrap_or("?")).collect();
        (!values.is_empty()).then(|| last_untrusted(from, &values.join(","), read, options))
    };
    match (all(FORWARDED.as_str(), forwarded_for), all("x-forwarded-for", address)) {
        (Some(one), Some(other)) if one != other => from,
        (Some(client), _) | (None, Some(client)) => client,
        (None, None) => from,
    }
}

/// Whether a request came from a proxy, or through one that says so. Then the address that it came from is the proxy's, and
/// what headers say of the client's may be made up.
pub(super) fn is_proxied(from: IpAddr, headers: &HeaderMap, options: &HttpOptions) -> bool {
    options.is_proxy(from) || SIGNS.iter().any(|name| headers.contains_key(*name))
}

/// What proxies add to a request (RFC 7239, RFC 9110 section 7.6.3, and what is in use beside them).
const SIGNS: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// Walks back from the proxy that we know, as far as each one is trusted.
fn last_untrusted(
    from: IpAddr,
    list: &str,
    read: fn(&str) -> Option<IpAddr>,
    options: &HttpOptions,
) -> IpAddr {
    let mut client = from;
    for element in list.rsplit(',') {
        // Whoever is not named is at least behind the last one that is.
        let Some(ip) = read(element.trim()) else { return client };
        client = ip;
        if !options.is_proxy(client) {
            return client;
        }
    }
    client
}

/// The address of `for` in an element of `Forwarded` (RFC 7239 section 4).
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let value = pairs.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?.1;
    address(value.trim().trim_matches('"'))
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let ip = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|at| at.ip()));
    ip.map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn options() -> HttpOptions {
        HttpOptions {
            trusted_proxies: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ..HttpOptions::default()
        }
    }

    fn all(headers: &[(&str, &str)]) -> HeaderMap {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        });
        let mut all = HeaderMap::new();
        headers.for_each(|(name, value)| _ = all.append(name, value));
        all
    }

    fn client_of(from: &str, headers: &[(&str, &str)]) -> String {
        client(from.parse().unwrap(), &all(headers), &options()).to_string()
    }

    #[test]
    fn a_proxy_is_known_by_its_address_and_by_what_it_adds_whatever_that_says() {
        let is_proxied =
            |from: &str, headers: &[_]| is_proxied(from.parse().unwrap(), &all(headers), &options());
        for from in [PROXY, "::ffff:10.0.0.1", "2001:db8::1"] {
            assert!(is_proxied(from, &[]), "{from}");
        }
        let host = "198.51.100.7";
        assert!(!is_proxied(host, &[("host", "probe"), ("user-agent", "x")]));
        for headers in [
            &[("x-forwarded-for", "198.51.100.7")][..],
            &[("x-forwarded-for", "")],
            &[("forwarded", "rubbish")],
            &[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "192.0.2.1")],
            &[("x-real-ip", "192.0.2.1")],
            &[("via", "1.1 proxy")],
        ] {
            assert!(is_proxied(host, headers), "{headers:?}");
        }
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let headers = [("x-forwarded-for", "192.0.2.1")];
        assert_eq!(client_of("198.51.100.7", &headers), "198.51.100.7");
        assert_eq!(client_of(PROXY, &headers), "192.0.2.1");
        assert_eq!(client_of("::ffff:10.0.0.1", &headers), "192.0.2.1");
        assert_eq!(client_of("2001:db8::1", &headers), "192.0.2.1");
        assert_eq!(client_of("2001:db8::2", &headers), "2001:db8::2");
        assert_eq!(client_of(PROXY, &[]), PROXY);
    }

    #[test]
    fn what_a_client_makes_up_is_not_believed() {
        for (headers, expected) in [
            (&[("x-forwarded-for", "1.1.1.1, 192.0.2.1")][..], "192.0.2.1"),
            (&[("x-forwarded-for", "1.1.1.1, 192.0.2.1, 10.9.9.9")], "192.0.2.1"),
            (&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            (&[("x-forwarded-for", "10.1.1.1,10.2.2.2")], "10.1.1.1"),
            (&[("x-forwarded-for", "192.0.2.1, rubbish")], PROXY),
            (&[("x-forwarded-for", "192.0.2.1, rubbish, 10.2.2.2")], "10.2.2.2"),
            (&[("x-forwarded-for", "192.0.2.1:4711")], "192.0.2.1"),
            (&[("x-forwarded-for", "[2001:db8::9]:4711")], "2001:db8::9"),
            (&[("x-forwarded-for", "2001:db8::9")], "2001:db8::9"),
            (&[("forwarded", "for=192.0.2.1;proto=http;by=10.0.0.1")], "192.0.2.1"),
            (&[("forwarded", "for=1.1.1.1, For=\"[2001:db8:cafe::17]:4711\"")], "2001:db8:cafe::17"),
            (&[("forwarded", "for=unknown")], PROXY),
            (&[("forwarded", "proto=https")], PROXY),
            (&[("forwarded", "for=192.0.2.1"), ("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            (&[("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "192.0.2.1")], PROXY),
            (&[("x-forwarded-for", "")], PROXY),
        ] {
            assert_eq!(client_of(PROXY, headers), expected, "{headers:?}");
        }
    }
}
