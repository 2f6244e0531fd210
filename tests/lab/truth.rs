//! What a laboratory's NAT really does, seen with both hands: the sockets on either side of it are ours, so nothing
//! of the product has a part in it. What nat-check reports is judged by this, and so are the drivers.

use std::{
    collections::BTreeSet,
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use shared::nat::{Filtering, Mapping};

use crate::{Lab, LabError, address::server_endpoint, host::Host};

/// The two axes, and the external addresses from which they follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// RFC 4787 section 4.1.
    pub mapping: Mapping,
    /// RFC 4787 section 5.
    pub filtering: Filtering,
    /// Where one socket's packets to the four endpoints came from.
    pub external: [SocketAddr; 4],
}

/// Packets are a millisecond away; who waits this long waits in vain.
const PATIENCE: Duration = Duration::from_secs(5);

/// Observes the NAT in front of a host. The ports of a probe server must be free on the server host.
///
/// # Errors
/// When nothing passes, or addresses come out in a pattern that has no name.
pub fn observe(lab: &Lab, host: &Host, v6: bool) -> Result<Truth, LabError> {
    let four = [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(ip, port)| server_endpoint(v6, ip, port));
    let mut servers = Vec::new();
    for endpoint in four {
        servers.push(socket(lab.server_host(), endpoint)?);
    }
    let any = SocketAddr::new(host.ip(v6), 0);
    let filtering = filtering(&socket(host, any)?, &servers, &four)?;
    let inside = socket(host, any)?;
    let local = inside.local_addr().map_err(LabError::io("reading an address"))?;
    let mut external = [any; 4];
    for ((server, to), seen) in servers.iter().zip(four).zip(&mut external) {
        *seen = pass(&inside, to, server)?;
    }
    Ok(Truth { mapping: mapping(local, &external)?, filtering, external })
}

/// What becomes of a socket's flows once a stranger has written to its external endpoint, unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remap {
    /// The socket has another external endpoint towards the stranger.
    pub towards_the_stranger: bool,
    /// The same one as that also towards others that it writes to later.
    pub later_flows_follow: bool,
    /// But still the old one towards those that it wrote to before.
    pub old_flows_stay: bool,
}

/// Has an endpoint of the server write to a host's external endpoint first, and the host to it afterwards.
///
/// # Errors
/// When nothing passes.
pub fn early_packet(lab: &Lab, host: &Host) -> Result<Remap, LabError> {
    let [known, later, stranger] =
        [(0, 0), (0, 1), (1, 1)].map(|(ip, port)| server_endpoint(false, ip, port));
    let server = |at| socket(lab.server_host(), at);
    let (s_known, s_later, s_stranger) = (server(known)?, server(later)?, server(stranger)?);
    let inside = socket(host, SocketAddr::new(host.ip(false), 0))?;
    let hole = pass(&inside, known, &s_known)?;
    for (from, word) in [(&s_stranger, b"early"), (&s_known, b"asked")] {
        from.send_to(word, hole).map_err(LabError::io(format!("sending to {hole}")))?;
    }
    // Nothing on the way reorders: when the second one is there, the first one has passed the NAT or not.
    inside.recv_from(&mut [0; 16]).map_err(LabError::io("waiting for the contacted endpoint"))?;
    let towards = pass(&inside, stranger, &s_stranger)?;
    Ok(Remap {
        towards_the_stranger: towards != hole,
        later_flows_follow: pass(&inside, later, &s_later)? == towards,
        old_flows_stay: pass(&inside, known, &s_known)? == hole,
    })
}

/// Sends from inside to one server endpoint: where it seemed to come from.
fn pass(inside: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> Result<SocketAddr, LabError> {
    let operation = || format!("passing a packet to {to}");
    inside.send_to(b"out", to).map_err(LabError::io(operation()))?;
    let (_, from) = server.recv_from(&mut [0; 16]).map_err(LabError::io(operation()))?;
    Ok(from)
}

/// Contacts one endpoint, has all the others write to the hole, and last that one again. Nothing on the way reorders
/// packets, so what has not come when the last one is there was filtered: no time-out is needed to know.
fn filtering(
    inside: &UdpSocket,
    servers: &[UdpSocket],
    four: &[SocketAddr; 4],
) -> Result<Filtering, LabError> {
    let hole = pass(inside, four[0], &servers[0])?;
    for (number, server) in (0u8..).zip(servers).skip(1).chain([(0, &servers[0])]) {
        server.send_to(&[number], hole).map_err(LabError::io(format!("sending to {hole}")))?;
    }
    let mut came = BTreeSet::new();
    let mut buffer = [0; 16];
    loop {
        let (_, from) =
            inside.recv_from(&mut buffer).map_err(LabError::io("waiting for the contacted endpoint"))?;
        if from == four[0] {
            break;
        }
        came.insert(buffer[0]);
    }
    match came.into_iter().collect::<Vec<_>>()[..] {
        [1, 2, 3] => Ok(Filtering::EndpointIndependent),
        [1] => Ok(Filtering::AddressDependent),
        [2] => Ok(Filtering::PortDependent),
        [] => Ok(Filtering::AddressAndPortDependent),
        ref other => Err(LabError::Words(format!("only endpoints {other:?} were let in: no class has this"))),
    }
}

fn mapping(local: SocketAddr, [pp, pa, ap, aa]: &[SocketAddr; 4]) -> Result<Mapping, LabError> {
    // First letter: address, second: port; p = primary, a = alternate.
    let by_port = pp != pa || ap != aa;
    let by_address = pp != ap || pa != aa;
    match (by_address, by_port) {
        (false, false) if *pp == local => Ok(Mapping::Direct),
        (false, false) => Ok(Mapping::EndpointIndependent),
        (true, false) => Ok(Mapping::AddressDependent),
        (false, true) => Ok(Mapping::PortDependent),
        (true, true) if pp != aa && pa != ap => Ok(Mapping::AddressAndPortDependent),
        (true, true) => {
            Err(LabError::Words(format!("external addresses {pp} {pa} {ap} {aa} have no pattern")))
        }
    }
}

fn socket(host: &Host, at: SocketAddr) -> Result<UdpSocket, LabError> {
    let open = move || -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind(at)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    host.run(open).map_err(LabError::io(format!("opening a socket at {at}")))
}

/// Whether a UDP packet to the server host's address arrives, with a TCP connection as proof that the way is there.
///
/// # Errors
/// When not even TCP gets through.
pub fn udp_is_blocked(lab: &Lab, host: &Host) -> Result<bool, LabError> {
    let at = server_endpoint(false, 0, 0);
    let server = socket(lab.server_host(), at)?;
    server.set_read_timeout(Some(Duration::from_millis(200))).map_err(LabError::io("setting a time-out"))?;
    let inside = socket(host, SocketAddr::new(host.ip(false), 0))?;
    let listener = lab
        .server_host()
        .run(move || std::net::TcpListener::bind(at))
        .map_err(LabError::io(format!("listening at {at}")))?;
    // A router that rejects tells the sender, who then cannot send: as blocked as it gets.
    let sent = inside.send_to(b"out", at);
    host.run(move || std::net::TcpStream::connect_timeout(&at, PATIENCE))
        .map_err(LabError::io(format!("connecting to {at}")))?;
    listener.accept().map_err(LabError::io("accepting a connection"))?;
    // The connection took the same way later: had the packet not been dropped, it would be here.
    Ok(sent.is_err() || server.recv_from(&mut [0; 16]).is_err())
}
