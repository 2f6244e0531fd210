//! The user-space driver: hosts in namespaces whose only interfaces are TUN devices, and one thread that runs the modelled
//! NATs between these devices. It needs neither nftables nor netem, and supports every behaviour of the model.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read, Write},
    net::IpAddr,
    thread,
    time::Duration,
};

use nat_check_core::net::sim::PathSpec;
use shared::nat::model::Stack;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use crate::{
    LabError,
    address::{SERVER4, SERVER6},
    host::Host,
    isolation::Identity,
    netns::Namespace,
    network::{Device, Network, Point},
    sys,
    topology::{
        Families, LinkSpec, Topology,
        plan::{Interface, Plan, plan},
    },
};

/// One customer's access to the Internet.
#[derive(Clone, Debug, PartialEq)]
pub struct TunSite {
    /// Its NATs, the innermost first.
    pub nat: Stack,
    /// Its access line.
    pub line: PathSpec,
    /// How many hosts are on its LAN.
    pub hosts: u8,
}

impl TunSite {
    /// One host behind a NAT, on a line without delay and loss.
    #[must_use]
    pub fn new(nat: impl Into<Stack>) -> Self {
        Self { nat: nat.into(), line: LinkSpec::perfect().path, hosts: 1 }
    }

    /// The same on another line.
    #[must_use]
    pub fn over(self, line: PathSpec) -> Self {
        Self { line, ..self }
    }
}

/// The topology of some customers side by side, with both families.
pub(crate) fn sites(sites: &[TunSite], seed: u64) -> Topology {
    let mut topology = Topology::new().seed(seed).families(Families::DUAL);
    for (number, site) in sites.iter().enumerate() {
        let router = format!("router-{number}");
        topology = topology.router_of(&router, site.nat.clone(), site.line.into());
        for host in 0..site.hosts {
            topology = topology.host(&format!("host-{number}-{host}"), &router);
        }
    }
    topology
}

/// The parts of a built laboratory.
#[derive(Debug)]
pub(crate) struct Tun {
    pub(crate) hosts: Vec<Host>,
    pub(crate) server: Host,
    pub(crate) forwarder: Forwarder,
    pub(crate) plan: Plan,
    /// For each host the numbers of its devices.
    pub(crate) devices: Vec<Vec<usize>>,
}

/// Room for the largest packet that a device with the usual MTU hands out.
const LARGEST: usize = 2048;
/// Packets that may wait for the forwarder, as in a device's queue; when it is full, they wait in the device.
const QUEUE: usize = 512;
/// Packets read from one device before the others get their turn.
const BATCH: usize = 64;

/// Builds the hosts, and the network between them.
pub(crate) fn build(topology: &Topology) -> Result<Tun, LabError> {
    let plan = plan(topology)?;
    let mut network = Network::new(topology.seed);
    for node in &plan.nodes {
        network.add_router(node.lan.clone(), node.nat.clone(), &node.external, node.up, node.line);
    }
    let names = names(topology, &plan);
    let families = topology.families;
    let mut files = Vec::new();
    let (mut hosts, mut devices) = (Vec::new(), Vec::new());
    for (number, (host, interfaces)) in topology.hosts.iter().zip(&plan.hosts).enumerate() {
        let identity = Identity { hostname: host.name.clone(), hosts: names.clone() };
        let (namespace, opened) =
            attach(identity, interfaces.len(), families, &configure(interfaces, families))?;
        let added = interfaces.iter().zip(opened).map(|(interface, file)| {
            files.push(file);
            network.add_device(Device { host: number, at: Some(interface.at), ips: addresses(interface) })
        });
        devices.push(added.collect());
        hosts.push(Host::new(namespace, interfaces[0].ip4, interfaces[0].ip6));
    }
    let identity = Identity { hostname: "server".into(), hosts: names };
    let (namespace, opened) = attach(identity, 1, families, &configure_server(families))?;
    files.extend(opened);
    let ips = SERVER4.map(IpAddr::from).into_iter().chain(SERVER6.map(IpAddr::from)).collect();
    network.add_device(Device { host: topology.hosts.len(), at: Some(Point::Internet), ips });
    let server = Host::new(namespace, SERVER4[0], SERVER6[0]);
    Ok(Tun { hosts, server, forwarder: Forwarder::start(network, files)?, plan, devices })
}

/// The addresses of an interface.
pub(crate) fn addresses(interface: &Interface) -> Vec<IpAddr> {
    vec![interface.ip4.into(), interface.ip6.into()]
}

/// Commands for `ip` that give a host's interfaces their addresses and routes.
pub(crate) fn configure(interfaces: &[Interface], families: Families) -> String {
    let mut batch = String::new();
    for (number, interface) in interfaces.iter().enumerate() {
        let Interface { ip4, prefix4, ip6, gateway, routes, .. } = interface;
        let _ = writeln!(batch, "link set eth{number} up");
        let via = |v6: bool| match gateway {
            Some((_, gateway)) if v6 => format!("via {gateway} dev eth{number}"),
            Some((gateway, _)) => format!("via {gateway} dev eth{number}"),
            None => format!("dev eth{number}"),
        };
        if families.v4 {
            let _ = writeln!(batch, "addr add {ip4}/{prefix4} dev eth{number}");
        }
        if families.v6 {
            let _ = writeln!(batch, "addr add {ip6}/64 dev eth{number} nodad");
        }
        // The first interface has the default route.
        if number == 0 {
            if families.v4 {
                let _ = writeln!(batch, "route replace default {}", via(false));
            }
            if families.v6 {
                let _ = writeln!(batch, "route replace ::/0 {}", via(true));
            }
        }
        for route in routes.iter().filter(|route| if route.0.is_ipv6() { families.v6 } else { families.v4 }) {
            let _ = writeln!(batch, "route replace {route} {}", via(route.0.is_ipv6()));
        }
    }
    batch
}

