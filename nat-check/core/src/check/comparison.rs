//! Mapping behaviour from several servers (RFC 5780 section 4.3 with one address a server): what they saw of the same
//! sockets, compared. Pure.
//!
//! A server that lies, or stands behind a NAT of its own, must not make a wrong verdict: who contradicts himself is left
//! out, and so is one who contradicts all others; where that may be the NAT's doing, the verdict is weak.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use shared::nat::Mapping;

use crate::{
    contactable::{LOWEST_PORT, Scope, is_contactable},
    observation::{ObservationLog, RequestKind},
    report::{Confidence, Finding, LayersKind, ReasonCode},
};

/// What the servers say together.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    pub(super) mapping: Finding<Mapping>,
    /// Servers whose word does not count.
    pub(super) distrusted: Vec<Distrusted>,
    /// The external addresses that the others see.
    pub(super) external_ips: BTreeSet<IpAddr>,
}

impl Comparison {
    /// Several Internet connections, if they see several external addresses.
    pub(super) fn several_connections(&self) -> Option<Finding<LayersKind>> {
        let text = "a NAT with a pool of addresses, or a server that is wrong, looks the same";
        (self.external_ips.len() > 1).then(|| {
            Finding::known(LayersKind::MultiWan, Confidence::Weak, METHOD)
                .because((ReasonCode::SeveralExternalAddresses, text))
                .with("external_addresses", &self.external_ips)
        })
    }
}

/// A server whose word does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Distrusted {
    endpoints: BTreeSet<SocketAddr>,
    /// What it shows, in a sentence.
    pub(super) why: String,
    /// Whether no NAT can explain it.
    pub(super) is_wrong: bool,
}

impl Distrusted {
    /// Whether this is one of its endpoints.
    pub(super) fn is_at(&self, endpoint: SocketAddr) -> bool {
        self.endpoints.contains(&endpoint)
    }
}

const METHOD: &str = "RFC 5780 4.3 over several servers, asked from the same sockets in changing order";

/// Draws the conclusion from the requests of this measurement. `independent` is a server that has shown by itself that the
/// mapping does not depend on the destination, if there is one.
pub(super) fn conclude(log: &ObservationLog, measurement: &str, independent: Option<IpAddr>) -> Comparison {
    let all = Readings::of(log, measurement);
    let wrong = |at| {
        let why = all.contradiction(at)?;
        Some(Distrusted { endpoints: BTreeSet::from([at]), why, is_wrong: true })
    };
    let mut distrusted: Vec<Distrusted> = all.endpoints().into_iter().filter_map(wrong).collect();
    let sound = all.without(|at| distrusted.iter().any(|d| d.is_at(at)));
    let reference = independent.filter(|server| sound.servers().contains(server));
    let outliers: Vec<Distrusted> = match reference {
        Some(reference) => {
            let others = sound.servers().into_iter().filter(|&server| !sound.agree(server, reference));
            others.map(|server| sound.outlier(server)).collect()
        }
        None => {
            let lone =
                sound.lone(|a, b| sound.agree(a, b)).or_else(|| sound.lone(|a, b| sound.share_address(a, b)));
            lone.map(|server| sound.outlier(server)).into_iter().collect()
        }
    };
    let kept = sound.without(|at| outliers.iter().any(|d| d.is_at(at)));
    let mut mapping = kept.mapping();
    // That the mapping depends on the destination the others show by themselves, that it does not they cannot.
    let is_independent = matches!(mapping.value, Some(Mapping::Direct | Mapping::EndpointIndependent));
    if let Some(doubtful) = outliers.iter().find(|d| is_independent && !d.is_wrong) {
        mapping =
            mapping.at_most(Confidence::Weak).because((ReasonCode::ServersDisagree, doubtful.why.as_str()));
    } else if mapping.value == Some(Mapping::Direct) && !log.has_xor_mapped() {
        let text = "the servers show the external endpoint in clear only, where a gateway may have put the local one";
        mapping = mapping.at_most(Confidence::Weak).because((ReasonCode::AddressNotMasked, text));
    }
    distrusted.extend(outliers);
    let left_out: BTreeSet<SocketAddr> =
        distrusted.iter().flat_map(|d| d.endpoints.iter().copied()).collect();
    let seen: BTreeMap<String, SocketAddr> =
        all.rows.iter().take(1).flat_map(|row| &row.seen).map(|(to, at)| (to.to_string(), *at)).collect();
    mapping = mapping.with("sockets", all.rows.len()).with("seen", seen).with("left_out", left_out);
    Comparison { mapping, distrusted, external_ips: kept.external_ips() }
}

