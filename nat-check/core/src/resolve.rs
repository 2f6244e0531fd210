//! From what the user gave to the addresses of a probe server: literals, SRV (RFC 8489 section 8, RFC 5780
//! section 4.1), then A and AAAA. Never asks a name server about a literal, and never waits for one without end.

#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod fuzz;
mod query;
#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ResolverConfig, ResolverOpts},
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, Record, RecordType, rdata::SRV},
    },
};
use tokio::time::timeout;

use self::query::Host;
pub use self::query::{MalformedQuery, Query};
use crate::{
    selection::Families,
    target::{FoundBy, Target},
};

/// What is looked for at a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// STUN over UDP and TCP.
    Stun,
    /// STUN over TLS, and the rendezvous on the same port.
    Stuns,
}

impl Service {
    /// Its port where nobody says otherwise (RFC 8489 section 18.6).
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Stun => 3478,
            Self::Stuns => 5349,
        }
    }

    /// Its names in the DNS in the order of preference: the one that promises RFC 5780 first.
    fn labels(self) -> [&'static str; 2] {
        match self {
            Self::Stun => ["_stun-behavior._udp", "_stun._udp"],
            Self::Stuns => ["_stun-behaviors._tcp", "_stuns._tcp"],
        }
    }
}

/// Why a name gave no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// NXDOMAIN.
    #[error("{name}: no such name")]
    NoSuchName {
        /// The name that was looked up.
        name: String,
    },
    /// The name exists.
    #[error("{name}: the name has no {wanted} address")]
    NoAddress {
        /// The name that was looked up.
        name: String,
        /// IPv4, IPv6, or either.
        wanted: &'static str,
    },
    /// The name server answered with an error.
    #[error("{name}: the name server answered {code}")]
    Refused {
        /// The name that was looked up.
        name: String,
        /// Its answer.
        code: String,
    },
    /// No answer in time.
    #[error("{name}: no answer from the name server")]
    TimedOut {
        /// The name that was looked up.
        name: String,
    },
    /// No name server could be asked.
    #[error("{name}: no name server could be asked: {reason}")]
    NoNameServer {
        /// The name that was looked up.
        name: String,
        /// What the operating system said.
        reason: String,
    },
}

/// Looks servers up.
#[derive(Debug)]
pub struct Resolver {
    /// Building one reads files; a literal needs none of them, so a failure waits until a name comes along.
    dns: Result<TokioResolver, String>,
    patience: Patience,
}

/// How long lookups may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// All of one server's lookups.
    pub total: Duration,
    /// What is still awaited once something usable is known.
    pub grace: Duration,
}

impl Patience {
    const DEFAULT: Self = Self { total: Duration::from_secs(5), grace: Duration::from_millis(1500) };
}