fn configure_server(families: Families) -> String {
    let mut batch = String::from("link set eth0 up\n");
    if families.v4 {
        SERVER4.iter().for_each(|ip| batch += &format!("addr add {ip}/24 dev eth0\n"));
        batch += "route add default dev eth0\n";
    }
    if families.v6 {
        SERVER6.iter().for_each(|ip| batch += &format!("addr add {ip}/64 dev eth0 nodad\n"));
        batch += "route add ::/0 dev eth0\n";
    }
    batch
}

/// The lines for `/etc/hosts`: the names of all hosts, by the addresses that they begin with.
fn names(topology: &Topology, plan: &Plan) -> String {
    let mut lines = String::new();
    let mut line = |name: &str, ip4: IpAddr, ip6: IpAddr| {
        for ip in [(topology.families.v4, ip4), (topology.families.v6, ip6)] {
            if let (true, ip) = ip {
                let _ = writeln!(lines, "{ip} {name}");
            }
        }
    };
    line("server echo", SERVER4[0].into(), SERVER6[0].into());
    line("server-alternate", SERVER4[1].into(), SERVER6[1].into());
    for (host, interfaces) in topology.hosts.iter().zip(&plan.hosts) {
        line(&host.name, interfaces[0].ip4.into(), interfaces[0].ip6.into());
    }
    lines
}

/// A host with so many devices, which are returned as well.
fn attach(
    identity: Identity,
    devices: usize,
    families: Families,
    batch: &str,
) -> Result<(Namespace, Vec<File>), LabError> {
    let namespace = Namespace::new(identity.hostname.clone())?.identified(identity);
    if !families.v6 {
        namespace.ipv6_setting("disable_ipv6", 1)?;
    }
    let files = (0..devices).map(|number| open_device(&namespace, number)).collect::<Result<_, _>>()?;
    namespace.ip(batch)?;
    namespace.settle()?;
    Ok((namespace, files))
}

fn open_device(namespace: &Namespace, number: usize) -> Result<File, LabError> {
    namespace.run(move || sys::open_tun(&format!("eth{number}"))).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LabError::Denied {
            operation: "opening /dev/net/tun",
            advice: "load the module (modprobe tun), or give the container the device (--device /dev/net/tun)",
            source,
        },
        io::ErrorKind::PermissionDenied => LabError::Denied {
            operation: "opening /dev/net/tun",
            advice: "run as root, let this user read and write the device (mode 0666, as most distributions have it), \
                     or give the container the device (--device /dev/net/tun)",
            source,
        },
        _ => LabError::Io { operation: "opening a TUN device".into(), source },
    })
}

type Job = Box<dyn FnOnce(&mut Network, Duration) + Send>;

/// The thread that forwards packets. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Option<oneshot::Sender<()>>,
    jobs: mpsc::UnboundedSender<Job>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Forwarder {
    fn start(network: Network, devices: Vec<File>) -> Result<Self, LabError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::io("starting the forwarder"))?;
        let (stop, stopped) = oneshot::channel();
        let (jobs, inbox) = mpsc::unbounded_channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = forward(network, devices, inbox) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new()
            .name("forwarder".into())
            .spawn(run)
            .map_err(LabError::io("starting a thread"))?;
        Ok(Self { stop: Some(stop), jobs, thread: Some(thread) })
    }

    /// Runs a job on the network, between two packets, and returns its result.
    pub(crate) fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Network, Duration) -> R + Send + 'static,
    ) -> Result<R, LabError> {
        let (answer, result) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |network, now| {
            let _ = answer.send(job(network, now));
        });
        let gone = || LabError::Words("the thread that forwards packets has ended".into());
        self.jobs.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed, and no packets were forwarded since.
            let _ = thread.join();
        }
    }
}

/// Forwards packets. One task for each device reads, this one does all the rest, so the model needs no lock.
async fn forward(mut network: Network, devices: Vec<File>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let start = Instant::now();
    let (entered, mut entering) = mpsc::channel(QUEUE);
    let mut writers = Vec::new();
    for (number, device) in devices.into_iter().enumerate() {
        let Ok(writer) = device.try_clone() else { return };
        let entered = entered.clone();
        writers.push(writer);
        tokio::task::spawn(async move { read(number, device, &entered).await });
    }
    drop(entered);
    let mut packets = Vec::with_capacity(BATCH);
    loop {
        let due = network.due().map(|due| start + due);
        tokio::select! {
            count = entering.recv_many(&mut packets, BATCH) => {
                if count == 0 {
                    return;
                }
            }
            Some(job) = jobs.recv() => job(&mut network, start.elapsed()),
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => {}
        }
        let now = start.elapsed();
        packets.drain(..).for_each(|(device, bytes)| network.enter(device, bytes, now));
        while let Some((device, bytes)) = network.leave(now) {
            // A device accepts every packet; it is for the host to judge a malformed one.
            let _ = writers[device].write(&bytes);
        }
    }
}

/// Reads packets from one device for as long as it is there.
async fn read(number: usize, device: File, entered: &mpsc::Sender<(usize, Vec<u8>)>) {
    if rustix::io::ioctl_fionbio(&device, true).is_err() {
        return;
    }
    let Ok(device) = sys::watch(device) else { return };
    let mut buffer = [0; LARGEST];
    loop {
        let Ok(mut ready) = device.readable().await else { return };
        match ready.try_io(|device| device.get_ref().read(&mut buffer)) {
            Ok(Ok(length)) => {
                if entered.send((number, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
            // The interface is down: it may come up again.
            Ok(Err(e)) if e.raw_os_error() == Some(libc::EIO) => ready.clear_ready(),
            Ok(Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}