/// Two ways out that take turns at random look like one in so many comparisons once in 16,000 runs.
const ENOUGH: usize = 14;

/// What was seen of one socket.
#[derive(Clone, Debug)]
struct Row {
    local: SocketAddr,
    /// The external endpoint, by the server endpoint that saw it.
    seen: BTreeMap<SocketAddr, SocketAddr>,
}

#[derive(Clone, Debug)]
struct Readings {
    rows: Vec<Row>,
    /// One socket and one server endpoint showed first this, then that.
    drifted: Option<(SocketAddr, SocketAddr)>,
}

impl Readings {
    fn of(log: &ObservationLog, measurement: &str) -> Self {
        let mut rows = BTreeMap::new();
        let mut drifted = None;
        let asked = log.transactions.iter().filter(|t| t.purpose.measurement == measurement);
        for transaction in asked.filter(|t| t.kind == RequestKind::Binding) {
            let shown = transaction.direct().and_then(|answer| log.external(answer));
            let (Some(external), Some(local)) = (shown, log.local(transaction.socket)) else { continue };
            let row = rows.entry(transaction.socket).or_insert_with(|| Row { local, seen: BTreeMap::new() });
            let first = *row.seen.entry(transaction.to).or_insert(external);
            if first != external {
                drifted = Some((first, external));
            }
        }
        Self { rows: rows.into_values().collect(), drifted }
    }

    fn without(&self, left_out: impl Fn(SocketAddr) -> bool) -> Self {
        let keep = |row: &Row| Row {
            seen: row.seen.iter().filter(|(to, _)| !left_out(**to)).map(|(to, at)| (*to, *at)).collect(),
            ..*row
        };
        Self { rows: self.rows.iter().map(keep).filter(|row| !row.seen.is_empty()).collect(), ..*self }
    }

    fn external_ips(&self) -> BTreeSet<IpAddr> {
        self.rows.iter().flat_map(|row| row.seen.values().map(SocketAddr::ip)).collect()
    }

    fn servers(&self) -> BTreeSet<IpAddr> {
        self.endpoints().iter().map(SocketAddr::ip).collect()
    }

    fn endpoints(&self) -> BTreeSet<SocketAddr> {
        self.rows.iter().flat_map(|row| row.seen.keys().copied()).collect()
    }

    /// What no NAT can do.
    fn contradiction(&self, server: SocketAddr) -> Option<String> {
        let mut owners: BTreeMap<SocketAddr, SocketAddr> = BTreeMap::new();
        for row in &self.rows {
            let Some(&at) = row.seen.get(&server) else { continue };
            let can_be_seen = is_contactable(at.ip(), LOWEST_PORT, Scope::Server(server));
            if at.ip() != row.local.ip() && !can_be_seen {
                return Some(format!(
                    "it shows {at} as the external endpoint, which nobody has on the Internet: there is a NAT in front of it"
                ));
            }
            if *owners.entry(at).or_insert(row.local) != row.local {
                return Some(format!("it shows the same external endpoint, {at}, for different sockets"));
            }
        }
        None
    }

    /// Whether two servers saw the same of each socket that both have seen.
    fn agree(&self, a: IpAddr, b: IpAddr) -> bool {
        let of = |row: &Row, server: IpAddr| -> BTreeSet<SocketAddr> {
            row.seen.iter().filter(|(to, _)| to.ip() == server).map(|(_, at)| *at).collect()
        };
        self.rows.iter().all(|row| {
            let (a, b) = (of(row, a), of(row, b));
            a.is_empty() || b.is_empty() || a == b && a.len() == 1
        })
    }

    /// Whether two servers saw this host at the same external address at least once.
    fn share_address(&self, a: IpAddr, b: IpAddr) -> bool {
        let ips = |server: IpAddr| self.without(|at| at.ip() != server).external_ips();
        !ips(a).is_disjoint(&ips(b))
    }

