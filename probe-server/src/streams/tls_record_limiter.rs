//! Limits what TLS keeps of a connection that does not go on: records may be 16 KiB long and handshake messages 64 KiB
//! (RFC 8446 sections 4 and 5.1), and the library waits for the whole of either.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use tokio_rustls::server::TlsStream;

use crate::limited_stream::{Limited, ReadLimit};

/// Bytes that may come in before something readable comes out of them.
pub(super) const MAX_HELD: usize = 4096;
/// The same while the handshake lasts.
const MAX_HELD_IN_HANDSHAKE: usize = 2 * MAX_HELD;
/// Bytes before the payload of a record, the last two of which are its length.
const HEADER: usize = 5;

/// The limit of the stream below TLS. It gives one record at a time, so that nothing is left inside when a message has
/// come out.
#[derive(Debug)]
pub(super) struct TlsRecordLimiter {
    /// Bytes since something readable came out.
    held: usize,
    /// Those of them that belong to a record that is not complete.
    begun: usize,
    most: usize,
    header: [u8; HEADER],
    /// Bytes known of the header that is coming in.
    known: usize,
    /// Bytes missing of the payload.
    payload: usize,
    /// Set from above when something readable has come out, or the handshake is over.
    came_out: Arc<AtomicBool>,
}

/// The stream above TLS: it tells the limiter below when something readable has come out.
pub(super) type Readable<S> = Limited<TlsStream<Limited<S, TlsRecordLimiter>>, CameOut>;

/// Tells the limiter below TLS.
#[derive(Debug)]
pub(super) struct CameOut(Arc<AtomicBool>);

impl TlsRecordLimiter {
    pub(super) fn new() -> Self {
        Self {
            held: 0,
            begun: 0,
            most: MAX_HELD_IN_HANDSHAKE,
            header: [0; HEADER],
            known: 0,
            payload: 0,
            came_out: Arc::default(),
        }
    }

    /// Bytes to the end of what is coming in: a header or a payload.
    const fn wanted(&self) -> usize {
        if self.payload > 0 { self.payload } else { HEADER - self.known }
    }

    /// Whether it may go on.
    const fn is_within(&self) -> bool {
        self.held + self.payload <= self.most
    }

    fn check(&self) -> io::Result<()> {
        let too_much = || io::Error::other("too much before a message is complete");
        if self.is_within() { Ok(()) } else { Err(too_much()) }
    }

    /// Takes a piece, which is not longer than what was wanted.
    fn take(&mut self, piece: &[u8]) {
        self.held += piece.len();
        self.begun += piece.len();
        if self.payload > 0 {
            self.payload -= piece.len();
        } else {
            self.header[self.known..][..piece.len()].copy_from_slice(piece);
            self.known += piece.len();
            if self.known == HEADER {
                self.known = 0;
                self.payload = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
            }
        }
        if self.known == 0 && self.payload == 0 {
            self.begun = 0;
        }
    }

    /// Something readable came out, or the handshake is over, which may have read on into the next record.
    const fn release(&mut self) {
        self.held = self.begun;
        self.most = MAX_HELD;
    }
}

impl ReadLimit for TlsRecordLimiter {
    fn allowed(&mut self) -> io::Result<usize> {
        if self.came_out.swap(false, Relaxed) {
            self.release();
        }
        self.check()?;
        Ok(self.wanted())
    }

    fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take(bytes);
        self.check()
    }
}

impl ReadLimit for CameOut {
    fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            self.0.store(true, Relaxed);
        }
        Ok(())
    }
}

/// The stream above TLS, when the handshake is over.
pub(super) fn readable<S>(stream: TlsStream<Limited<S, TlsRecordLimiter>>) -> Readable<S> {
    let came_out = Arc::clone(&stream.get_ref().0.limit().came_out);
    came_out.store(true, Relaxed);
    Limited::new(stream, CameOut(came_out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3, (length >> 8) as u8, length as u8];
        bytes.resize(HEADER + length, 0);
        bytes
    }

    /// Feeds it as the library would, in reads of at most `size`; whether it may go on after all.
    fn feed(limiter: &mut TlsRecordLimiter, mut bytes: &[u8], size: usize) -> bool {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(limiter.wanted().min(size).min(bytes.len()));
            limiter.take(piece);
            if !limiter.is_within() {
                return false;
            }
            bytes = rest;
        }
        true
    }

    #[test]
    fn records_are_followed_whatever_the_pieces() {
        let all: Vec<u8> = [0, 1, 100, 0, 700, 22].into_iter().flat_map(record).collect();
        for size in [1, 2, 3, 5, 7, 100, 1000] {
            let mut limiter = TlsRecordLimiter::new();
            assert!(feed(&mut limiter, &all, size));
            assert_eq!((limiter.held, limiter.known, limiter.payload), (all.len(), 0, 0));
            assert_eq!(limiter.wanted(), HEADER, "the next read ends with the record");
        }
    }

    #[test]
    fn what_would_have_to_be_kept_is_bounded() {
        let mut limiter = TlsRecordLimiter::new();
        assert!(feed(&mut limiter, &record(MAX_HELD_IN_HANDSHAKE - HEADER), 4096));
        assert!(!feed(&mut limiter, &record(0), 4096), "a handshake without end");
        limiter.release();
        assert!(feed(&mut limiter, &record(MAX_HELD - HEADER), 4096));
        limiter.release();
        assert!(
            !feed(&mut limiter, &record(MAX_HELD - HEADER + 1)[..HEADER], 4096),
            "told by the header alone"
        );

        let mut limiter = TlsRecordLimiter::new();
        assert!(feed(&mut limiter, &record(300), 4096));
        assert!(feed(&mut limiter, &record(MAX_HELD)[..MAX_HELD], 4096), "a handshake that reads on");
        limiter.release();
        assert_eq!((limiter.held, limiter.is_within()), (MAX_HELD, false));

        let mut limiter = TlsRecordLimiter::new();
        limiter.release();
        let n = (0..1000).take_while(|_| feed(&mut limiter, &record(20), 4096)).count();
        assert_eq!(n, MAX_HELD / (HEADER + 20), "records out of which nothing comes");
    }
}
