//! A laboratory, described: routers with NATs, hosts on their LANs, hosts on the Internet, and what changes while it runs.
//! Built step by step, or read from a TOML file.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use natlab::topology::Topology;
//!
//! let topology = Topology::new()
//!     .router("carrier", "symmetric")
//!     .router("home", "linux").behind("carrier")
//!     .router("office", "port-restricted-cone").line("delay=20ms loss=1% rate=50mbit")
//!     .host("alice", "home")
//!     .host("bob", "office")
//!     .internet("relay");
//! topology.check().unwrap();
//! # }
//! ```

mod change;
mod draw;
mod file;
pub(crate) mod line;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::time::Duration;

use shared::nat::model::Stack;

pub use crate::network::shaper::{LinkSpec, Queue, Rate};
use crate::{LabError, address::Subnet};
pub use change::{Change, Order};
pub use file::shell_words;

/// A laboratory, described. Mistakes are kept until [`Topology::check`] or the building names the first one.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    pub(crate) families: Families,
    pub(crate) seed: u64,
    pub(crate) routers: Vec<Router>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) schedule: Vec<Scheduled>,
    mistake: Option<String>,
}

/// The IP families that hosts have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6: filtered, but not translated by the NATs.
    pub v6: bool,
}

impl Families {
    /// IPv4 alone.
    pub const V4: Self = Self { v4: true, v6: false };
    /// IPv6 alone.
    pub const V6: Self = Self { v4: false, v6: true };
    /// Both.
    pub const DUAL: Self = Self { v4: true, v6: true };

    /// For each family that there is whether it is IPv6, IPv4 first.
    pub fn all(self) -> impl Iterator<Item = bool> {
        [(self.v4, false), (self.v6, true)].into_iter().filter(|(has, _)| *has).map(|(_, v6)| v6)
    }
}

/// A router with one NAT or several in a row, and its line.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Router {
    pub(crate) name: String,
    pub(crate) nat: Stack,
    /// The router whose LAN its outside is on; none = the Internet.
    pub(crate) behind: Option<String>,
    pub(crate) line: LinkSpec,
}

/// A host and what it runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Host {
    pub(crate) name: String,
    /// Its interfaces, eth0 first; one with no router is on the Internet.
    pub(crate) on: Vec<Attachment>,
    /// The program that it runs from the start: words.
    pub(crate) run: Option<Vec<String>>,
}

/// An interface of a host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attachment {
    pub(crate) router: Option<String>,
    /// Destinations that this interface is for, besides its LAN; the first interface has the default route.
    pub(crate) routes: Vec<Subnet>,
}

/// A change and its time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scheduled {
    pub(crate) after: Duration,
    pub(crate) order: Order,
}