impl Resolver {
    /// With the name servers and the hosts file of this system.
    #[must_use]
    pub fn system() -> Self {
        let dns = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().timeout = QUERY_TIMEOUT;
            builder.build()
        });
        Self { dns: dns.map_err(|error| error.to_string()), patience: Patience::DEFAULT }
    }

    /// With name servers of one's own.
    #[must_use]
    pub fn custom(config: ResolverConfig, options: ResolverOpts, patience: Patience) -> Self {
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Self { dns: builder.with_options(options).build().map_err(|error| error.to_string()), patience }
    }

    /// Finds the addresses of a server in the families that are wanted. A port, where one is given, leaves SRV out.
    ///
    /// # Errors
    /// Where no address came of it.
    pub async fn resolve(
        &self,
        query: &Query,
        families: Families,
        rng: &mut fastrand::Rng,
    ) -> Result<Target, ResolveError> {
        self.find(Service::Stun, query, families, rng).await
    }

    /// The same for any service.
    ///
    /// # Errors
    /// Where no address came of it.
    pub async fn find(
        &self,
        service: Service,
        query: &Query,
        families: Families,
        rng: &mut fastrand::Rng,
    ) -> Result<Target, ResolveError> {
        let target = |found_by, v4, v6| Target { query: query.given.clone(), found_by, v4, v6 };
        let name = match &query.host {
            Host::Address(ip) => {
                let at = SocketAddr::new(*ip, query.port.unwrap_or(service.default_port()));
                let v4 = Some(at).filter(SocketAddr::is_ipv4);
                return Ok(target(FoundBy::Literal, v4, Some(at).filter(SocketAddr::is_ipv6)));
            }
            Host::Name(name) => name,
        };
        let dns = self
            .dns
            .as_ref()
            .map_err(|reason| ResolveError::NoNameServer { name: name.clone(), reason: reason.clone() })?;
        let lookups = Lookups { dns, families, grace: self.patience.grace };
        let in_time = timeout(self.patience.total, async {
            let addresses = lookups.addresses(name);
            if query.port.is_some() {
                return Ok((
                    FoundBy::Address,
                    addresses.await?,
                    query.port.unwrap_or(service.default_port()),
                ));
            }
            let services = lookups.services(service, name, rng);
            tokio::pin!(addresses, services);
            // Both at once: a name server that drops SRV questions must not cost the wait for it.
            let mut known = None;
            loop {
                tokio::select! {
                    biased;
                    found = &mut services => match found {
                        Some((addresses, port)) => return Ok((FoundBy::Srv, addresses, port)),
                        None => {
                            let addresses = match known { Some(known) => known, None => addresses.await };
                            return addresses.map(|addresses| (FoundBy::Address, addresses, service.default_port()));
                        }
                    },
                    found = &mut addresses, if known.is_none() => known = Some(found),
                    () = tokio::time::sleep(self.patience.grace), if matches!(known, Some(Ok(_))) => {
                        let Some(Ok(addresses)) = known else { continue };
                        return Ok((FoundBy::Address, addresses, service.default_port()));
                    }
                }
            }
        });
        let (found_by, addresses, port) =
            in_time.await.unwrap_or_else(|_| Err(ResolveError::TimedOut { name: name.clone() }))?;
        let at = |ip: IpAddr| SocketAddr::new(ip, port);
        Ok(target(found_by, addresses.v4.map(at), addresses.v6.map(at)))
    }
}

/// A first retransmission after a second and a half: what a resolver on the same path needs, with room.
const QUERY_TIMEOUT: Duration = Duration::from_millis(1500);

/// SRV targets that are tried before giving up.
const MAX_TARGETS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Addresses {
    v4: Option<IpAddr>,
    v6: Option<IpAddr>,
}

#[derive(Clone, Copy)]
struct Lookups<'a> {
    dns: &'a TokioResolver,
    families: Families,
    grace: Duration,
}

impl Lookups<'_> {
    /// A and AAAA at once. When one has come the other gets the grace time only.
    async fn addresses(self, name: &str) -> Result<Addresses, ResolveError> {
        let ask = async |wanted: bool, kind| match wanted {
            true => Some(self.dns.lookup(name, kind).await),
            false => None,
        };
        let v4 = ask(self.families.v4, RecordType::A);
        let v6 = ask(self.families.v6, RecordType::AAAA);
        tokio::pin!(v4, v6);
        let (v4, v6) = tokio::select! {
            biased;
            v4 = &mut v4 => { let late = self.late(&v4, v6).await; (v4, late) }
            v6 = &mut v6 => { let late = self.late(&v6, v4).await; (late, v6) }
        };
        let found = Addresses { v4: first_address(&v4), v6: first_address(&v6) };
        if found.v4.is_some() || found.v6.is_some() {
            return Ok(found);
        }
        // An answer says more than a silence: the clearest failure of the two is told.
        let failures = [v4, v6].into_iter().flatten().filter_map(Result::err);
        let told = failures.map(|error| explain(name, self.families, &error)).min_by_key(clarity);
        Err(told.unwrap_or_else(|| no_address(name, self.families)))
    }

    async fn late(self, first: &Answer, other: impl Future<Output = Answer>) -> Answer {
        if first_address(first).is_some() {
            timeout(self.grace, other).await.unwrap_or(None)
        } else {
            other.await
        }
    }

    /// The first service that has an SRV record whose target has an address.
    async fn services(
        self,
        service: Service,
        name: &str,
        rng: &mut fastrand::Rng,
    ) -> Option<(Addresses, u16)> {
        let ask = |label: &str| self.dns.lookup(format!("{label}.{name}"), RecordType::SRV);
        let [behaviour, plain] = service.labels();
        let (behaviour, plain) = tokio::join!(ask(behaviour), ask(plain));
        for lookup in [behaviour, plain].into_iter().flatten() {
            for (target, port) in candidates(lookup.answers(), rng) {
                if let Ok(addresses) = Box::pin(self.addresses(&target)).await {
                    return Some((addresses, port));
                }
            }
        }
        None
    }
}

