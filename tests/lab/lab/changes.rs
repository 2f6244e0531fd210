//! Changes of a running laboratory: restarted NATs, other NATs and addresses, cut lines, hosts that move.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{PoisonError, mpsc},
};

use shared::nat::{Mapping, model::Stack};
use tokio::time::Instant;

use super::{Built, Lab};
use crate::{
    LabError,
    netns::Namespace,
    topology::{
        Change, Order, line,
        plan::{Interface, same_levels},
    },
    tun::{addresses, configure},
};

impl Lab {
    /// Carries out changes, in their order; the first one that is not possible ends that.
    ///
    /// # Errors
    /// When there is no such router or host, or it cannot be changed like that.
    pub fn change(&self, order: &Order) -> Result<(), LabError> {
        let built = self.built()?;
        if let Ok(router) = built.topology.find_router(&order.target) {
            return order.changes.iter().try_for_each(|change| built.change_router(router, change));
        }
        let Ok(host) = built.topology.find_host(&order.target) else {
            let routers = built.topology.routers.iter().map(|router| router.name.clone());
            let known: Vec<_> = routers.chain(built.topology.host_names()).collect();
            let (given, known) = (&order.target, known.join(", "));
            return wrong(format!("there is no router or host `{given}`; there are: {known}"));
        };
        order.changes.iter().try_for_each(|change| self.change_host(built, host, change))
    }

    /// Carries out the changes of the topology's schedule at their times from now on, and tells of each. It returns after
    /// the last one, or when the sender of `stop` is dropped.
    pub fn run_schedule(
        &self,
        stop: &mpsc::Receiver<()>,
        mut tell: impl FnMut(&Order, Result<(), LabError>),
    ) {
        let Ok(built) = self.built() else { return };
        let mut schedule: Vec<_> = built.topology.schedule.iter().collect();
        schedule.sort_by_key(|scheduled| scheduled.after);
        let start = Instant::now();
        for scheduled in schedule {
            let wait = (start + scheduled.after).saturating_duration_since(Instant::now());
            if stop.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            tell(&scheduled.order, self.change(&scheduled.order));
        }
    }

    fn change_host(&self, built: &Built, host: usize, change: &Change) -> Result<(), LabError> {
        let namespace: &Namespace = &self.hosts[host];
        match change {
            Change::Link(false) => namespace.ip("link set eth0 down\n"),
            Change::Link(true) => {
                let interfaces = built.plan().hosts[host].clone();
                self.readdress(namespace, &interfaces)
            }
            Change::On(router) => {
                let router = built.topology.find_router(router)?;
                let device = built.devices[host][0];
                let interfaces = {
                    let mut plan = built.plan();
                    let routes = plan.hosts[host][0].routes.clone();
                    let interface = plan.attach(router, routes)?;
                    plan.hosts[host][0] = interface;
                    plan.hosts[host].clone()
                };
                let Interface { at, .. } = interfaces[0];
                let ips = addresses(&interfaces[0]);
                // Between two networks the host is on none.
                built.forwarder.run(move |network, _| network.move_device(device, None, Vec::new()))?;
                self.readdress(namespace, &interfaces)?;
                built.forwarder.run(move |network, _| network.move_device(device, Some(at), ips))
            }
            Change::Restart | Change::Nat(_) | Change::Address(_) | Change::Line(..) => {
                wrong("a host takes on=ROUTER and link=up|down; everything else is a router's".into())
            }
        }
    }
}

impl Lab {
    /// Gives the first interface its addresses and routes anew.
    fn readdress(&self, host: &Namespace, interfaces: &[Interface]) -> Result<(), LabError> {
        host.ip(&format!("addr flush dev eth0\n{}", configure(&interfaces[..1], self.families)))?;
        host.settle()
    }
}

impl Built {
    fn plan(&self) -> std::sync::MutexGuard<'_, crate::topology::plan::Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change_router(&self, router: usize, change: &Change) -> Result<(), LabError> {
        let nodes = self.plan().routers[router].clone();
        let outermost = *nodes.last().ok_or_else(|| LabError::Words("a router without a NAT".into()))?;
        match change {
            Change::Restart => self.forwarder.run(move |network, now| {
                nodes.iter().for_each(|node| network.restart_nat(*node, None, None, now))
            }),
            Change::Nat(nat) => self.change_nat(router, &nodes, nat),
            Change::Address(address) => self.change_address(&nodes, *address),
            Change::Link(up) => {
                let up = *up;
                self.forwarder.run(move |network, _| network.set_link(outermost, up))
            }
            Change::Line(name, value) => {
                let (name, value) = (name.clone(), value.clone());
                self.forwarder.run(move |network, _| {
                    let mut spec = network.line(outermost);
                    line::set(&mut spec, &name, &value)?;
                    network.set_line(outermost, spec);
                    Ok(())
                })?
            }
            Change::On(_) => wrong("a router stays where it is; on=ROUTER moves a host".into()),
        }
    }

    fn change_nat(&self, router: usize, nodes: &[usize], nat: &Stack) -> Result<(), LabError> {
        let plan = &self.topology.routers[router];
        same_levels(plan, nat)?;
        let translates =
            |nat: &Stack| nat.0.iter().map(|spec| spec.udp.mapping != Mapping::Direct).collect::<Vec<_>>();
        if translates(&plan.nat) != translates(nat) {
            return wrong(format!("router {}: one that translates stays one that translates", plan.name));
        }
        let specs: Vec<_> = nodes.iter().copied().zip(nat.0.clone()).collect();
        self.forwarder.run(move |network, now| {
            specs.into_iter().for_each(|(node, spec)| network.restart_nat(node, Some(spec), None, now))
        })
    }

    fn change_address(&self, nodes: &[usize], address: Ipv4Addr) -> Result<(), LabError> {
        let nodes = nodes.to_vec();
        self.forwarder.run(move |network, now| {
            let translates = |node: &&usize| !network.router(**node).nat.external().is_empty();
            let Some(node) = nodes.iter().rev().find(translates).copied() else {
                return wrong("this router translates nothing, so it has no external address".into());
            };
            if network.is_taken(address.into()) {
                return wrong(format!("the address {address} is taken"));
            }
            network.readdress(node, IpAddr::from(address), now);
            Ok(())
        })?
    }
}

fn wrong<T>(mistake: String) -> Result<T, LabError> {
    Err(LabError::Words(mistake))
}
