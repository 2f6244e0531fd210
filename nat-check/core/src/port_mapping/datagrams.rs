//! Asking a gateway over UDP: sent again until it answers (RFC 6886 section 3.1; RFC 6887 section 8.1.1 waits longer, which is
//! meant for daemons).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::MappingError;
use crate::net::Net;

/// When a request is sent again.
pub(super) const AGAIN: &[Duration] = &[
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_millis(1000),
    Duration::from_millis(2000),
];
/// When one is that may do harm if it comes twice, as RFC 6887 section 8.1.1 has it.
pub(super) const SELDOM: &[Duration] = &[Duration::from_millis(3000)];
/// When its answer is waited for no longer.
const GIVEN_UP: Duration = Duration::from_millis(4000);
/// Longest message of either protocol, and a little more, so that longer ones are seen to be too long.
const BUFFER: usize = 1200;

/// Sends a request, and at these times again, until something comes from the gateway that `read` takes for the answer; everything
/// else is passed over.
pub(super) async fn ask<T>(
    net: &dyn Net,
    local: IpAddr,
    gateway: SocketAddr,
    (request, again): (&[u8], &[Duration]),
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, MappingError> {
    let not_sent = |error: std::io::Error| MappingError::NotSent(error.to_string());
    let socket = net.bind(SocketAddr::new(local, 0)).await.map_err(not_sent)?;
    let begun = Instant::now();
    let mut buffer = [0; BUFFER];
    for until in again.iter().copied().chain([GIVEN_UP]) {
        socket.send_to(request, gateway).await.map_err(not_sent)?;
        while let Ok(received) = timeout_at(begun + until, socket.recv_from(&mut buffer)).await {
            match received {
                Ok((length, from)) if from == gateway => {
                    if let Some(answer) = read(&buffer[..length]) {
                        return Ok(answer);
                    }
                }
                Ok(_) => {}
                // A report by ICMP: the next one may be answered.
                Err(_) => {
                    tokio::time::sleep_until(begun + until).await;
                    break;
                }
            }
        }
    }
    Err(MappingError::NoAnswer)
}
