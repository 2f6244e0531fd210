//! What an operator allows over HTTP.

use std::{net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// Nobody but the client itself is believed, and no page may open a WebSocket, by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpOptions {
    /// Reverse proxies: what they say of the client's address is believed.
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Origins whose pages may open a WebSocket, such as `https://example.org`.
    pub allowed_origins: Vec<String>,
}

impl HttpOptions {
    /// Whether this is the address of a trusted proxy.
    #[must_use]
    pub fn is_proxy(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted_proxies.iter().any(|proxy| proxy.0.contains(&ip))
    }
}

/// An address, or a network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrustedProxy(IpNet);

impl FromStr for TrustedProxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        network
            .map(Self)
            .ok_or_else(|| format!("'{text}' is neither an IP address nor a network such as 10.0.0.0/8"))
    }
}
