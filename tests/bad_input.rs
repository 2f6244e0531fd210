//! Datagrams that are none: random, truncated and hostile ones to the server and to the client, over a real network.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        net::{IpAddr, SocketAddr, UdpSocket},
        process::ExitCode,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
        time::Duration,
    };

    use natlab::{
        Lab, LabError,
        address::{SERVER4, server_endpoint},
        client::nat_check,
        harness::{self, trial},
        host::Host,
        tun::TunSite,
    };
    use shared::{
        nat::model::{SpecError, Stack},
        stun::{Class, TransactionId, View, Writer, attr},
    };

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            vec![
                trial("server::takes_no_harm", the_server_takes_no_harm),
                trial("client::finds_no_server_in_garbage", the_client_finds_no_server_in_garbage),
                trial("client::says_who_did_not_answer", the_client_says_who_did_not_answer),
            ]
        })
    }

    /// After thousands of broken requests it answers a whole one as before, and to none of the broken ones with success.
    fn the_server_takes_no_harm() -> Result<(), LabError> {
        let lab = behind("open")?;
        let server = lab.server()?;
        let socket = socket(lab.host(0));
        let mut rng = fastrand::Rng::with_seed(1);
        let whole = request(&TransactionId::modern(&mut rng));
        for number in 0..4000 {
            let to = server_endpoint(false, number & 1, number >> 1 & 1);
            socket.send_to(&broken(&whole, &mut rng), to).expect("sending");
        }
        let id = TransactionId::modern(&mut rng);
        let mut buffer = [0; 2048];
        // Loads of answers (errors to what is well-formed but wrong) may wait before the one that is meant.
        for _ in 0..50 {
            socket.send_to(&request(&id), server_endpoint(false, 0, 0)).expect("sending");
            while let Ok((length, _)) = socket.recv_from(&mut buffer) {
                let answer = View::parse(&buffer[..length]).expect("an answer that is STUN");
                if answer.id() == id {
                    assert_eq!(answer.class(), Class::Success);
                    server.signal(rustix::process::Signal::TERM)?;
                    let output = server.finish(Duration::from_secs(20))?;
                    assert_eq!(output.code, 0, "{}", output.stderr);
                    assert!(!output.stderr.contains("panicked"), "{}", output.stderr);
                    return Ok(());
                }
            }
        }
        panic!("it does not answer any more; it printed {}", server.printed());
    }

    fn the_client_finds_no_server_in_garbage() -> Result<(), LabError> {
        let lab = behind("full-cone")?;
        let _babbler = Babbler::start(lab.server_host());
        let ran = nat_check(lab.host(0), SERVER4[0].into(), &["--timeout", "8"])?;
        assert_eq!(ran.output.code, 3, "{}", ran.output.stderr);
        assert!(!ran.output.stderr.contains("panicked"), "{}", ran.output.stderr);
        assert_eq!(ran.family()["status"], "unreachable", "{}", ran.report);
        Ok(())
    }

    fn the_client_says_who_did_not_answer() -> Result<(), LabError> {
        let lab = behind("linux")?;
        // The first is a host without a server, the second an address that nobody has.
        for silent in ["198.51.100.10", "198.51.100.77"] {
            let ip: IpAddr = silent.parse().expect("an address");
            let ran = nat_check(lab.host(0), ip, &["--timeout", "8"])?;
            assert_eq!(ran.output.code, 3, "{}", ran.output.stderr);
            assert_eq!(ran.output.stderr.lines().count(), 1, "one line: {}", ran.output.stderr);
            assert!(ran.output.stderr.contains(silent), "{}", ran.output.stderr);
        }
        Ok(())
    }

    /// A server that answers everything with something, never with what is right.
    struct Babbler {
        stop: Arc<AtomicBool>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Babbler {
        fn start(host: &Host) -> Self {
            let at = server_endpoint(false, 0, 0);
            let socket = host.run(move || UdpSocket::bind(at)).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
            let stop = Arc::new(AtomicBool::new(false));
            let stopped = Arc::clone(&stop);
            let thread = thread::spawn(move || {
                let mut rng = fastrand::Rng::with_seed(2);
                let mut buffer = [0; 2048];
                while !stopped.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    // The request itself, back again; parts of an answer; an answer to somebody else; noise.
                    let whole = answer(&buffer[..length], from, &mut rng);
                    let others = [
                        buffer[..length].to_vec(),
                        broken(&whole, &mut rng),
                        foreign(&whole),
                        noise(&mut rng),
                    ];
                    for bytes in others {
                        let _ = socket.send_to(&bytes, from);
                    }
                }
            });
            Self { stop, thread: Some(thread) }
        }
    }

    impl Drop for Babbler {
        fn drop(&mut self) {
            self.stop.store(true, Ordering::Relaxed);
            if let Some(thread) = self.thread.take() {
                let _ = thread.join();
            }
        }
    }

    fn answer(request: &[u8], from: SocketAddr, rng: &mut fastrand::Rng) -> Vec<u8> {
        let id = View::parse(request).map_or_else(|_| TransactionId::modern(rng), |view| view.id());
        let mut buffer = [0; 128];
        let mut writer = Writer::new(&mut buffer, Class::Success, &id);
        let length = writer.xor_address(attr::XOR_MAPPED_ADDRESS, from).finish().expect("it fits");
        buffer[..length].to_vec()
    }

    /// The same message with another id.
    fn foreign(message: &[u8]) -> Vec<u8> {
        let mut bytes = message.to_vec();
        bytes[19] ^= 1;
        bytes
    }

    /// A message with its end cut off.
    fn broken(message: &[u8], rng: &mut fastrand::Rng) -> Vec<u8> {
        match rng.u8(..3) {
            0 => message[..rng.usize(..message.len())].to_vec(),
            1 => noise(rng),
            _ => {
                // The length does not fit: bytes too many.
                let mut bytes = message.to_vec();
                bytes.resize(message.len() + rng.usize(1..4), rng.u8(..));
                bytes
            }
        }
    }

    fn noise(rng: &mut fastrand::Rng) -> Vec<u8> {
        let length = rng.usize(..200);
        std::iter::repeat_with(|| rng.u8(..)).take(length).collect()
    }

    fn request(id: &TransactionId) -> Vec<u8> {
        let mut buffer = [0; 64];
        let length = Writer::new(&mut buffer, Class::Request, id)
            .u32(attr::CHANGE_REQUEST, 0)
            .finish()
            .expect("it fits");
        buffer[..length].to_vec()
    }

    fn socket(host: &Host) -> UdpSocket {
        let at = SocketAddr::new(host.ip(false), 0);
        let socket = host.run(move || UdpSocket::bind(at)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a time-out");
        socket
    }

    fn behind(nat: &str) -> Result<Lab, LabError> {
        let nat: Stack = nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        Lab::tun(&[TunSite::new(nat)], 1)
    }
}
