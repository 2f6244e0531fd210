//! The user-space driver: hosts in namespaces whose only interface is a TUN device, and one thread that runs the modelled
//! NATs between these devices. It needs neither nftables nor netem, and supports every behaviour of the model.

use std::{
    fs::File,
    io::{self, Read, Write},
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
    address::{SERVER4, SERVER6, Site},
    host::Host,
    internet::{Internet, Port},
    netns::Namespace,
    sys,
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
        let line = PathSpec { delay: Duration::ZERO, ..PathSpec::default() };
        Self { nat: nat.into(), line, hosts: 1 }
    }

    /// The same on another line.
    #[must_use]
    pub fn over(self, line: PathSpec) -> Self {
        Self { line, ..self }
    }
}

/// The parts of a built laboratory.
#[derive(Debug)]
pub(crate) struct Tun {
    pub(crate) hosts: Vec<Host>,
    pub(crate) server: Host,
    pub(crate) forwarder: Forwarder,
}

/// The thread that forwards packets. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Option<oneshot::Sender<()>>,
    restart: mpsc::UnboundedSender<()>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Room for the largest packet that a device with the usual MTU hands out.
const LARGEST: usize = 2048;
/// Packets that may wait for the forwarder, as in a device's queue; when it is full, they wait in the device.
const QUEUE: usize = 512;

/// Builds hosts behind these NATs. The same seed gives the same ports and the same losses for the same packets.
pub(crate) fn build(sites: &[TunSite], seed: u64) -> Result<Tun, LabError> {
    let mut internet = Internet::new(seed);
    let mut devices = Vec::new();
    let mut hosts = Vec::new();
    for (site, plan) in sites.iter().enumerate() {
        let addresses = internet.add(&plan.nat, plan.hosts, plan.line);
        for host in 0..plan.hosts {
            let (built, device) = attach_host(&addresses, host)?;
            hosts.push(built);
            devices.push((Port::Host { site, host }, device));
        }
    }
    let (server, device) = attach_server()?;
    devices.push((Port::Server, device));
    Ok(Tun { hosts, server, forwarder: Forwarder::start(internet, devices)? })
}

fn attach_host(site: &Site, host: u8) -> Result<(Host, File), LabError> {
    let namespace = Namespace::new(format!("host {}.{host}", site.number))?;
    let device = open_device(&namespace)?;
    let (ip4, ip6, prefix4) = (site.host4(host), site.host6(host), site.prefix4());
    namespace.ip(&format!(
        "link set eth0 up\naddr add {ip4}/{prefix4} dev eth0\naddr add {ip6}/64 dev eth0 nodad\n\
         route add default via {} dev eth0\nroute add ::/0 via {} dev eth0\n",
        site.router4(),
        site.router6()
    ))?;
    namespace.settle()?;
    Ok((Host::new(namespace, ip4, ip6), device))
}

fn attach_server() -> Result<(Host, File), LabError> {
    let namespace = Namespace::new("server")?;
    let device = open_device(&namespace)?;
    let mut batch = String::from("link set eth0 up\n");
    SERVER4.iter().for_each(|ip| batch += &format!("addr add {ip}/24 dev eth0\n"));
    SERVER6.iter().for_each(|ip| batch += &format!("addr add {ip}/64 dev eth0 nodad\n"));
    namespace.ip(&(batch + "route add default dev eth0\nroute add ::/0 dev eth0\n"))?;
    namespace.settle()?;
    Ok((Host::new(namespace, SERVER4[0], SERVER6[0]), device))
}

fn open_device(namespace: &Namespace) -> Result<File, LabError> {
    namespace.run(|| sys::open_tun("eth0")).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => LabError::Denied {
            operation: "opening /dev/net/tun",
            advice: "load the module (modprobe tun), or give the container the device (--device /dev/net/tun)",
            source,
        },
        io::ErrorKind::PermissionDenied => LabError::Denied {
            operation: "opening /dev/net/tun",
            advice: "run as root, or let this user read and write the device (mode 0666, as most distributions have it)",
            source,
        },
        _ => LabError::Io { operation: "opening a TUN device".into(), source },
    })
}

impl Forwarder {
    fn start(internet: Internet, devices: Vec<(Port, File)>) -> Result<Self, LabError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::io("starting the forwarder"))?;
        let (stop, stopped) = oneshot::channel();
        let (restart, restarts) = mpsc::unbounded_channel();
        let run = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = forward(internet, devices, restarts) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new()
            .name("forwarder".into())
            .spawn(run)
            .map_err(LabError::io("starting a thread"))?;
        Ok(Self { stop: Some(stop), restart, thread: Some(thread) })
    }
}

impl Forwarder {
    /// Restarts all NATs, so that they lose their state.
    pub(crate) fn restart_nats(&self) {
        // If the thread has ended, there are no NATs either.
        let _ = self.restart.send(());
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
async fn forward(
    mut internet: Internet,
    devices: Vec<(Port, File)>,
    mut restarts: mpsc::UnboundedReceiver<()>,
) {
    let start = Instant::now();
    let (entered, mut entering) = mpsc::channel(QUEUE);
    let mut writers = Vec::new();
    for (port, device) in devices {
        let Ok(writer) = device.try_clone() else { return };
        let entered = entered.clone();
        writers.push((port, writer));
        tokio::task::spawn(async move { read(port, device, &entered).await });
    }
    drop(entered);
    loop {
        let due = internet.due().map(|due| start + due);
        tokio::select! {
            packet = entering.recv() => match packet {
                Some((port, bytes)) => internet.enter(port, bytes, start.elapsed()),
                None => return,
            },
            Some(()) = restarts.recv() => internet.restart_nats(),
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => {}
        }
        while let Some((port, bytes)) = internet.leave(start.elapsed()) {
            if let Some((_, device)) = writers.iter_mut().find(|(at, _)| *at == port) {
                // A device accepts every packet; it is for the host to judge a malformed one.
                let _ = device.write(&bytes);
            }
        }
    }
}

/// Reads packets from one device for as long as it is there.
async fn read(port: Port, device: File, entered: &mpsc::Sender<(Port, Vec<u8>)>) {
    if rustix::io::ioctl_fionbio(&device, true).is_err() {
        return;
    }
    let Ok(device) = sys::watch(device) else { return };
    let mut buffer = [0; LARGEST];
    loop {
        let Ok(mut ready) = device.readable().await else { return };
        match ready.try_io(|device| device.get_ref().read(&mut buffer)) {
            Ok(Ok(length)) => {
                if entered.send((port, buffer[..length].to_vec())).await.is_err() {
                    return;
                }
            }
            Ok(Err(_)) => return,
            Err(_would_block) => {}
        }
    }
}
