//! The description of a gateway (UPnP Device Architecture 2.0 section 2.3): which of its services opens ports.

use super::ssdp;

/// Services that open ports, the best first.
const TYPES: [&str; 5] = [
    WAN_IP_CONNECTION_2,
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
    // Of modems from before the standard was UPnP's.
    "urn:dslforum-org:service:WANIPConnection:1",
    "urn:dslforum-org:service:WANPPPConnection:1",
];
const WAN_IP_CONNECTION_2: &str = "urn:schemas-upnp-org:service:WANIPConnection:2";
/// The service that opens the firewall of a router for IPv6.
const FIREWALL_CONTROL: &str = "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1";
/// Elements that are read.
const MOST_NODES: u32 = 20_000;
/// Services that are considered.
const MOST_SERVICES: usize = 8;

/// A service that opens ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    /// Its type, one of ours.
    pub(super) kind: &'static str,
    /// Where its actions are called, at the address of the description.
    pub(super) path: String,
}

impl Service {
    /// Whether it opens the firewall for IPv6, and translates nothing.
    pub(super) fn opens_firewall(&self) -> bool {
        self.kind == FIREWALL_CONTROL
    }

    /// Whether it gives another port where the wished one is somebody else's.
    pub(super) fn chooses_ports(&self) -> bool {
        self.kind == WAN_IP_CONNECTION_2
    }
}

/// The services of a description that open ports for IPv4, or for IPv6, the best first.
pub(super) fn services(text: &str, v6: bool) -> Result<Vec<Service>, roxmltree::Error> {
    let types: &[&'static str] = if v6 { &[FIREWALL_CONTROL] } else { &TYPES };
    let document = parse(text)?;
    let elements = document.descendants().filter(|node| node.has_tag_name_of("service"));
    let mut services: Vec<(usize, Service)> = elements
        .filter_map(|element| {
            let child = |name| element.children().find(|node| node.has_tag_name_of(name))?.text();
            let kind = child("serviceType")?.trim();
            let rank = types.iter().position(|known| *known == kind)?;
            Some((rank, Service { kind: types[rank], path: control_path(child("controlURL")?.trim())? }))
        })
        .take(MOST_SERVICES)
        .collect();
    services.sort_by_key(|(rank, _)| *rank);
    Ok(services.into_iter().map(|(_, service)| service).collect())
}

/// A document of a gateway: no document types, and only so many elements.
pub(super) fn parse(text: &str) -> Result<roxmltree::Document<'_>, roxmltree::Error> {
    let options =
        roxmltree::ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..Default::default() };
    roxmltree::Document::parse_with_options(text.trim_start_matches(['\u{feff}', '\0']).trim(), options)
}

/// An element of this name, whatever its namespace: devices write all sorts.
pub(super) trait NamedNode {
    /// Whether it is one.
    fn has_tag_name_of(&self, name: &str) -> bool;
}

impl NamedNode for roxmltree::Node<'_, '_> {
    fn has_tag_name_of(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

/// The path of a control URL: of a whole URL only that part counts.
fn control_path(url: &str) -> Option<String> {
    let path = match url.get(..7) {
        Some(prefix) if prefix.eq_ignore_ascii_case("http://") => ssdp::split(url)?.1.to_owned(),
        _ if url.starts_with('/') => url.to_owned(),
        _ => format!("/{url}"),
    };
    ssdp::is_path(&path).then_some(path)
}