    /// The one server that fits none of the others, while these, at least two, fit each other.
    fn lone(&self, fit: impl Fn(IpAddr, IpAddr) -> bool) -> Option<IpAddr> {
        let servers: Vec<IpAddr> = self.servers().into_iter().collect();
        let others = |server: IpAddr| servers.iter().copied().filter(move |&other| other != server);
        let is_lone = |server: IpAddr| {
            servers.len() > 2
                && others(server).all(|a| !fit(server, a) && others(server).all(|b| a == b || fit(a, b)))
        };
        servers.iter().copied().find(|&server| is_lone(server))
    }

    /// What an outlier shows, and whether a NAT can have done it: by another way out, or by the port number.
    fn outlier(&self, server: IpAddr) -> Distrusted {
        let others = self.without(|at| at.ip() == server);
        let ports = |readings: &Self| -> BTreeSet<u16> {
            readings.endpoints().iter().map(SocketAddr::port).collect()
        };
        let own = self.without(|at| at.ip() != server);
        let shares_port = !ports(&others).is_disjoint(&ports(&own));
        let ips = |row: &Row| -> BTreeSet<IpAddr> { row.seen.values().map(SocketAddr::ip).collect() };
        let same_ip = self.rows.iter().all(|row| ips(row).len() == 1);
        let is_wrong = shares_port && same_ip && own.rows.len() >= 2;
        let first = |readings: &Self| {
            let at = readings.rows.first().and_then(|row| row.seen.values().next());
            at.map_or_else(|| "nothing".into(), ToString::to_string)
        };
        let cause = match is_wrong {
            true => "no NAT does that",
            false => "either it is wrong, or the NAT treats it otherwise",
        };
        let why = format!("{server} shows {} where the others show {}: {cause}", first(&own), first(&others));
        Distrusted { endpoints: own.endpoints(), why, is_wrong }
    }

    fn mapping(&self) -> Finding<Mapping> {
        if let Some((first, later)) = self.drifted {
            let text = format!(
                "the NAT is not deterministic: one socket and destination showed {first} first, {later} later"
            );
            return Finding::unknown((ReasonCode::NotDeterministic, text), METHOD);
        }
        let servers: Vec<IpAddr> = self.servers().into_iter().collect();
        if servers.len() < 2 && self.endpoints().len() < 2 {
            let text = "fewer than two servers showed an external endpoint that can be compared";
            return Finding::unknown((ReasonCode::NoAnswer, text), METHOD);
        }
        let same = self.rows.iter().all(|row| row.seen.values().collect::<BTreeSet<_>>().len() == 1);
        if same { self.independent(servers.len()) } else { self.dependent(&servers) }
    }

    /// All saw the same.
    fn independent(&self, servers: usize) -> Finding<Mapping> {
        let is_direct = self.rows.iter().all(|row| row.seen.values().all(|at| *at == row.local));
        if is_direct {
            return self.direct();
        }
        if servers < 2 {
            let text =
                "all servers have the same address, which cannot tell whether the mapping depends on it";
            return Finding::unknown((ReasonCode::ServersShareAddress, text), METHOD);
        }
        let ips = self.external_ips();
        let compared: usize = self.rows.iter().map(|row| row.seen.len() - 1).sum();
        if ips.len() > 1 && compared < ENOUGH {
            let text = "several external addresses are in use: that all servers saw the same of each socket may be chance";
            return Finding::known(Mapping::EndpointIndependent, Confidence::Weak, METHOD)
                .because((ReasonCode::SeveralExternalAddresses, text));
        }
        let ports: BTreeSet<u16> = self.endpoints().iter().map(SocketAddr::port).collect();
        if ports.len() < 2 {
            let text =
                "all servers have the same port number: a mapping that depends on that alone is not excluded";
            return Finding::known(Mapping::EndpointIndependent, Confidence::Weak, METHOD)
                .because((ReasonCode::OnePortNumber, text));
        }
        Finding::known(Mapping::EndpointIndependent, Confidence::Certain, METHOD)
    }

