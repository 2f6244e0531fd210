//! What the answers of a proxy mean: from what came of asking to findings. Pure.

use std::net::{IpAddr, SocketAddr};

use super::{client::ProxyError, net::Seen};
use crate::report::{Confidence, Finding, ProxyBind, ProxyConnect, ProxyPort, ProxyUdp, Reason, ReasonCode};

const SOCKS: &str = "RFC 1928";
const CONNECT: &str = "CONNECT";
/// What is not known where a proxy connects and the server says nothing.
const SILENT: (ReasonCode, &str) =
    (ReasonCode::NoAnswer, "the proxy says that it has connected, and the server does not answer");

/// What came of having a proxy connect to the server and asking that over STUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// The server answers: the endpoint that it sees.
    Answered(SocketAddr),
    /// The proxy says that it has connected, and the server does not answer.
    Silent,
    /// Nothing came of it.
    Failed(ProxyError),
}

/// Why nothing came of asking.
pub(super) fn reason(error: &ProxyError) -> Reason {
    let code = match error {
        ProxyError::NoConnection(_) => ReasonCode::ProxyUnreachable,
        ProxyError::Timeout | ProxyError::Closed | ProxyError::OtherProtocol(_) => {
            ReasonCode::ProxyAnswerUnusable
        }
        ProxyError::WantsCredentials => ReasonCode::ProxyWantsCredentials,
        ProxyError::WrongCredentials => ReasonCode::ProxyRefusesCredentials,
        ProxyError::Refused(_) | ProxyError::Failed(_) => ReasonCode::ProxyRefuses,
        ProxyError::NotReached(_) => ReasonCode::ProxyDoesNotReachServer,
        ProxyError::NotInProtocol(_) => ReasonCode::NotInProxyProtocol,
    };
    (code, error.to_string()).into()
}

/// Whether the server is reached over TCP.
pub(super) fn connect(tried: &Tried) -> Finding<ProxyConnect> {
    match tried {
        Tried::Answered(seen) => {
            Finding::known(ProxyConnect::Works, Confidence::Certain, CONNECT).with("seen_as", seen)
        }
        Tried::Silent => Finding::unknown(SILENT, CONNECT),
        Tried::Failed(error) => {
            let value = match error {
                ProxyError::NoConnection(_) | ProxyError::NotReached(_) => ProxyConnect::Unreachable,
                ProxyError::WantsCredentials | ProxyError::WrongCredentials | ProxyError::Refused(_) => {
                    ProxyConnect::Refused
                }
                ProxyError::Timeout
                | ProxyError::Closed
                | ProxyError::OtherProtocol(_)
                | ProxyError::Failed(_)
                | ProxyError::NotInProtocol(_) => return Finding::unknown(reason(error), CONNECT),
            };
            Finding::known(value, Confidence::Certain, CONNECT).because(reason(error))
        }
    }
}

/// Whether the proxy can do what it was asked for in another way than usual: by name, or over IPv6.
pub(super) fn can(tried: &Tried) -> Finding<bool> {
    match tried {
        Tried::Answered(seen) => Finding::known(true, Confidence::Certain, CONNECT).with("seen_as", seen),
        Tried::Silent => Finding::unknown(SILENT, CONNECT),
        Tried::Failed(ProxyError::NotInProtocol(name)) => {
            let why = format!("{name} has no words for it");
            Finding::known(false, Confidence::Certain, CONNECT).because((ReasonCode::NotInProxyProtocol, why))
        }
        // Of SOCKS5, "address type not supported".
        Tried::Failed(error @ ProxyError::Refused(refusal)) if refusal.code == 8 => {
            Finding::known(false, Confidence::Certain, CONNECT).because(reason(error))
        }
        Tried::Failed(error) => Finding::unknown(reason(error), CONNECT),
    }
}

/// Whether it listens.
pub(super) fn bind(granted: &Result<Option<SocketAddr>, ProxyError>) -> Finding<ProxyBind> {
    match granted {
        Ok(at) => Finding::known(ProxyBind::Granted, Confidence::Certain, SOCKS)
            .because((ReasonCode::GrantedNotTried, "granted; nobody has connected from outside"))
            .with("listens_at", at),
        Err(error) => refused(error, ProxyBind::Refused),
    }
}

/// What is certain of a refusal, and why nothing is of everything else.
fn refused<T>(error: &ProxyError, value: T) -> Finding<T> {
    match error {
        ProxyError::WantsCredentials
        | ProxyError::WrongCredentials
        | ProxyError::Refused(_)
        | ProxyError::Failed(_)
        | ProxyError::NotInProtocol(_) => {
            Finding::known(value, Confidence::Certain, SOCKS).because(reason(error))
        }
        _ => Finding::unknown(reason(error), SOCKS),
    }
}

