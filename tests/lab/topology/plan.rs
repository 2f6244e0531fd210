//! From names to numbers: every router's NATs and addresses, every host's interfaces.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use shared::nat::{
    Mapping,
    model::{NatSpec, Stack},
};

use super::{Attachment, INTERNET_HOSTS, Router, Topology};
use crate::{
    LabError,
    address::{Site, Subnet},
    network::{Point, RouterLan, shaper::LinkSpec},
};

/// A topology with all its addresses.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// All NATs; those of one router stand in a row, the outermost first.
    pub(crate) nodes: Vec<Node>,
    /// For each router of the topology its nodes, the innermost first.
    pub(crate) routers: Vec<Vec<usize>>,
    /// For each host its interfaces.
    pub(crate) hosts: Vec<Vec<Interface>>,
    /// The last octet that was given out, by LAN and first octet.
    given: HashMap<(usize, u8), u8>,
}

/// One NAT with its router.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) lan: RouterLan,
    pub(crate) nat: NatSpec,
    pub(crate) external: Vec<IpAddr>,
    pub(crate) up: Point,
    pub(crate) line: LinkSpec,
}

/// An interface of a host.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) at: Point,
    pub(crate) ip4: Ipv4Addr,
    pub(crate) prefix4: u8,
    pub(crate) ip6: Ipv6Addr,
    /// None on the Internet, where everything is reached directly.
    pub(crate) gateway: Option<(Ipv4Addr, Ipv6Addr)>,
    pub(crate) routes: Vec<Subnet>,
}

/// The most routers: as many LANs as fit into the plan.
const MOST_ROUTERS: usize = 100;
/// Routers without any translation have public addresses in their LAN, of which there are few.
const MOST_OPEN: u8 = 15;
/// The last octets of hosts on a LAN, and of routers on the LAN of another one.
const FIRST_HOST: u8 = 2;
const FIRST_ROUTER: u8 = 100;
/// Names that the laboratory itself uses.
const RESERVED: [&str; 4] = ["server", "echo", "localhost", "internet"];

pub(crate) fn plan(topology: &Topology) -> Result<Plan, LabError> {
    if let Some(mistake) = topology.mistake() {
        return wrong(mistake.to_owned());
    }
    check_names(topology)?;
    let mut plan = Plan { nodes: Vec::new(), routers: Vec::new(), hosts: Vec::new(), given: HashMap::new() };
    let order = outermost_first(&topology.routers)?;
    plan.routers = vec![Vec::new(); topology.routers.len()];
    for number in order {
        plan.add_router(topology, number)?;
    }
    let mut on_internet = 0;
    for host in &topology.hosts {
        let mut interfaces = Vec::new();
        for attachment in &host.on {
            interfaces.push(match &attachment.router {
                None => {
                    on_internet += 1;
                    internet(on_internet - 1, attachment)?
                }
                Some(router) => {
                    let router = topology.find_router(router)?;
                    plan.attach(router, attachment.routes.clone())?
                }
            });
        }
        plan.hosts.push(interfaces);
    }
    Ok(plan)
}

impl Plan {
    /// The next free place on the LAN of a router.
    pub(crate) fn attach(&mut self, router: usize, routes: Vec<Subnet>) -> Result<Interface, LabError> {
        let node = self.routers[router][0];
        let number = self.give(node, FIRST_HOST, FIRST_ROUTER - 1)?;
        let RouterLan { lan4, lan6, router4, router6, .. } = &self.nodes[node].lan;
        Ok(Interface {
            at: Point::Lan(node),
            ip4: in_subnet4(lan4, number),
            prefix4: lan4.1,
            ip6: in_subnet6(lan6, number),
            gateway: Some((*router4, *router6)),
            routes,
        })
    }