/// The most hosts on the Internet: 198.51.100.20 to .29.
pub const INTERNET_HOSTS: usize = 10;

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl Topology {
    /// A laboratory with a probe server and an echo service on the Internet, and nothing else; IPv4 alone.
    #[must_use]
    pub fn new() -> Self {
        let (families, seed) = (Families::V4, 1);
        Self { families, seed, routers: Vec::new(), hosts: Vec::new(), schedule: Vec::new(), mistake: None }
    }

    /// The families that hosts have.
    #[must_use]
    pub fn families(self, families: Families) -> Self {
        Self { families, ..self }
    }

    /// What random ports and losses follow from.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// A router on the Internet. The NAT is a name or settings, or several in a row, the innermost first
    /// (`linux+symmetric`).
    #[must_use]
    pub fn router(mut self, name: &str, nat: &str) -> Self {
        match nat.parse() {
            Ok(nat) => self.router_of(name, nat, LinkSpec::perfect()),
            Err(e) => {
                self.note(format!("router {name}: {e}"));
                self
            }
        }
    }

    /// The router added last gets its outside on the LAN of another one.
    #[must_use]
    pub fn behind(mut self, router: &str) -> Self {
        match self.routers.last_mut() {
            Some(last) => last.behind = Some(router.to_owned()),
            None => self.note(format!("behind {router}: there is no router yet")),
        }
        self
    }

    /// The line of the router added last: `delay=20ms jitter=5ms loss=1% burst=3 rate=50mbit queue=64kB`.
    #[must_use]
    pub fn line(mut self, words: &str) -> Self {
        let parsed = line::parse(words);
        match (self.routers.last_mut(), parsed) {
            (Some(last), Ok(line)) => last.line = line,
            (None, Ok(_)) => self.note("line: there is no router yet".to_owned()),
            (_, Err(e)) => self.note(e.to_string()),
        }
        self
    }

    /// A host on the LAN of a router.
    #[must_use]
    pub fn host(self, name: &str, router: &str) -> Self {
        self.add_host(name, Some(router))
    }

    /// A host on the Internet, for a server of one's own.
    #[must_use]
    pub fn internet(self, name: &str) -> Self {
        self.add_host(name, None)
    }

    /// A further interface of the host added last, on the LAN of another router, for these destinations: a second
    /// provider, or a VPN (`198.51.100.0/24`).
    #[must_use]
    pub fn also_on(mut self, router: &str, routes: &[&str]) -> Self {
        let routes: Result<Vec<Subnet>, _> = routes.iter().map(|route| route.parse()).collect();
        match (self.hosts.last_mut(), routes) {
            (Some(host), Ok(routes)) => host.on.push(Attachment { router: Some(router.to_owned()), routes }),
            (None, Ok(_)) => self.note(format!("also on {router}: there is no host yet")),
            (_, Err(e)) => self.note(format!("also on {router}: {e}")),
        }
        self
    }

    /// The program that the host added last runs from the start.
    #[must_use]
    pub fn run<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        match self.hosts.last_mut() {
            Some(host) => host.run = Some(words.into_iter().map(Into::into).collect()),
            None => self.note("run: there is no host yet".to_owned()),
        }
        self
    }

    /// Changes something while the laboratory runs, see [`Order`]: `home restart`, `alice on=office`.
    #[must_use]
    pub fn at(mut self, after: Duration, order: &str) -> Self {
        match order.parse() {
            Ok(order) => self.schedule.push(Scheduled { after, order }),
            Err(e) => self.note(format!("after {after:?}: {e}")),
        }
        self
    }

    /// Reads a TOML file.
    ///
    /// # Errors
    /// A sentence that says what is wrong and where.
    pub fn read(text: &str) -> Result<Self, LabError> {
        file::read(text)
    }

    /// Names the first mistake: a name that does not exist or exists twice, a ring of routers, too many of something.
    ///
    /// # Errors
    /// With the mistake.
    pub fn check(&self) -> Result<(), LabError> {
        plan::plan(self).map(drop)
    }

    /// The names of all hosts, in their order.
    #[must_use]
    pub fn host_names(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.name.clone()).collect()
    }

    /// The programs that hosts run from the start, by host number.
    #[must_use]
    pub fn programs(&self) -> Vec<(usize, Vec<String>)> {
        let of = |(number, host): (usize, &Host)| host.run.clone().map(|words| (number, words));
        self.hosts.iter().enumerate().filter_map(of).collect()
    }

    /// The numbers of the hosts on the Internet.
    #[must_use]
    pub fn internet_hosts(&self) -> Vec<usize> {
        let outside = |host: &Host| host.on.iter().all(|on| on.router.is_none());
        (0..self.hosts.len()).filter(|number| outside(&self.hosts[*number])).collect()
    }

    /// A router on the Internet, from values instead of words.
    #[must_use]
    pub fn router_of(mut self, name: &str, nat: Stack, line: LinkSpec) -> Self {
        self.routers.push(Router { name: name.to_owned(), nat, behind: None, line });
        self
    }

    /// A picture of it, as text.
    ///
    /// # Errors
    /// As [`Topology::check`].
    pub fn draw_text(&self) -> Result<String, LabError> {
        Ok(draw::text(self, &plan::plan(self)?))
    }

    /// A picture of it, as SVG.
    ///
    /// # Errors
    /// As [`Topology::check`].
    pub fn draw_svg(&self) -> Result<String, LabError> {
        Ok(draw::svg(self, &plan::plan(self)?))
    }

    pub(crate) fn mistake(&self) -> Option<&str> {
        self.mistake.as_deref()
    }

    fn add_host(mut self, name: &str, router: Option<&str>) -> Self {
        let on = vec![Attachment { router: router.map(str::to_owned), routes: Vec::new() }];
        self.hosts.push(Host { name: name.to_owned(), on, run: None });
        self
    }

    fn note(&mut self, mistake: String) {
        self.mistake.get_or_insert(mistake);
    }
}
