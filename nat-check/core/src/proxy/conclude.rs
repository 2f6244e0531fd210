//! What the answers of a proxy mean: from what came of asking to findings. Pure.

use std::net::{IpAddr, SocketAddr};

use super::{
    client::{ProxyError, Refusal},
    net::Seen,
};
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
        ProxyError::WrongCredentials | ProxyError::HungUpAtLogin => ReasonCode::ProxyRefusesCredentials,
        ProxyError::NoReply => ReasonCode::NoAnswer,
        ProxyError::OtherAuthentication | ProxyError::Refused(_) | ProxyError::Failed(_) => {
            ReasonCode::ProxyRefuses
        }
        ProxyError::NotReached(_) => ReasonCode::ProxyDoesNotReachServer,
        ProxyError::NotInProtocol(_) => ReasonCode::NotInProxyProtocol,
    };
    (code, error.to_string()).into()
}

/// Whether the server is reached over TCP; `over_ipv6` says that the proxy was asked for its IPv6 address.
pub(super) fn connect(tried: &Tried, over_ipv6: bool) -> Finding<ProxyConnect> {
    match tried {
        Tried::Answered(seen) => {
            Finding::known(ProxyConnect::Works, Confidence::Certain, CONNECT).with("seen_as", seen)
        }
        Tried::Silent => Finding::unknown(SILENT, CONNECT),
        Tried::Failed(error @ ProxyError::Refused(refusal)) if over_ipv6 && lacks_address_type(refusal) => {
            Finding::known(ProxyConnect::Refused, Confidence::Weak, CONNECT)
                .because(reason(error).map(|text| format!("{text}: {IPV6_ONLY}")))
        }
        Tried::Failed(error) => {
            let value = match error {
                ProxyError::NoConnection(_) | ProxyError::NotReached(_) => ProxyConnect::Unreachable,
                ProxyError::WantsCredentials
                | ProxyError::WrongCredentials
                | ProxyError::HungUpAtLogin
                | ProxyError::OtherAuthentication
                | ProxyError::Refused(_) => ProxyConnect::Refused,
                ProxyError::Timeout
                | ProxyError::Closed
                | ProxyError::NoReply
                | ProxyError::OtherProtocol(_)
                | ProxyError::Failed(_)
                | ProxyError::NotInProtocol(_) => return Finding::unknown(reason(error), CONNECT),
            };
            Finding::known(value, most_of(error), CONNECT).because(reason(error))
        }
    }
}

/// What speaks for a proxy that was asked for nothing but IPv6.
const IPV6_ONLY: &str = "over IPv6 only was asked, as the server has no IPv4 address here";

/// SOCKS5, "address type not supported".
fn lacks_address_type(refusal: &Refusal) -> bool {
    refusal.code == 8
}

