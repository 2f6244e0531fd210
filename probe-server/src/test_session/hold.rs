//! A connection that is held: nobody says anything, until the server does.

use std::time::Duration;

use shared::test_session::{HOLD_ECHO_TIMEOUT, HoldOutcome, Nonce, ToClient};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Hold, service::WorkGuard};

/// What the connection is asked for.
pub struct HoldOrder {
    pub(super) hold: Hold,
    /// Of the session: when nobody reads it any more, the connection ends.
    pub(super) mailbox: mpsc::Sender<ToClient>,
    pub(super) guard: WorkGuard,
}

/// Bytes of a client that are read and dropped.
const MAX_DROPPED: usize = 4096;

/// Holds the connection as ordered, tells the session what came of it, and closes it.
pub async fn run<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, order: HoldOrder) {
    let HoldOrder { hold, mailbox, guard } = order;
    let (outcome, after) = tokio::select! {
        end = speak_first(&mut stream, &hold) => end,
        () = mailbox.closed() => return,
    };
    drop(guard);
    let after_us = u32::try_from(after.as_micros()).unwrap_or(u32::MAX);
    // Who has left does not want to know.
    _ = mailbox.send(ToClient::HoldResult { id: hold.id, outcome, after_us }).await;
}

async fn speak_first<S>(stream: &mut S, hold: &Hold) -> (HoldOutcome, Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut heard = Heard::default();
    let until = Instant::now() + hold.after;
    tokio::select! {
        () = heard.read_until(stream, None) => return (HoldOutcome::ClosedBefore, Duration::ZERO),
        () = sleep_until(until) => {}
    }
    let started = Instant::now();
    let exchange = async {
        // What the system does not take any more shows when it is read from.
        _ = stream.write_all(&hold.nonce.0).await;
        _ = stream.flush().await;
        heard.read_until(stream, Some(hold.nonce)).await;
    };
    let is_over = timeout_at(started + HOLD_ECHO_TIMEOUT, exchange).await.is_ok();
    let outcome = match (is_over, heard.ends_with(hold.nonce)) {
        (_, true) => HoldOutcome::Echoed,
        (true, false) => HoldOutcome::Closed,
        (false, false) => HoldOutcome::Silent,
    };
    (outcome, started.elapsed())
}

/// The last bytes that a client sent.
#[derive(Default)]
struct Heard {
    last: [u8; 16],
    count: usize,
}

impl Heard {
    /// Reads until this nonce has come, or the stream has ended, or too much has come.
    async fn read_until<S: AsyncRead + Unpin>(&mut self, stream: &mut S, nonce: Option<Nonce>) {
        let mut piece = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut piece).await {
            for byte in &piece[..length] {
                self.last.rotate_left(1);
                self.last[15] = *byte;
                self.count += 1;
                if nonce.is_some_and(|nonce| self.ends_with(nonce)) {
                    return;
                }
            }
            if self.count > MAX_DROPPED {
                return;
            }
        }
    }

    fn ends_with(&self, nonce: Nonce) -> bool {
        self.count >= 16 && self.last == nonce.0
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    const NONCE: Nonce = Nonce([7; 16]);

    const HOLD: Hold = Hold { id: 1, connection: 1, nonce: NONCE, after: Duration::from_secs(60) };

    #[tokio::test(start_paused = true)]
    async fn the_server_speaks_first_and_waits_for_the_echo() {
        let (mut here, mut there) = duplex(64);
        let client = async move {
            let started = Instant::now();
            let mut heard = [0; 16];
            there.read_exact(&mut heard).await.unwrap();
            assert_eq!((heard, started.elapsed().as_secs()), (NONCE.0, 60));
            // Something from inside first, as a client that revives a mapping sends it.
            there.write_all(&[0; 3]).await.unwrap();
            there.write_all(&heard).await.unwrap();
            there
        };
        let (end, _there) = tokio::join!(speak_first(&mut here, &HOLD), client);
        assert_eq!(end.0, HoldOutcome::Echoed);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_both_ends_are_told_apart() {
        let (mut here, _there) = duplex(64);
        assert_eq!(speak_first(&mut here, &HOLD).await, (HoldOutcome::Silent, HOLD_ECHO_TIMEOUT));
        let (mut here, there) = duplex(64);
        drop(there);
        assert_eq!(speak_first(&mut here, &HOLD).await.0, HoldOutcome::ClosedBefore);
        let (mut here, mut there) = duplex(64);
        let leave = async move { there.read_exact(&mut [0; 16]).await.unwrap() };
        let (end, _) = tokio::join!(speak_first(&mut here, &HOLD), leave);
        assert_eq!(end.0, HoldOutcome::Closed);
        let (mut here, mut there) = duplex(64);
        let babble = async move { while there.write_all(&[1; 64]).await.is_ok() {} };
        let end = tokio::select! { end = speak_first(&mut here, &HOLD) => end, () = babble => panic!() };
        assert_eq!(end.0, HoldOutcome::ClosedBefore, "whoever says too much is cut off");
    }
}
