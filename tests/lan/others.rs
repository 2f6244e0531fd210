//! Other hosts of a local network: a device that answers searches, and one that floods.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use nat_check_core::lan::PORT;
use natlab::{LabError, netns::Namespace};

/// Threads of a host, which end with this value.
pub(crate) struct Other {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Other {
    /// Packets that came back.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Relaxed)
    }

    fn start(host: &Namespace, jobs: Vec<fn(&AtomicBool, &AtomicUsize) -> io::Result<()>>) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = jobs.into_iter().map(|job| {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            // A thread stays in the network that it was started in.
            host.run(move || {
                std::thread::spawn(move || job(&stop, &answers).expect("a host of the laboratory"))
            })
        });
        let threads = threads.collect();
        Self { stop, answers, threads }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(50);
const MDNS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// A device that answers searches of UPnP and questions of mDNS.
pub(crate) fn responder(host: &Namespace) -> Result<Other, LabError> {
    Ok(Other::start(host, vec![ssdp, mdns]))
}

/// Sockets of a host that is being set up fail for a moment no more: they are opened by the time this returns.
fn member(port: u16, group: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.join_multicast_v4(&group, &Ipv4Addr::new(192, 168, 77, 3))?;
    socket.set_multicast_loop_v4(false)?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn ssdp(stop: &AtomicBool, _: &AtomicUsize) -> io::Result<()> {
    let socket = member(1900, Ipv4Addr::new(239, 255, 255, 250))?;
    let mut buffer = [0; 1500];
    while !stop.load(Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && buffer[..length].starts_with(b"M-SEARCH")
        {
            socket.send_to(b"HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nSERVER: box/1.0\r\n\r\n", from)?;
        }
    }
    Ok(())
}

/// To a question from the port of mDNS it answers to the group, to others where they come from (RFC 6762 section 6.7).
fn mdns(stop: &AtomicBool, _: &AtomicUsize) -> io::Result<()> {
    let socket = member(MDNS.port(), *MDNS.ip())?;
    let mut buffer = [0; 1500];
    while !stop.load(Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        if length < 12 || buffer[2] & 0x80 != 0 {
            continue;
        }
        let mut answer = buffer[..length].to_vec();
        (answer[2], answer[7]) = (0x84, 1);
        let to = if from.port() == MDNS.port() { SocketAddr::from(MDNS) } else { from };
        socket.send_to(&answer, to)?;
    }
    Ok(())
}

/// A host that sends beacons in the name of hosts that are not there, and of itself under ever new ids.
pub(crate) fn flood(host: &Namespace) -> Result<Other, LabError> {
    Ok(Other::start(host, vec![flooding]))
}

fn flooding(stop: &AtomicBool, answers: &AtomicUsize) -> io::Result<()> {
    let own = Ipv4Addr::new(192, 168, 77, 4);
    let sockets: Vec<UdpSocket> = (0..20).map(|_| UdpSocket::bind((own, 0))).collect::<Result<_, _>>()?;
    for socket in &sockets {
        socket.set_broadcast(true)?;
        socket.set_nonblocking(true)?;
    }
    let (mut buffer, mut number) = ([0; 1500], 0_u64);
    while !stop.load(Relaxed) {
        // 2,000 a second.
        std::thread::sleep(Duration::from_millis(10));
        for socket in &sockets {
            number += 1;
            let beacon = beacon(number, own, socket.local_addr()?.port());
            // The queue of the device may be full.
            _ = socket.send_to(&beacon, (Ipv4Addr::new(192, 168, 77, 255), PORT));
            while socket.recv_from(&mut buffer).is_ok() {
                answers.fetch_add(1, Relaxed);
            }
        }
    }
    Ok(())
}

/// A beacon without records, sent to the broadcast address.
fn beacon(number: u64, ip: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = b"NCL1".to_vec();
    bytes.extend([4, 0, 0x10, 0, 0, 1]);
    bytes.extend((number | 1 << 63).to_be_bytes());
    bytes.extend((number | 1 << 62).to_be_bytes());
    bytes.extend(ip.octets());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 18]);
    bytes
}
