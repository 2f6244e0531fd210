//! A round with a browser, which speaks ICE (RFC 8445) and nothing else: this side is the controlled agent, and the path is
//! one over which checks of both were answered. A data channel is not opened: that takes DTLS and SCTP, and proves no more.

use std::time::Duration;

use ring::hmac;
use shared::{
    rendezvous::peer::{self, IceSide, Nonce},
    stun::{
        Class, TransactionId, View, attr,
        ice::{self, Credentials, MAX_CHECK},
    },
};
use tokio::time::{Instant, sleep_until};

use super::{
    burst::{Burst, FIRST_PASS_INTERVAL, Path},
    checks::{MAX_ANSWERS, Outcome, RoundContext, first_few},
    hold::{Held, MAX_REPLIES, Terms, interval},
    sockets::{Arrival, Sockets},
    wire::Stamps,
};

/// Both sides' credentials.
#[derive(Clone, Debug)]
pub(super) struct Ice {
    own: Credentials,
    peer: Credentials,
    tie_breaker: u64,
}

/// A message of the browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Check { id: TransactionId, nominates: bool },
    Answer { stamp: u64 },
}

/// PRIORITY of a peer-reflexive candidate (RFC 8445 section 5.1.2).
const PRIORITY: u32 = 110 << 24 | 0xffff << 8 | 0xff;
/// How long a path is watched after the browser has nominated it: its last check may still be on the way.
const SETTLING: Duration = Duration::from_millis(300);
/// How long a nomination is waited for once this side knows a path.
const NOMINATION: Duration = Duration::from_secs(2);

/// This side's credentials; they follow from its nonce, which is as secret as they are.
pub(super) fn own(nonce: Nonce) -> IceSide {
    let text = derived(nonce);
    IceSide { ufrag: text[..8].to_owned(), password: text[8..40].to_owned(), fingerprint: None }
}

/// 64 hexadecimal digits that follow from a nonce and do not show it.
fn derived(nonce: Nonce) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &nonce.0);
    hmac::sign(&key, b"ice").as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Ice {
    /// The side with this nonce, and a browser.
    pub(super) fn new(nonce: Nonce, peer: &IceSide) -> Self {
        let own = own(nonce);
        let tie_breaker = u64::from_str_radix(&derived(nonce)[40..56], 16).unwrap_or_default();
        Self {
            own: Credentials { ufrag: own.ufrag, password: own.password },
            peer: Credentials { ufrag: peer.ufrag.clone(), password: peer.password.clone() },
            tie_breaker,
        }
    }

    /// Sends a check. Its id repeats the stamp, so that the answer shows how long it took.
    async fn check(&self, sockets: &mut Sockets, stamps: &Stamps, path: Path) {
        let mut id = [0; 12];
        id[..8].copy_from_slice(&stamps.stamp(path.remote).to_be_bytes());
        id[8..10].copy_from_slice(&path.remote.port().to_be_bytes());
        let id = TransactionId::modern_from(id);
        let mut buffer = [0; MAX_CHECK];
        let written =
            ice::write_check(&mut buffer, &id, &self.own.ufrag, &self.peer, PRIORITY, self.tie_breaker);
        if let Ok(length) = written {
            sockets.send(path.socket, &buffer[..length], path.remote).await;
        }
    }

    /// Answers a check to where it came from.
    async fn answer(&self, sockets: &mut Sockets, id: &TransactionId, path: Path) {
        let mut buffer = [0; MAX_CHECK];
        if let Ok(length) = ice::write_response(&mut buffer, id, path.remote, &self.own.password) {
            sockets.send(path.socket, &buffer[..length], path.remote).await;
        }
    }

    /// Reads a message of the browser; none if it is anything else.
    fn read(&self, bytes: &[u8]) -> Option<Heard> {
        let view = View::parse(bytes).ok()?;
        match view.class() {
            Class::Request => {
                let is_for_us = ice::username(&view) == Some((&self.own.ufrag, &self.peer.ufrag));
                let is_authentic = is_for_us && ice::is_authentic(&view, &self.own.password);
                let nominates = view.find(attr::USE_CANDIDATE).is_some();
                is_authentic.then(|| Heard::Check { id: view.id(), nominates })
            }
            Class::Success => {
                let stamp = u64::from_be_bytes(view.id().0[4..12].try_into().ok()?);
                ice::is_authentic(&view, &self.peer.password).then_some(Heard::Answer { stamp })
            }
            Class::Indication | Class::Error => None,
        }
    }
}

/// Sends one check to every target with this time to live, and listens to nothing.
pub(super) async fn open(context: &mut RoundContext<'_>, ice: &Ice, targets: &[Path], ttl: u32, usual: u32) {
    for target in targets {
        context.sockets.set_ttl(target.socket, ttl);
        ice.check(context.sockets, context.stamps, *target).await;
        context.sockets.set_ttl(target.socket, usual);
        tokio::time::sleep(FIRST_PASS_INTERVAL).await;
    }
}