/// None = that family is not wanted, or its answer was not awaited.
type Answer = Option<Result<Lookup, NetError>>;

fn first_address(answer: &Answer) -> Option<IpAddr> {
    let Some(Ok(lookup)) = answer else { return None };
    lookup.answers().iter().find_map(|record| record.data.ip_addr())
}

/// The names and ports that SRV records lead to, in the order in which they are tried.
fn candidates(answers: &[Record], rng: &mut fastrand::Rng) -> Vec<(String, u16)> {
    let few = in_order(records(answers), rng).into_iter().take(MAX_TARGETS);
    // A target of "." means that the service is not offered (RFC 2782).
    let offered = few.filter(|record| !record.target.is_root() && record.port != 0);
    offered.map(|record| (record.target.to_utf8(), record.port)).collect()
}

fn records(answers: &[Record]) -> Vec<SRV> {
    let srv = |data: &RData| match data {
        RData::SRV(srv) => Some(srv.clone()),
        _ => None,
    };
    answers.iter().filter_map(|record| srv(&record.data)).collect()
}

/// The order of RFC 2782: the lowest priority first; among equals chance decides in proportion to the weights, and
/// those of weight 0 have a very small one.
fn in_order(mut records: Vec<SRV>, rng: &mut fastrand::Rng) -> Vec<SRV> {
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let equals = records.iter().take_while(|record| record.priority == first.priority).count();
        let total: u32 = records[..equals].iter().map(|record| u32::from(record.weight)).sum();
        let mut drawn = rng.u32(0..=total);
        let chosen = records[..equals].iter().position(|record| {
            let hit = drawn <= u32::from(record.weight);
            drawn = drawn.saturating_sub(u32::from(record.weight));
            hit
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered
}

fn explain(name: &str, families: Families, error: &NetError) -> ResolveError {
    let name = name.to_owned();
    match error {
        error if error.is_nx_domain() => ResolveError::NoSuchName { name },
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code != ResponseCode::NoError => {
            ResolveError::Refused { name, code: none.response_code.to_string() }
        }
        NetError::Dns(DnsError::NoRecordsFound(_)) => no_address(&name, families),
        NetError::Dns(DnsError::ResponseCode(code)) => ResolveError::Refused { name, code: code.to_string() },
        NetError::Timeout => ResolveError::TimedOut { name },
        other => ResolveError::NoNameServer { name, reason: other.to_string() },
    }
}

fn no_address(name: &str, families: Families) -> ResolveError {
    let wanted = match families {
        Families { v4: true, v6: false } => "IPv4",
        Families { v4: false, v6: true } => "IPv6",
        Families { .. } => "IPv4 or IPv6",
    };
    ResolveError::NoAddress { name: name.to_owned(), wanted }
}

/// Lower is clearer.
fn clarity(error: &ResolveError) -> u8 {
    match error {
        ResolveError::NoSuchName { .. } => 0,
        ResolveError::NoAddress { .. } => 1,
        ResolveError::Refused { .. } => 2,
        ResolveError::NoNameServer { .. } => 3,
        ResolveError::TimedOut { .. } => 4,
    }
}
