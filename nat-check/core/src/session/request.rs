//! A request: what it asks, where it goes, and its bytes.

use std::net::SocketAddr;

use shared::stun::{Class, TransactionId, WriteError, Writer, attr};

use crate::{
    observation::{Purpose, RequestKind},
    server_endpoints::ServerEndpoint,
};

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What it is sent for.
    pub purpose: Purpose,
    /// Where it goes.
    pub to: SocketAddr,
    /// What it asks for.
    pub kind: RequestKind,
    /// What travels together carries the same number, from [`Session::round`](super::Session::round).
    pub round: u32,
}

/// Writes a request. `receipt` tells whether one is wanted, and if so whether over IPv6.
pub(super) fn write(
    buffer: &mut [u8],
    id: &TransactionId,
    kind: RequestKind,
    receipt: Option<bool>,
) -> Result<usize, WriteError> {
    let mut writer = Writer::new(buffer, Class::Request, id);
    match kind {
        RequestKind::Binding | RequestKind::Hairpin | RequestKind::LimitedTtl { .. } => {}
        RequestKind::ChangeRequest(endpoint) => {
            writer.u32(attr::CHANGE_REQUEST, ServerEndpoint::change_flags(endpoint));
        }
        RequestKind::ToMappedPort { port, from } => {
            if from != ServerEndpoint::PRIMARY {
                writer.u32(attr::CHANGE_REQUEST, from.change_flags());
            }
            writer.response_port(port);
        }
        RequestKind::ResponsePort { port, long: false }
        | RequestKind::ResponsePortOf { port, long: false, .. } => {
            writer.response_port(port);
        }
        RequestKind::ResponsePort { port, long: true }
        | RequestKind::ResponsePortOf { port, long: true, .. } => {
            let [high, low] = port.to_be_bytes();
            writer.bytes(attr::RESPONSE_PORT, &[high, low, 0, 0]);
        }
    }
    if let Some(v6) = receipt {
        // The request pays for both answers, which are equally long, and for the headers of the second one.
        let whole: usize = if v6 { 2 * 116 + 28 } else { 2 * 68 + 28 };
        writer.bytes(attr::RECEIPT, &[]);
        writer.zeros(attr::FILLER, whole.saturating_sub(writer.len() + 4));
    }
    writer.finish()
}