/// That a proxy whose protocol has no datagrams relays none.
pub(super) fn not_relayed(error: Option<ProxyError>) -> Finding<ProxyUdp> {
    match error {
        Some(error) => refused(&error, ProxyUdp::Refused),
        None => Finding::not_asked_for(SOCKS),
    }
}

/// What a proxy says to a port: the code that it grants with, or why it does not, as far as that is known.
pub(super) fn port(port: u16, answer: Result<Option<u16>, Option<&ProxyError>>) -> ProxyPort {
    match answer {
        Ok(code) => ProxyPort::new(port, Some(true), code),
        Err(Some(error @ ProxyError::Refused(_))) => ProxyPort::new(port, Some(false), error.code()),
        // Nobody may listen there.
        Err(error) => ProxyPort::new(port, None, error.and_then(ProxyError::code)),
    }
}

/// What is known of UDP without the proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DirectUdp {
    /// Whether the server answers over it.
    pub(super) works: bool,
    /// The share that is lost on the way.
    pub(super) loss: f64,
}

/// Chance of error that a strong finding may have.
const STRONG: f64 = 1e-4;

/// Whether datagrams are relayed.
pub(super) fn udp_associate(seen: &Seen, direct: Option<DirectUdp>) -> Finding<ProxyUdp> {
    if seen.granted == 0 {
        return match &seen.error {
            Some(error) => refused(error, ProxyUdp::Refused),
            None => Finding::unknown((ReasonCode::Unfinished, "the proxy was not asked"), SOCKS),
        };
    }
    let finding = if seen.received > 0 {
        Finding::known(ProxyUdp::Works, Confidence::Certain, SOCKS)
    } else if seen.sent == 0 && seen.ended >= seen.granted {
        Finding::known(ProxyUdp::GrantedButDead, Confidence::Certain, SOCKS)
            .because((ReasonCode::ProxyRefuses, "the proxy grants associations and ends them at once"))
    } else if seen.sent == 0 {
        Finding::unknown((ReasonCode::Unfinished, "nothing was sent through the relay"), SOCKS)
    } else if let Some(direct) = direct.filter(|direct| direct.works) {
        match direct.loss.powi(i32::try_from(seen.sent).unwrap_or(i32::MAX)) > STRONG {
            false => Finding::known(ProxyUdp::GrantedButDead, Confidence::Strong, SOCKS),
            true => {
                let why = format!("so much gets lost here that {} datagrams prove nothing", seen.sent);
                let why = (ReasonCode::TooMuchLoss, why);
                Finding::known(ProxyUdp::GrantedButDead, Confidence::Weak, SOCKS).because(why)
            }
        }
    } else {
        // The server may not serve UDP at all.
        Finding::known(ProxyUdp::GrantedButDead, Confidence::Weak, SOCKS).because((
            ReasonCode::ServerNotProven,
            "nothing comes back through the relay, and without the proxy the server does not answer over UDP either",
        ))
    };
    let finding = match (seen.named, seen.used) {
        (named, Some(used)) if named != Some(used) && finding.reason.is_none() => {
            let named = named.map_or_else(|| "a name".into(), |named| named.to_string());
            let why = format!("the proxy names {named} as its relay, and {used} was used instead");
            finding.because((ReasonCode::RelayAddressUnusable, why))
        }
        _ => finding,
    };
    finding
        .with("associations", seen.granted)
        .with("ended_by_proxy", seen.ended)
        .with("sent", seen.sent)
        .with("received", seen.received)
        .with("relay_named", seen.named)
        .with("relay_used", seen.used)
}

/// Whether a proxy of HTTP offers UDP.
pub(super) fn connect_udp(answer: &Result<u16, ProxyError>) -> Finding<bool> {
    const METHOD: &str = "RFC 9298 3.2";
    match answer {
        Ok(101) => Finding::known(true, Confidence::Certain, METHOD).with("status", 101),
        Ok(status @ (401 | 407)) => {
            let why = (ReasonCode::ProxyWantsCredentials, "the proxy wants a user name and a password");
            Finding::unknown(why, METHOD).with("status", status)
        }
        Ok(status) => Finding::known(false, Confidence::Certain, METHOD).with("status", status),
        Err(error) => Finding::unknown(reason(error), METHOD),
    }
}

/// The address that the server sees.
pub(super) fn exit_address(tried: &Tried) -> Option<IpAddr> {
    match tried {
        Tried::Answered(seen) => Some(seen.ip()),
        Tried::Silent | Tried::Failed(_) => None,
    }
}
