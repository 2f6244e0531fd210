//! A probe server inside this process, for laboratories that need one without a program of its own.

use std::{io, net::SocketAddr, sync::Arc, thread};

use probe_server::{
    respond::{Answers, MAX_REQUEST, respond},
    topology::{Endpoint, Topology},
};
use tokio::{net::UdpSocket, sync::oneshot, task::JoinSet};

use crate::{
    Lab, LabError,
    address::{PORTS, SERVER4, SERVER6},
};

/// A running probe server. It ends when this is dropped.
#[derive(Debug)]
pub struct ProbeServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Lab {
    /// Starts a probe server on the server host, in this process; when it returns, it answers.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn probe_server(&self) -> Result<ProbeServer, LabError> {
        let (stop, stopped) = oneshot::channel();
        let open = move || -> io::Result<thread::JoinHandle<()>> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let mut services = JoinSet::new();
            for [primary, alternate] in [SERVER4.map(Into::into), SERVER6.map(Into::into)] {
                let topology = Topology::new(primary, Some(alternate), PORTS.into());
                let sockets = runtime.block_on(bind(&topology))?;
                let sockets = Arc::new(sockets);
                for endpoint in Endpoint::ALL {
                    services
                        .spawn_on(serve(topology.clone(), endpoint, Arc::clone(&sockets)), runtime.handle());
                }
            }
            thread::Builder::new().name("probe server".into()).spawn(move || {
                // Either the value is dropped or the process ends: the services themselves go on for ever.
                let _ = runtime.block_on(stopped);
                drop(services);
            })
        };
        let thread = self.server_host().run(open).map_err(LabError::io("starting the probe server"))?;
        Ok(ProbeServer { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ = thread.join();
        }
    }
}

async fn bind(topology: &Topology) -> io::Result<Vec<(SocketAddr, UdpSocket)>> {
    let mut sockets = Vec::new();
    for at in Endpoint::ALL.into_iter().filter_map(|endpoint| topology.bound(endpoint)) {
        sockets.push((at, UdpSocket::bind(at).await?));
    }
    Ok(sockets)
}

async fn serve(topology: Topology, endpoint: Endpoint, sockets: Arc<Vec<(SocketAddr, UdpSocket)>>) {
    let mut buffer = [0; MAX_REQUEST];
    let mut answers = Answers::new();
    loop {
        let Ok((length, from)) = sockets[endpoint.index()].1.recv_from(&mut buffer).await else { continue };
        if respond(&topology, endpoint, from, &buffer[..length], &mut answers).is_ok() {
            for (leaves, to, bytes) in answers.iter() {
                let _ = sockets[leaves.index()].1.send_to(bytes, to).await;
            }
        }
    }
}
