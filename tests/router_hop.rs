//! The server's answer table through a router hop: every endpoint, every CHANGE-REQUEST, both families, both dialects.
//! On loopback a server that sends with a time to live of 1, or from the wrong socket, can look right.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        net::{SocketAddr, UdpSocket},
        process::ExitCode,
        time::Duration,
    };

    use natlab::{
        Lab, LabError,
        address::server_endpoint,
        harness::{self, trial},
        host::Host,
    };
    use shared::{
        nat::model::{SpecError, Stack},
        stun::{Class, Dialect, TransactionId, View, Writer, attr},
    };

    const PATIENCE: Duration = Duration::from_secs(5);

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let table = |name: &'static str, v6, dialect| {
                trial(name, move || answers_come_from_where_they_were_asked_to(v6, dialect))
            };
            vec![
                table("modern_ipv4", false, Dialect::Modern),
                table("modern_ipv6", true, Dialect::Modern),
                table("classic_ipv4", false, Dialect::Classic),
                trial("response_port", answers_go_to_the_port_they_were_asked_to),
                trial("hops_are_counted", the_way_has_hops),
            ]
        })
    }

    fn answers_come_from_where_they_were_asked_to(v6: bool, dialect: Dialect) -> Result<(), LabError> {
        let lab = behind("open")?;
        let _server = lab.server()?;
        let mut rng = fastrand::Rng::with_seed(1);
        let socket = socket(lab.host(0), v6);
        let local = socket.local_addr().expect("an address");
        for asked in 0..4 {
            for change in 0..4 {
                let id = id(dialect, &mut rng);
                let flags = change_flags(change);
                let request = request(&id, |w| {
                    w.u32(attr::CHANGE_REQUEST, flags);
                });
                socket.send_to(&request, endpoint(v6, asked)).expect("sending");
                let (answer, from) = receive(&socket);
                let answer = View::parse(&answer).expect("an answer that is STUN");
                let what = format!("endpoint {asked}, change {change}");
                assert_eq!(from, endpoint(v6, asked ^ change), "source, {what}");
                assert_eq!((answer.class(), answer.id()), (Class::Success, id), "{what}");
                assert_eq!(answer.mapped(), Some(local), "{what}");
                let (origin, other) = match dialect {
                    Dialect::Modern => (attr::RESPONSE_ORIGIN, attr::OTHER_ADDRESS),
                    Dialect::Classic => (attr::SOURCE_ADDRESS, attr::CHANGED_ADDRESS),
                };
                assert_eq!(answer.address(origin), Some(from), "the origin it states, {what}");
                assert_eq!(answer.address(other), Some(endpoint(v6, asked ^ 3)), "the other address, {what}");
            }
        }
        Ok(())
    }

    fn answers_go_to_the_port_they_were_asked_to() -> Result<(), LabError> {
        let lab = behind("open")?;
        let _server = lab.server()?;
        let mut rng = fastrand::Rng::with_seed(2);
        for v6 in [false, true] {
            let (asking, listening) = (socket(lab.host(0), v6), socket(lab.host(0), v6));
            let id = TransactionId::modern(&mut rng);
            let port = listening.local_addr().expect("an address").port();
            let request = request(&id, |w| {
                w.response_port(port);
            });
            asking.send_to(&request, endpoint(v6, 0)).expect("sending");
            let (answer, from) = receive(&listening);
            let answer = View::parse(&answer).expect("an answer that is STUN");
            assert_eq!((from, answer.id()), (endpoint(v6, 0), id));
            assert_eq!(answer.mapped(), Some(asking.local_addr().expect("an address")));
        }
        Ok(())
    }

    /// What the other tests rely on: a packet with a time to live of 1 or 2 does not get to the server, 3 is enough.
    fn the_way_has_hops() -> Result<(), LabError> {
        let lab = behind("open")?;
        let _server = lab.server()?;
        let mut rng = fastrand::Rng::with_seed(3);
        let socket = socket(lab.host(0), false);
        let mut ids = Vec::new();
        for ttl in 1..=3 {
            socket.set_ttl(ttl).expect("setting a time to live");
            ids.push(TransactionId::modern(&mut rng));
            // An ICMP error about the packet before may come first.
            let request = request(&ids[ids.len() - 1], |_| ());
            let _ = socket.take_error();
            socket.send_to(&request, endpoint(false, 0)).expect("sending");
        }
        let (answer, _) = receive(&socket);
        assert_eq!(View::parse(&answer).expect("an answer that is STUN").id(), ids[2]);
        Ok(())
    }

    fn behind(nat: &str) -> Result<Lab, LabError> {
        let nat: Stack = nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        Lab::kernel(&[nat])
    }

    /// Endpoint number: bit 1 chooses the address, bit 0 the port, so that changes are bits, too.
    fn endpoint(v6: bool, number: usize) -> SocketAddr {
        server_endpoint(v6, number >> 1, number & 1)
    }

    fn change_flags(change: usize) -> u32 {
        let flag = |bit: usize, flag: u32| if change & bit != 0 { flag } else { 0 };
        flag(2, attr::CHANGE_IP) | flag(1, attr::CHANGE_PORT)
    }

    fn id(dialect: Dialect, rng: &mut fastrand::Rng) -> TransactionId {
        match dialect {
            Dialect::Modern => TransactionId::modern(rng),
            Dialect::Classic => TransactionId::classic(rng),
        }
    }

    fn request(id: &TransactionId, with: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = [0; 128];
        let mut writer = Writer::new(&mut buffer, Class::Request, id);
        with(&mut writer);
        let length = writer.finish().expect("it fits");
        buffer[..length].to_vec()
    }

    fn socket(host: &Host, v6: bool) -> UdpSocket {
        let at = SocketAddr::new(host.ip(v6), 0);
        let socket = host.run(move || UdpSocket::bind(at)).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        socket
    }

    fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer).expect("an answer in time");
        (buffer[..length].to_vec(), from)
    }
}
