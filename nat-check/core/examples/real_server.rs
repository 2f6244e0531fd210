//! Measures the NAT in front of this host with a real probe server:
//!
//! ```text
//! cargo run -p nat-check-core --example real_server -- 198.51.100.10:3478
//! ```
//!
//! `cargo run -p probe-server -- --local` starts a server to try it with, at 127.0.0.1:3478.

use std::{error::Error, net::SocketAddr};

use nat_check_core::Check;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server: SocketAddr = std::env::args().nth(1).ok_or("usage: real_server IP:PORT")?.parse()?;
    let report = Check::with([server]).run().await;

    for (family, found) in [("IPv4", &report.ipv4), ("IPv6", &report.ipv6)] {
        let Some(udp) = &found.udp else {
            println!("{family}: {}", found.reason.as_deref().unwrap_or("no result"));
            continue;
        };
        println!("{family}: external address {:?}", udp.external);
        match udp.nat_type.value {
            Some(nat_type) => println!("{family}: {nat_type} ({:?})", udp.nat_type.confidence),
            None => println!("{family}: unknown, {}", udp.nat_type.reason.as_deref().unwrap_or("no reason")),
        }
    }
    println!("hole punching: {}", report.hole_punching.summary);
    Ok(())
}