    fn add_router(&mut self, topology: &Topology, number: usize) -> Result<(), LabError> {
        let router = &topology.routers[number];
        let parent = match &router.behind {
            Some(name) => Some(self.routers[topology.find_router(name)?][0]),
            None => None,
        };
        let levels = router.nat.0.len();
        let translates = |level: usize| router.nat.0[level].udp.mapping != Mapping::Direct;
        let any = (0..levels).any(translates);
        let hidden =
            parent.is_some_and(|parent| !self.nodes[parent].external.is_empty() || self.is_hidden(parent));
        // There are at most MOST_ROUTERS, and few levels.
        let site = Site { number: number as u8, translated: any || hidden };
        if !site.translated && site.number >= MOST_OPEN {
            return wrong(format!(
                "router {}: at most the first {MOST_OPEN} routers may do without translation",
                router.name
            ));
        }
        let carries = topology.routers.iter().any(|other| other.behind.as_ref() == Some(&router.name));
        let mut up = parent.map_or(Point::Internet, Point::Lan);
        for level in (0..levels).rev() {
            let spec = &router.nat.0[level];
            let further_out = (level + 1..levels).any(translates);
            let external = match (translates(level), further_out, parent) {
                (false, _, _) => Vec::new(),
                (true, false, Some(parent)) => (0..spec.pool.ips)
                    .map(|_| {
                        self.give(parent, FIRST_ROUTER, 254)
                            .map(|n| in_subnet4(&self.nodes[parent].lan.lan4, n))
                    })
                    .collect::<Result<Vec<_>, _>>()?,
                (true, further_out, _) => {
                    if spec.pool.ips > 1 && site.number >= MOST_OPEN {
                        return wrong(format!(
                            "router {}: only the first {MOST_OPEN} routers may have several addresses",
                            router.name
                        ));
                    }
                    (0..spec.pool.ips).map(|n| site.external4(!further_out, level, n)).collect()
                }
            };
            let (outside4, outside6) = self.outside(&site, level, levels, external.first(), any, parent)?;
            let (lan4, router4) = match level {
                0 if carries && site.translated => (
                    Subnet(Ipv4Addr::new(100, 96, site.number, 0).into(), 24),
                    Ipv4Addr::new(100, 96, site.number, 1),
                ),
                0 => (site.lan4(), site.router4()),
                level => {
                    let realm = |host| Ipv4Addr::new(100, 63 + level as u8, site.number, host);
                    (Subnet(realm(0).into(), 24), realm(1))
                }
            };
            let (lan6, router6) = match level {
                0 => (site.lan6(), site.router6()),
                level => (Subnet(realm6(&site, level, 0).into(), 80), realm6(&site, level, 1)),
            };
            let name = match (level, levels) {
                (0, _) => router.name.clone(),
                (level, _) => format!("{}.{level}", router.name),
            };
            self.nodes.push(Node {
                lan: RouterLan { name, lan4, lan6, router4, router6, outside4, outside6 },
                nat: spec.clone(),
                external: external.into_iter().map(IpAddr::from).collect(),
                up,
                line: if level + 1 == levels { router.line } else { LinkSpec::perfect() },
            });
            let node = self.nodes.len() - 1;
            self.routers[number].insert(0, node);
            up = Point::Lan(node);
        }
        Ok(())
    }

    /// The addresses that a router's ICMP errors come from on its outside.
    fn outside(
        &mut self,
        site: &Site,
        level: usize,
        levels: usize,
        external: Option<&Ipv4Addr>,
        any: bool,
        parent: Option<usize>,
    ) -> Result<(Ipv4Addr, Ipv6Addr), LabError> {
        let on_parent = match parent.filter(|_| level + 1 == levels) {
            Some(parent) => {
                let number = self.give(parent, FIRST_ROUTER, 254)?;
                let RouterLan { lan4, lan6, .. } = &self.nodes[parent].lan;
                Some((in_subnet4(lan4, number), in_subnet6(lan6, number)))
            }
            None => None,
        };
        let outside4 = match (external, on_parent) {
            (Some(external), _) => *external,
            (None, Some((outside4, _))) => outside4,
            // The router's public address belongs to the NAT that translates, if one does.
            (None, None) if any => Ipv4Addr::new(203, 0, 113, 192 + site.number % 60),
            (None, None) => site.wan4(),
        };
        let outside6 = match on_parent {
            Some((_, outside6)) => outside6,
            None if level + 1 == levels => site.wan6(),
            None => realm6(site, level + 1, 2),
        };
        Ok((outside4, outside6))
    }

    /// Whether addresses on the LAN of a node are translated further out.
    fn is_hidden(&self, node: usize) -> bool {
        match self.nodes[node].up {
            Point::Internet => false,
            Point::Lan(up) => !self.nodes[up].external.is_empty() || self.is_hidden(up),
        }
    }

    fn give(&mut self, node: usize, first: u8, last: u8) -> Result<u8, LabError> {
        let lan = &self.nodes[node].lan;
        // A public LAN has 14 addresses, for hosts and routers alike.
        let (first, last) = if lan.lan4.1 > 24 { (FIRST_HOST, 14) } else { (first, last) };
        let given = self.given.entry((node, first)).or_insert(first - 1);
        if *given >= last {
            return wrong(format!("router {}: there is no room for more on its LAN", lan.name));
        }
        *given += 1;
        Ok(*given)
    }
}