/// Runs a round.
pub(super) async fn run(context: &mut RoundContext<'_>, ice: &Ice, burst: &Burst) -> Outcome {
    let begun = Instant::now();
    let (sent_before, errors_before) = (context.sockets.sent(), context.sockets.errors());
    let end = begun + burst.window + context.grace;
    let mut state = RoundState::default();
    let mut next = 0;
    while state.done.is_none_or(|done| Instant::now() < done) && Instant::now() < end {
        let send_at = burst.at(next).filter(|_| state.confirmed.is_none()).map(|after| begun + after);
        if send_at.is_some_and(|at| at <= Instant::now())
            && let Some(target) = burst.target(next)
        {
            next += 1;
            ice.check(context.sockets, context.stamps, target).await;
            continue;
        }
        let until = [state.done, send_at].into_iter().flatten().fold(end, Instant::min);
        tokio::select! {
            biased;
            arrival = context.sockets.receive() => state.receive(context, ice, arrival).await,
            () = sleep_until(until) => {}
        }
    }
    let sent = context.sockets.sent() - sent_before;
    Outcome {
        report: peer::RoundReport {
            through: state.confirmed.is_some(),
            sent,
            heard: state.heard,
            to: first_few(&burst.targets),
        },
        sent,
        refused: context.sockets.errors() - errors_before,
        path: state.nominated.filter(|_| state.confirmed.is_some()).or(state.confirmed).or(state.heard_from),
        first_heard: state.first_heard,
        rtt: state.rtt,
    }
}

/// What is known in the course of a round.
#[derive(Default)]
struct RoundState {
    heard: u32,
    answers: u32,
    first_heard: Option<Instant>,
    heard_from: Option<Path>,
    /// A check of ours was answered over it.
    confirmed: Option<Path>,
    /// The browser wants it to be this one.
    nominated: Option<Path>,
    rtt: Option<Duration>,
    done: Option<Instant>,
}

impl RoundState {
    async fn receive(&mut self, context: &mut RoundContext<'_>, ice: &Ice, arrival: Arrival) {
        let Some(heard) = ice.read(&arrival.bytes) else { return };
        let path = Path { socket: arrival.socket, remote: arrival.from };
        self.heard += 1;
        self.first_heard.get_or_insert(arrival.at);
        self.heard_from.get_or_insert(path);
        match heard {
            Heard::Check { id, nominates } => {
                if self.answers >= MAX_ANSWERS {
                    return;
                }
                self.answers += 1;
                ice.answer(context.sockets, &id, path).await;
                // A triggered check (RFC 8445 section 7.3.1.4); the browser repeats its own until one is answered.
                if self.confirmed.is_none() {
                    self.answers += 1;
                    ice.check(context.sockets, context.stamps, path).await;
                }
                if nominates {
                    self.nominated = Some(path);
                }
            }
            Heard::Answer { stamp } => {
                let took = context.stamps.age(stamp);
                self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
                if context.stamps.is_from(stamp, path.remote) {
                    context.sockets.answered(path.remote.ip());
                }
                if self.confirmed.is_none() {
                    self.confirmed = Some(path);
                    self.done = Some(arrival.at + NOMINATION);
                }
            }
        }
        if self.confirmed.is_some() && self.nominated.is_some() {
            let settled = arrival.at + SETTLING;
            self.done = Some(self.done.map_or(settled, |done| done.min(settled)));
        }
    }
}

/// Holds the path: checks as heartbeats, those of the browser answered. The path follows the browser.
pub(super) async fn hold(
    sockets: &mut Sockets,
    ice: &Ice,
    stamps: &Stamps,
    path: &mut Path,
    Terms { hold, rtt }: Terms,
    held: &mut Held,
) {
    let begun = Instant::now();
    let (every, end) = (interval(hold), begun + hold);
    let mut next = begun;
    let mut replied = 0;
    loop {
        let now = Instant::now();
        if now >= next && next < end {
            ice.check(sockets, stamps, *path).await;
            held.heartbeats += 1;
            next += every;
        }
        let close = held.close(end, rtt);
        if now >= close {
            return;
        }
        let until = if next < end { next } else { close };
        let arrival = tokio::select! {
            biased;
            arrival = sockets.receive() => arrival,
            () = sleep_until(until) => continue,
        };
        let from = Path { socket: arrival.socket, remote: arrival.from };
        match ice.read(&arrival.bytes) {
            Some(Heard::Answer { stamp }) => {
                held.replied(stamps.age(stamp), arrival.at.saturating_duration_since(begun));
                if stamps.is_from(stamp, from.remote) {
                    sockets.answered(from.remote.ip());
                }
                *path = from;
            }
            Some(Heard::Check { id, .. }) if replied < MAX_REPLIES => {
                replied += 1;
                ice.answer(sockets, &id, from).await;
            }
            Some(Heard::Check { .. }) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ice() -> Ice {
        Ice::new(Nonce([1; 16]), &own(Nonce([2; 16])))
    }

    /// As the browser writes it.
    fn check(of: &Ice, password: &str) -> Vec<u8> {
        let own = Credentials { ufrag: of.own.ufrag.clone(), password: password.into() };
        let mut buffer = [0; MAX_CHECK];
        let id = TransactionId::modern_from([3; 12]);
        let length = ice::write_check(&mut buffer, &id, &of.peer.ufrag, &own, 1, 2).unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn only_the_browser_that_was_introduced_is_heard() {
        let ice = ice();
        let heard = ice.read(&check(&ice, &ice.own.password));
        assert_eq!(heard, Some(Heard::Check { id: TransactionId::modern_from([3; 12]), nominates: false }));
        assert_eq!(ice.read(&check(&ice, &ice.peer.password)), None, "another password");
        let stranger = Ice { peer: Credentials { ufrag: "else".into(), ..ice.peer.clone() }, ..ice.clone() };
        assert_eq!(stranger.read(&check(&ice, &ice.own.password)), None, "another name");
        assert_eq!(ice.read(b"NCP2"), None);
    }

    #[test]
    fn credentials_are_those_of_ice_and_do_not_show_the_nonce() {
        let side = own(Nonce([1; 16]));
        let credentials = Credentials { ufrag: side.ufrag.clone(), password: side.password.clone() };
        assert!(credentials.are_valid());
        assert!(!format!("{}{}", side.ufrag, side.password).contains("0101"));
        assert_ne!(own(Nonce([2; 16])), side);
    }
}
