//! A simulated host: its addresses, its sockets, and what has arrived for them.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

/// A host with its sockets.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) ips: Vec<IpAddr>,
    gate: usize,
    sockets: BTreeMap<(bool, u16), Arc<Inbox>>,
    pub(super) rng: fastrand::Rng,
}

impl Host {
    pub(super) fn new(ips: Vec<IpAddr>, gate: usize, seed: u64) -> Self {
        Self { ips, gate, sockets: BTreeMap::new(), rng: fastrand::Rng::with_seed(seed) }
    }

    /// Its address in the family of `like`.
    pub(super) fn ip_like(&self, like: IpAddr) -> Option<IpAddr> {
        self.ips.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4())
    }

    /// Opens a socket. Port 0 takes a random free one; a port in use gives none.
    pub(super) fn open(&mut self, v4: bool, port: u16) -> Option<(u16, Arc<Inbox>)> {
        let port = match port {
            0 => (0..1000)
                .map(|_| self.rng.u16(32768..=60999))
                .find(|p| !self.sockets.contains_key(&(v4, *p)))?,
            port if self.sockets.contains_key(&(v4, port)) => return None,
            port => port,
        };
        let inbox = Arc::new(Inbox::default());
        self.sockets.insert((v4, port), Arc::clone(&inbox));
        Some((port, inbox))
    }

    pub(super) fn close(&mut self, v4: bool, port: u16) {
        self.sockets.remove(&(v4, port));
    }

    pub(super) fn socket(&self, v4: bool, port: u16) -> Option<Arc<Inbox>> {
        self.sockets.get(&(v4, port)).cloned()
    }

    /// The NAT above it.
    pub(super) fn gate(&self) -> usize {
        self.gate
    }
}

/// Datagrams that a socket has not read yet.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<VecDeque<(SocketAddr, Vec<u8>)>>,
    arrived: Notify,
}

/// Datagrams that a socket keeps; further ones are lost, as they are with a real one.
const INBOX: usize = 1024;

impl Inbox {
    pub(super) fn put(&self, from: SocketAddr, datagram: Vec<u8>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < INBOX {
            queue.push_back((from, datagram));
        }
        drop(queue);
        self.arrived.notify_one();
    }

    pub(super) async fn take(&self) -> (SocketAddr, Vec<u8>) {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(next) = next {
                return next;
            }
            self.arrived.notified().await;
        }
    }
}