impl Topology {
    pub(crate) fn find_router(&self, name: &str) -> Result<usize, LabError> {
        let found = self.routers.iter().position(|router| router.name == name);
        found.ok_or_else(|| {
            let known: Vec<_> = self.routers.iter().map(|router| router.name.as_str()).collect();
            LabError::Words(format!("there is no router `{name}`; there are: {}", known.join(", ")))
        })
    }

    pub(crate) fn find_host(&self, name: &str) -> Result<usize, LabError> {
        let found = self.hosts.iter().position(|host| host.name == name);
        found.ok_or_else(|| {
            LabError::Words(format!("there is no host `{name}`; there are: {}", self.host_names().join(", ")))
        })
    }
}

/// The routers in an order in which each comes after the one that it is behind.
fn outermost_first(routers: &[Router]) -> Result<Vec<usize>, LabError> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < routers.len() {
        let known = |name: &String| order.iter().any(|at| routers[*at].name == *name);
        let ready: Vec<usize> = (0..routers.len())
            .filter(|at| !order.contains(at) && routers[*at].behind.as_ref().is_none_or(known))
            .collect();
        if ready.is_empty() {
            let stuck = (0..routers.len()).filter(|at| !order.contains(at));
            let stuck: Vec<_> = stuck.map(|at| routers[at].name.as_str()).collect();
            return wrong(format!(
                "routers behind each other, or behind none that exists: {}",
                stuck.join(", ")
            ));
        }
        order.extend(ready);
    }
    Ok(order)
}

fn check_names(topology: &Topology) -> Result<(), LabError> {
    let mut seen = BTreeSet::new();
    let routers = topology.routers.iter().map(|router| &router.name);
    for name in routers.chain(topology.hosts.iter().map(|host| &host.name)) {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 40 || !name.chars().all(plain) {
            return wrong(format!("name `{name}`: up to 40 lower-case letters, digits and hyphens"));
        }
        if RESERVED.contains(&name.as_str()) || !seen.insert(name) {
            return wrong(format!("the name `{name}` is taken"));
        }
    }
    if topology.routers.len() > MOST_ROUTERS {
        return wrong(format!("at most {MOST_ROUTERS} routers, not {}", topology.routers.len()));
    }
    for router in &topology.routers {
        if router.nat.0.is_empty() {
            return wrong(format!("router {}: its list of NATs is empty", router.name));
        }
    }
    match topology.hosts.iter().find(|host| host.on.is_empty()) {
        Some(host) => wrong(format!("host {}: it is on no network", host.name)),
        None => Ok(()),
    }
}

fn internet(number: usize, attachment: &Attachment) -> Result<Interface, LabError> {
    if number >= INTERNET_HOSTS {
        return wrong(format!("at most {INTERNET_HOSTS} hosts on the Internet"));
    }
    let last = 20 + number as u8;
    Ok(Interface {
        at: Point::Internet,
        ip4: Ipv4Addr::new(198, 51, 100, last),
        prefix4: 24,
        ip6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x20 + number as u16),
        gateway: None,
        routes: attachment.routes.clone(),
    })
}

/// Between the NATs of one router.
fn realm6(site: &Site, level: usize, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x64, site.number.into(), level as u16, 0, 0, host)
}

fn in_subnet4(subnet: &Subnet, number: u8) -> Ipv4Addr {
    match subnet.0 {
        IpAddr::V4(base) => Ipv4Addr::from_bits(base.to_bits() + u32::from(number)),
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

fn in_subnet6(subnet: &Subnet, number: u8) -> Ipv6Addr {
    match subnet.0 {
        IpAddr::V6(base) => Ipv6Addr::from_bits(base.to_bits() + u128::from(number)),
        IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
    }
}

fn wrong<T>(mistake: String) -> Result<T, LabError> {
    Err(LabError::Words(mistake))
}

/// The specs of a router's NATs after a change, which keeps their number.
pub(crate) fn same_levels(router: &Router, nat: &Stack) -> Result<(), LabError> {
    if router.nat.0.len() == nat.0.len() {
        return Ok(());
    }
    let (has, given) = (router.nat.0.len(), nat.0.len());
    wrong(format!("router {} has {has} NATs in a row, not {given}; their number cannot change", router.name))
}
