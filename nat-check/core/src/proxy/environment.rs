//! Proxies that the environment names, as curl and most programs read it: `ALL_PROXY`, `HTTPS_PROXY`, `http_proxy`, and `NO_PROXY`
//! for the hosts that are reached without. Pure: the variables are given.

use std::net::IpAddr;

use super::url::{ProxyUrl, ProxyUrlError};

/// What the environment says about proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// The proxies, each once, in the order in which programs look for them.
    pub found: Vec<Found>,
    /// Hosts that are reached without.
    exceptions: Vec<String>,
}

/// A variable that names a proxy, or should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The first variable that names it.
    pub variable: &'static str,
    /// The proxy, or why it is none.
    pub url: Result<ProxyUrl, ProxyUrlError>,
}

/// The variables. `HTTP_PROXY` in capitals is none: a web server sets it to what a request's `Proxy` field says (RFC 3875
/// section 4.1.18), and programs have been misled by that.
const VARIABLES: [&str; 5] = ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "http_proxy"];

impl Environment {
    /// An environment that says nothing.
    pub const EMPTY: Self = Self { found: Vec::new(), exceptions: Vec::new() };

    /// Reads the variables that `value_of` gives.
    pub fn read(value_of: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| value_of(name).filter(|value| !value.trim().is_empty());
        let mut found: Vec<Found> = Vec::new();
        for variable in VARIABLES {
            let Some(value) = set(variable) else { continue };
            let url = ProxyUrl::parse(value.trim());
            if !found.iter().any(|known| known.url == url) {
                found.push(Found { variable, url });
            }
        }
        let exceptions = ["NO_PROXY", "no_proxy"].into_iter().find_map(set).unwrap_or_default();
        let exceptions = exceptions
            .split([',', ' '])
            .map(|entry| entry.trim().to_ascii_lowercase())
            .filter(|entry| !entry.is_empty())
            .collect();
        Self { found, exceptions }
    }

    /// Whether programs reach this host without a proxy: `*` is every host, a name is that host and those below it, an address
    /// with a prefix length is a network.
    #[must_use]
    pub fn excepts(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ip: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        self.exceptions.iter().any(|entry| match (entry.as_str(), ip) {
            ("*", _) => true,
            (entry, Some(ip)) => covers(entry, ip),
            (entry, None) => {
                let name = entry.trim_start_matches('.').trim_end_matches('.');
                host == name || host.strip_suffix(name).is_some_and(|above| above.ends_with('.'))
            }
        })
    }
}

/// Whether an entry is this address, or a network that it belongs to.
fn covers(entry: &str, ip: IpAddr) -> bool {
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let (network, length) = match entry.split_once('/') {
        None => return bare(entry) == Ok(ip),
        Some((network, length)) => (bare(network), length.parse::<u32>()),
    };
    let (Ok(network), Ok(length)) = (network, length) else { return false };
    match (network, ip) {
        (IpAddr::V4(network), IpAddr::V4(ip)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            u32::from(network) & mask == u32::from(ip) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(ip)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            u128::from(network) & mask == u128::from(ip) & mask
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Environment {
        let value =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
        Environment::read(value)
    }

    #[test]
    fn each_proxy_is_found_once() {
        let environment = read(&[
            ("ALL_PROXY", "socks5h://127.0.0.1:1080"),
            ("https_proxy", "http://u:p@proxy.example:3128"),
            ("http_proxy", "http://u:p@proxy.example:3128"),
            ("HTTP_PROXY", "http://elsewhere.example"),
        ]);
        let shown: Vec<String> = environment
            .found
            .iter()
            .map(|it| format!("{} {}", it.variable, it.url.as_ref().unwrap()))
            .collect();
        assert_eq!(shown, ["ALL_PROXY socks5h://127.0.0.1:1080", "https_proxy http://proxy.example:3128"]);
        assert_eq!(read(&[("ALL_PROXY", " ")]), Environment::default());
        assert_eq!(read(&[("ALL_PROXY", "ftp://x")]).found[0].url, Err(ProxyUrlError::Scheme));
    }

    #[test]
    fn exceptions_are_names_addresses_and_networks() {
        let environment =
            read(&[("no_proxy", "localhost, .Example.org 192.168.0.0/16,[2001:db8::]/32,10.1.2.3")]);
        for host in ["localhost", "a.example.org", "EXAMPLE.org.", "192.168.7.1", "2001:db8:1::5", "10.1.2.3"]
        {
            assert!(environment.excepts(host), "{host}");
        }
        for host in ["notexample.org", "192.169.0.1", "10.1.2.4", "2001:db9::1", "other"] {
            assert!(!environment.excepts(host), "{host}");
        }
        assert!(read(&[("NO_PROXY", "*")]).excepts("any.example"));
        assert!(!read(&[]).excepts("any.example"));
    }
}