    fn direct(&self) -> Finding<Mapping> {
        let unvouched = |row: &Row| {
            let can_see =
                |server: &SocketAddr| is_contactable(row.local.ip(), LOWEST_PORT, Scope::Server(*server));
            !row.seen.keys().all(can_see)
        };
        if self.rows.iter().any(unvouched) {
            let text = "the servers show this host's own private address: a gateway has put it there, or they stand in the \
                        same private network";
            return Finding::known(Mapping::Direct, Confidence::Weak, METHOD)
                .because((ReasonCode::PrivateAddressShown, text));
        }
        Finding::known(Mapping::Direct, Confidence::Certain, METHOD)
    }

    /// They saw different things, and not because of one of them alone.
    fn dependent(&self, servers: &[IpAddr]) -> Finding<Mapping> {
        let ips = self.external_ips();
        if ips.len() > 1 {
            let list: Vec<String> = ips.iter().map(ToString::to_string).collect();
            let text = format!(
                "the servers show different external addresses ({}): there is more than one way out, or one of them is wrong",
                list.join(", ")
            );
            return Finding::unknown((ReasonCode::SeveralExternalAddresses, text), METHOD);
        }
        if let [a, b] = *servers
            && self.is_fixed_relation(a, b)
        {
            let text =
                format!("{a} and {b} differ by a fixed rule: one of them is wrong, or the NAT counts in it");
            return Finding::known(Mapping::AddressAndPortDependent, Confidence::Weak, METHOD)
                .because((ReasonCode::ServersDisagree, text));
        }
        // Pairs that differ in one thing only tell whether the mapping depends on it.
        let on_port = self.depends(|a, b| a.ip() == b.ip());
        let on_ip = self.depends(|a, b| a.ip() != b.ip() && a.port() == b.port());
        let known = |kind| Finding::known(kind, Confidence::Certain, METHOD);
        match (on_ip, on_port) {
            (Some(true), Some(false)) => known(Mapping::AddressDependent),
            (Some(false), Some(true)) => known(Mapping::PortDependent),
            (Some(true), Some(true)) => known(Mapping::AddressAndPortDependent),
            (Some(true) | None, None) | (None, Some(_)) => known(Mapping::AddressAndPortDependent)
                .at_most(Confidence::Weak)
                .because((
                    ReasonCode::MappingKindUnknown,
                    "it depends on the destination for certain; whether on its address alone takes a server with two ports \
                     to tell",
                )),
            (Some(false), Some(false) | None) => {
                let text = "the NAT is not deterministic: what the servers see depends neither on address nor on port";
                Finding::unknown((ReasonCode::NotDeterministic, text), METHOD)
            }
        }
    }

    /// Whether pairs of server endpoints of this kind ever saw different things; none where there is no such pair.
    fn depends(&self, concerns: impl Fn(&SocketAddr, &SocketAddr) -> bool) -> Option<bool> {
        let pairs = self.rows.iter().flat_map(|row| {
            row.seen.iter().flat_map(move |a| row.seen.iter().map(move |b| (a, b))).filter(|(a, b)| a.0 < b.0)
        });
        let mut pairs = pairs.filter(|(a, b)| concerns(a.0, b.0)).peekable();
        pairs.peek()?;
        Some(pairs.any(|(a, b)| a.1 != b.1))
    }

    /// Whether the ports that two servers show differ by the same amount, or in the same bits, for every socket, though
    /// they were asked in changing order: then one of them may only misread what it sees.
    fn is_fixed_relation(&self, a: IpAddr, b: IpAddr) -> bool {
        let of = |row: &Row, server: IpAddr| {
            row.seen.iter().find(|(to, _)| to.ip() == server).map(|(_, at)| at.port())
        };
        let pairs: Vec<(u16, u16)> = self.rows.iter().filter_map(|row| of(row, a).zip(of(row, b))).collect();
        let relations = |relation: fn(u16, u16) -> u16| -> BTreeSet<u16> {
            pairs.iter().map(|(a, b)| relation(*a, *b)).collect()
        };
        // Neighbouring ports of a NAT that counts differ in the last bits only.
        let bits = relations(|a, b| a ^ b);
        let same_bits = bits.len() == 1 && bits.first() > Some(&0xff);
        // Two endpoints of one server that differ need nobody else's word.
        let by_itself = self.depends(|a, b| a.ip() == b.ip()) == Some(true);
        !by_itself && (pairs.len() < 3 || same_bits || relations(u16::wrapping_sub).len() == 1)
    }
}

#[cfg(test)]
mod tests;
