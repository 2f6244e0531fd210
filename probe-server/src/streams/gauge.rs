//! Bounds what TLS keeps of a connection that does not go on: records may be 16 KiB long and handshake messages 64 KiB
//! (RFC 8446 sections 4 and 5.1), and the library waits for the whole of either.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// Bytes that may come in before something readable comes out of them.
pub(super) const HELD: usize = 4096;
/// The same while the handshake lasts.
const HELD_IN_HANDSHAKE: usize = 2 * HELD;
/// Bytes before the payload of a record, the last two of which are its length.
const HEADER: usize = 5;

/// The stream below TLS. It gives one record at a time, so that nothing is left inside when a message has come out.
#[derive(Debug)]
pub(super) struct Gauged<S> {
    stream: S,
    gauge: Gauge,
}

#[derive(Debug)]
struct Gauge {
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
}

impl<S> Gauged<S> {
    pub(super) const fn new(stream: S) -> Self {
        let gauge =
            Gauge { held: 0, begun: 0, most: HELD_IN_HANDSHAKE, header: [0; HEADER], known: 0, payload: 0 };
        Self { stream, gauge }
    }
}

impl Gauge {
    /// Bytes to the end of what is coming in: a header or a payload.
    const fn wanted(&self) -> usize {
        if self.payload > 0 { self.payload } else { HEADER - self.known }
    }

    /// Whether it may go on.
    const fn is_within(&self) -> bool {
        self.held + self.payload <= self.most
    }

    /// Takes a piece, which is not longer than what was wanted.
    fn follow(&mut self, piece: &[u8]) {
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
        self.most = HELD;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gauged<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let too_much = || Poll::Ready(Err(io::Error::other("too much before a message is complete")));
        if !self.gauge.is_within() {
            return too_much();
        }
        let wanted = self.gauge.wanted().min(buffer.remaining());
        let mut piece = ReadBuf::new(buffer.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
        let length = piece.filled().len();
        self.gauge.follow(piece.filled());
        if !self.gauge.is_within() {
            return too_much();
        }
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

/// The stream above TLS, after the handshake.
#[derive(Debug)]
pub(super) struct Released<S>(TlsStream<Gauged<S>>);

impl<S> Released<S> {
    pub(super) fn new(mut stream: TlsStream<Gauged<S>>) -> Self {
        stream.get_mut().0.gauge.release();
        Self(stream)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Released<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buffer))?;
        if buffer.filled().len() > before {
            self.0.get_mut().0.gauge.release();
        }
        Poll::Ready(Ok(()))
    }
}

/// Writing is the stream's below.
macro_rules! write_through {
    ($type:ident, $inner:tt, $($bound:tt)+) => {
        impl<S: $($bound)+> AsyncWrite for $type<S> {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.$inner).poll_write(cx, bytes)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$inner).poll_flush(cx)
            }

            fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.$inner).poll_shutdown(cx)
            }
        }
    };
}

write_through!(Gauged, stream, AsyncWrite + Unpin);
write_through!(Released, 0, AsyncRead + AsyncWrite + Unpin);

#[cfg(test)]
mod tests {
    use super::*;

    fn record(length: usize) -> Vec<u8> {
        let mut bytes = vec![23, 3, 3, (length >> 8) as u8, length as u8];
        bytes.resize(HEADER + length, 0);
        bytes
    }

    /// Feeds it as the library would, in reads of at most `size`; whether it may go on after all.
    fn feed(gauge: &mut Gauge, mut bytes: &[u8], size: usize) -> bool {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(gauge.wanted().min(size).min(bytes.len()));
            gauge.follow(piece);
            if !gauge.is_within() {
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
            let mut gauge = Gauged::new(()).gauge;
            assert!(feed(&mut gauge, &all, size));
            assert_eq!((gauge.held, gauge.known, gauge.payload), (all.len(), 0, 0));
            assert_eq!(gauge.wanted(), HEADER, "the next read ends with the record");
        }
    }

    #[test]
    fn what_would_have_to_be_kept_is_bounded() {
        let mut gauge = Gauged::new(()).gauge;
        assert!(feed(&mut gauge, &record(HELD_IN_HANDSHAKE - HEADER), 4096));
        assert!(!feed(&mut gauge, &record(0), 4096), "a handshake without end");
        gauge.release();
        assert!(feed(&mut gauge, &record(HELD - HEADER), 4096));
        gauge.release();
        assert!(!feed(&mut gauge, &record(HELD - HEADER + 1)[..HEADER], 4096), "told by the header alone");

        let mut gauge = Gauged::new(()).gauge;
        assert!(feed(&mut gauge, &record(300), 4096));
        assert!(feed(&mut gauge, &record(HELD)[..HELD], 4096), "a handshake that reads on");
        gauge.release();
        assert_eq!((gauge.held, gauge.is_within()), (HELD, false));

        let mut gauge = Gauged::new(()).gauge;
        gauge.release();
        let n = (0..1000).take_while(|_| feed(&mut gauge, &record(20), 4096)).count();
        assert_eq!(n, HELD / (HEADER + 20), "records out of which nothing comes");
    }
}
