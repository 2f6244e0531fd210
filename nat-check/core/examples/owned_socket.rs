//! Measures the UDP socket that a program already uses, while it uses it:
//!
//! ```text
//! cargo run -p nat-check-core --example owned_socket -- 127.0.0.1:3478
//! ```
//!
//! The program's own traffic here is datagrams to an echo service on loopback, or at the address that is given second. In
//! its place think of a QUIC endpoint whose socket wrapper calls `offer` for each datagram that it receives.

use std::{collections::HashSet, error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use nat_check_core::{Check, net::owned::OwnedSocket};
use tokio::{net::UdpSocket, time::timeout};

/// The longest time for which the measurement may use the socket.
const LIMIT: Duration = Duration::from_secs(20);
/// Own datagrams, at the least: on loopback the measurement takes a few milliseconds.
const LEAST: u32 = 1000;
/// How long an own datagram is waited for before the next one is sent.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long the last ones are waited for.
const LAST: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let server: SocketAddr = args.next().ok_or("usage: owned_socket SERVER [ECHO]")?.parse()?;
    let echo = match args.next() {
        Some(address) => address.parse()?,
        None => echo_service(server).await?,
    };

    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = Arc::new(UdpSocket::bind(any).await?);
    let owned = OwnedSocket::from_tokio(&socket, LIMIT)?;
    let check = tokio::spawn(Check::with([server]).owned_socket(&owned).run());

    let traffic = own_traffic(&socket, &owned, echo).await?;
    let udp = check.await?.ipv4.udp.ok_or("the server did not answer")?;
    let Traffic { sent, meanwhile, back, wrong, .. } = traffic;
    println!("own datagrams: {sent} sent, {meanwhile} meanwhile, {back} came back, {wrong} wrong");
    println!("taken by the measurement: {} datagrams", traffic.taken);
    println!("the socket on port {} is seen as {:?}", socket.local_addr()?.port(), udp.external);
    println!("mapping: {}", udp.mapping.value.map_or_else(|| "unknown".to_owned(), |m| m.to_string()));
    Ok(())
}

#[derive(Default)]
struct Traffic {
    sent: u32,
    /// Of these, while the measurement ran.
    meanwhile: u32,
    back: u32,
    wrong: u32,
    taken: u32,
    outstanding: HashSet<Vec<u8>>,
}

/// Sends numbered datagrams, the next when one is back or after a while, and receives what comes, until the measurement
/// has ended.
async fn own_traffic(socket: &UdpSocket, owned: &OwnedSocket, echo: SocketAddr) -> io::Result<Traffic> {
    let mut traffic = Traffic::default();
    let mut buffer = [0; 2048];
    loop {
        let measuring = !owned.has_ended();
        if measuring || traffic.sent < LEAST {
            traffic.sent += 1;
            traffic.meanwhile += u32::from(measuring);
            let datagram = traffic.sent.to_be_bytes().to_vec();
            socket.send_to(&datagram, echo).await?;
            traffic.outstanding.insert(datagram);
        }
        loop {
            let is_last = owned.has_ended() && traffic.sent >= LEAST;
            let patience = if is_last { LAST } else { PATIENCE };
            let Ok(received) = timeout(patience, socket.recv_from(&mut buffer)).await else {
                if is_last {
                    return Ok(traffic);
                }
                break;
            };
            let (length, from) = received?;
            if owned.offer(&buffer[..length], from) {
                traffic.taken += 1;
            } else if traffic.outstanding.remove(&buffer[..length]) {
                traffic.back += 1;
                break;
            } else {
                traffic.wrong += 1;
            }
        }
        if owned.has_ended() && traffic.sent >= LEAST && traffic.outstanding.is_empty() {
            return Ok(traffic);
        }
    }
}

/// Sends each datagram back.
async fn echo_service(server: SocketAddr) -> io::Result<SocketAddr> {
    let loopback = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(loopback).await?;
    let address = socket.local_addr()?;
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            // One that cannot be sent back is lost, as on any network.
            _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    Ok(address)
}