/// How sure a refusal can be at the most.
fn most_of(error: &ProxyError) -> Confidence {
    match error {
        // It may have hung up for another reason.
        ProxyError::HungUpAtLogin => Confidence::Weak,
        _ => Confidence::Certain,
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
        Tried::Failed(error @ ProxyError::Refused(refusal)) if lacks_address_type(refusal) => {
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
        | ProxyError::HungUpAtLogin
        | ProxyError::OtherAuthentication
        | ProxyError::Refused(_)
        | ProxyError::Failed(_)
        | ProxyError::NotInProtocol(_) => Finding::known(value, most_of(error), SOCKS).because(reason(error)),
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

/// What came of having a proxy connect to a port, and waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Bytes came from there. With the code that the proxy granted it with, where its protocol has several.
    Speaks(Option<u16>),
    /// It was granted and lasts, and nothing came.
    Lasts(Option<u16>),
    /// It was granted and ended.
    Ends,
    /// It was not granted.
    Failed(ProxyError),
}

/// What a proxy says to a port; `grants_all` says that it grants even ports that nobody serves, so that its word is nothing.
pub(super) fn port(port: u16, held: &Held, grants_all: bool) -> ProxyPort {
    match held {
        Held::Speaks(code) => ProxyPort::new(port, Some(true), *code),
        Held::Lasts(code) => ProxyPort::new(port, (!grants_all).then_some(true), *code),
        Held::Failed(error @ ProxyError::Refused(_)) => ProxyPort::new(port, Some(false), error.code()),
        // Nobody may listen there.
        Held::Failed(error) => ProxyPort::new(port, None, error.code()),
        Held::Ends => ProxyPort::new(port, None, None),
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
/// Loss that is reckoned with where less was seen: that of the way behind the relay is not known.
const LEAST_LOSS: f64 = 0.1;

/// What is known of the run through the relay besides what its sockets saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Through {
    /// Whether the server answered over UDP.
    pub(super) answered: bool,
    /// Whether the run ended before it was done.
    pub(super) ended_early: bool,
    /// Whether the server was asked at its IPv6 address.
    pub(super) over_ipv6: bool,
}

/// Whether datagrams are relayed.
pub(super) fn udp_associate(seen: &Seen, through: Through, direct: Option<DirectUdp>) -> Finding<ProxyUdp> {
    if seen.granted == 0 {
        return match &seen.error {
            Some(error) => refused(error, ProxyUdp::Refused),
            None => Finding::unknown((ReasonCode::Unfinished, "the proxy was not asked"), SOCKS),
        };
    }
    let finding = if through.answered {
        Finding::known(ProxyUdp::Works, Confidence::Certain, SOCKS)
    } else if seen.sent == 0 && seen.ended >= seen.granted {
        Finding::known(ProxyUdp::GrantedButDead, Confidence::Certain, SOCKS)
            .because((ReasonCode::ProxyRefuses, "the proxy grants associations and ends them at once"))
    } else if seen.sent == 0 {
        Finding::unknown((ReasonCode::Unfinished, "nothing was sent through the relay"), SOCKS)
    } else if seen.received > 0 {
        let why = "datagrams come from the relay, and none of them is an answer of the server";
        Finding::unknown((ReasonCode::NoAnswer, why), SOCKS)
    } else if through.ended_early {
        let why = "nothing came back through the relay before the run ended";
        Finding::known(ProxyUdp::GrantedButDead, Confidence::Weak, SOCKS)
            .because((ReasonCode::EndedEarly, why))
    } else if through.over_ipv6 {
        Finding::known(ProxyUdp::GrantedButDead, Confidence::Weak, SOCKS)
            .because((ReasonCode::ProxyDoesNotReachServer, format!("nothing comes back: {IPV6_ONLY}")))
    } else if let Some(direct) = direct.filter(|direct| direct.works) {
        match direct.loss.max(LEAST_LOSS).powi(i32::try_from(seen.sent).unwrap_or(i32::MAX)) > STRONG {
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
        // They say so of anything, or only for now.
        Ok(status @ (100 | 102..=199 | 300..=399 | 403 | 408 | 429 | 500 | 502..=599)) => {
            let why =
                (ReasonCode::ProxyRefuses, "the answer of the proxy does not tell whether it offers that");
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

#[cfg(test)]
mod tests {
    use super::*;

    const DIRECT: Option<DirectUdp> = Some(DirectUdp { works: true, loss: 0.0 });

    /// An association, so many datagrams into it, and so many out of it.
    fn seen(sent: u64, received: u64) -> Seen {
        Seen { granted: 1, sent, received, ..Seen::default() }
    }

    #[test]
    fn a_dead_relay_takes_many_datagrams_and_a_whole_run() {
        let said = |sent, through| {
            let finding = udp_associate(&seen(sent, 0), through, DIRECT);
            assert_eq!(finding.value, Some(ProxyUdp::GrantedButDead));
            (finding.confidence, finding.reason_code)
        };
        let whole = Through::default();
        assert_eq!(said(1, whole), (Confidence::Weak, Some(ReasonCode::TooMuchLoss)));
        assert_eq!(said(7, whole), (Confidence::Strong, None));
        let early = Through { ended_early: true, ..whole };
        assert_eq!(said(7, early), (Confidence::Weak, Some(ReasonCode::EndedEarly)));
        let over_ipv6 = Through { over_ipv6: true, ..whole };
        assert_eq!(said(7, over_ipv6), (Confidence::Weak, Some(ReasonCode::ProxyDoesNotReachServer)));
    }

    #[test]
    fn a_relay_works_where_the_server_answers_and_not_where_anything_comes() {
        let answered = Through { answered: true, ended_early: true, over_ipv6: true };
        let works = udp_associate(&seen(3, 3), answered, DIRECT);
        assert_eq!((works.value, works.confidence), (Some(ProxyUdp::Works), Confidence::Certain));
        let anything = udp_associate(&seen(9, 3), Through::default(), DIRECT);
        assert_eq!((anything.value, anything.reason_code), (None, Some(ReasonCode::NoAnswer)));
    }

    #[test]
    fn a_proxy_without_ipv6_is_not_said_to_refuse() {
        let refusal = Refusal { code: 8, text: "" };
        let tried = Tried::Failed(ProxyError::Refused(refusal));
        assert_eq!(connect(&tried, true).confidence, Confidence::Weak);
        assert_eq!(connect(&tried, false).confidence, Confidence::Certain);
    }

    #[test]
    fn who_is_let_in_for_another_reason_than_a_password_is_told_so() {
        let said = |error| {
            let finding = connect(&Tried::Failed(error), false);
            (finding.value, finding.confidence, finding.reason_code)
        };
        let refused = Some(ProxyConnect::Refused);
        for (error, wanted) in [
            (
                ProxyError::WrongCredentials,
                (refused, Confidence::Certain, Some(ReasonCode::ProxyRefusesCredentials)),
            ),
            (
                ProxyError::HungUpAtLogin,
                (refused, Confidence::Weak, Some(ReasonCode::ProxyRefusesCredentials)),
            ),
            (ProxyError::OtherAuthentication, (refused, Confidence::Certain, Some(ReasonCode::ProxyRefuses))),
            (ProxyError::NoReply, (None, Confidence::Unknown, Some(ReasonCode::NoAnswer))),
        ] {
            assert_eq!(said(error), wanted);
        }
    }

    #[test]
    fn a_grant_counts_where_not_all_is_granted() {
        for (held, grants_all, allowed) in [
            (Held::Lasts(Some(200)), false, Some(true)),
            (Held::Lasts(Some(200)), true, None),
            (Held::Speaks(Some(200)), true, Some(true)),
            (Held::Ends, false, None),
            (Held::Failed(ProxyError::NoReply), false, None),
            (Held::Failed(ProxyError::Refused(Refusal { code: 403, text: "" })), true, Some(false)),
        ] {
            assert_eq!(port(443, &held, grants_all).allowed, allowed, "{held:?} {grants_all}");
        }
    }

    #[test]
    fn udp_over_http_is_not_offered_only_where_the_answer_says_so() {
        let said = |status| connect_udp(&Ok(status)).value;
        assert_eq!(said(101), Some(true));
        for status in [200, 400, 404, 405, 501] {
            assert_eq!(said(status), Some(false), "{status}");
        }
        for status in [302, 403, 407, 408, 429, 500, 502, 503, 504, 511] {
            assert_eq!(said(status), None, "{status}");
        }
    }
}
