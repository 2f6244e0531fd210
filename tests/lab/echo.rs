//! An echo service (RFC 862), for programs that need a peer on the Internet: it returns what it receives over UDP or TCP.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    thread,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::oneshot,
    task::JoinSet,
};

use crate::{LabError, netns::Namespace};

/// The port of the service.
pub const PORT: u16 = 7;

/// A running echo service. It ends when this is dropped.
#[derive(Debug)]
pub struct Echo {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    /// Starts the service on these addresses of a host; when it returns, the sockets are open.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn start(host: &Namespace, addresses: Vec<IpAddr>) -> Result<Self, LabError> {
        let (stop, stopped) = oneshot::channel();
        let open = move || -> io::Result<thread::JoinHandle<()>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut services = JoinSet::new();
            for at in addresses.into_iter().map(|ip| SocketAddr::new(ip, PORT)) {
                let (udp, tcp) = runtime.block_on(async {
                    io::Result::Ok((UdpSocket::bind(at).await?, TcpListener::bind(at).await?))
                })?;
                services.spawn_on(echo_datagrams(udp), runtime.handle());
                services.spawn_on(echo_streams(tcp), runtime.handle());
            }
            thread::Builder::new().name("echo".into()).spawn(move || {
                // The services themselves never end: the value is dropped, or the process ends.
                let _ = runtime.block_on(stopped);
                drop(services);
            })
        };
        let thread = host.run(open).map_err(LabError::io("starting the echo service"))?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

async fn echo_datagrams(socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        // Errors are ICMP errors about a client that is gone; the others are still served.
        if let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    }
}

async fn echo_streams(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            // The client has closed the connection.
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}
