//! SSDP (UPnP Device Architecture 2.0 section 1.3): the search for gateways, and what answers it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::printable::printable;

/// Where searches go.
pub(super) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
pub(super) const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc);
pub(super) const PORT: u16 = 1900;
/// What is searched for. Some devices answer for their first description only, so one general search does not do.
const TARGETS: [&str; 5] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// The same over IPv6, where firewalls are opened.
const TARGETS6: [&str; 2] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
];

/// What is searched for over this family.
pub(super) fn targets(v6: bool) -> &'static [&'static str] {
    if v6 { &TARGETS6 } else { &TARGETS }
}

/// A search (section 1.3.2).
pub(super) fn search(target: &str, v6: bool) -> String {
    let group: IpAddr = if v6 { GROUP6.into() } else { GROUP.into() };
    let host = SocketAddr::new(group, PORT);
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {host}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n")
}

/// An answer to a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The port and path of the description. At which address it lies is not taken from here.
    pub(super) port: u16,
    pub(super) path: String,
    /// The address that the answer names, which is only told.
    pub(super) named: IpAddr,
    /// What the device says it runs.
    pub(super) software: Option<String>,
}

/// Reads an answer; none where it is none, or names no description that could be read.
pub(super) fn read(datagram: &[u8]) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    head.parse(datagram).ok()?;
    if head.code != Some(200) {
        return None;
    }
    let field = |name: &str| {
        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
    };
    let target = field("st")?;
    if !TARGETS.contains(&target) && !TARGETS6.contains(&target) {
        return None;
    }
    let (named, path) = split(field("location")?)?;
    let software = field("server").filter(|text| !text.is_empty()).map(printable);
    Some(Answer { port: named.port(), path: path.to_owned(), named: named.ip(), software })
}

/// Address and path of a URL: http and a literal address only, so that nothing is looked up.
pub(super) fn split(url: &str) -> Option<(SocketAddr, &str)> {
    let prefix = url.get(..7).filter(|prefix| prefix.eq_ignore_ascii_case("http://"))?;
    let rest = &url[prefix.len()..];
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = if path.is_empty() { "/" } else { path };
    let at =
        authority.parse().or_else(|_| authority.parse().map(|ip: IpAddr| SocketAddr::new(ip, 80))).ok()?;
    (at.port() != 0 && is_path(path)).then_some((at, path))
}

/// Whether this can stand in the first line of a request.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|byte| byte.is_ascii_graphic())
}
