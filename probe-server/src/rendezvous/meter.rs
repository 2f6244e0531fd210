//! Counts what a client of the rendezvous sends, below the WebSocket library (RFC 6455 section 5.2): the library keeps
//! empty fragments and pings to itself, and they would cost a client nothing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use shared::rendezvous::{MAX_MESSAGE, Refusal};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest HTTP request that begins a WebSocket.
const HEAD: usize = 4096;
/// Longest message of a client that has not met its peer yet: there is nothing long to be said.
const FIRST: u64 = 1024;
/// Frames of one client, whatever their kind.
pub(crate) const FRAMES: u32 = 250;
/// Bytes of one client, headers and all.
pub(crate) const BYTES: usize = 96 * 1024;

/// A stream that ends when its client has said more than it may, and knows why.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    meter: Meter,
}

impl<S> Metered<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self { stream, meter: Meter::new() }
    }

    /// The HTTP request has ended: what follows is frames.
    pub(crate) const fn begin_frames(&mut self) {
        self.meter.is_head = false;
        self.meter.bytes = BYTES;
    }

    /// The client has met its peer: what follows may be longer.
    pub(crate) const fn allow_payloads(&mut self) {
        self.meter.longest = MAX_MESSAGE as u64;
    }

    /// Why the stream has ended, if the client said what it may not.
    pub(crate) const fn over(&self) -> Option<Refusal> {
        self.meter.over
    }
}

/// Follows frames through a stream of bytes.
#[derive(Debug)]
struct Meter {
    is_head: bool,
    bytes: usize,
    frames: u32,
    longest: u64,
    /// What is known of the header that is coming in.
    header: [u8; 14],
    known: u8,
    /// Bytes that are missing of the payload.
    payload: u64,
    over: Option<Refusal>,
}

impl Meter {
    const fn new() -> Self {
        Self {
            is_head: true,
            bytes: HEAD,
            frames: FRAMES,
            longest: FIRST,
            header: [0; 14],
            known: 0,
            payload: 0,
            over: None,
        }
    }

    /// Follows what has come.
    fn follow(&mut self, mut piece: &[u8]) -> Result<(), Refusal> {
        self.bytes = self.bytes.checked_sub(piece.len()).ok_or(Refusal::TooMuch)?;
        if self.is_head {
            return Ok(());
        }
        while !piece.is_empty() {
            let skipped = piece.len().min(usize::try_from(self.payload).unwrap_or(usize::MAX));
            self.payload -= skipped as u64;
            piece = &piece[skipped..];
            let Some((byte, rest)) = piece.split_first() else { break };
            self.header[usize::from(self.known)] = *byte;
            self.known += 1;
            piece = rest;
            if let Some(length) = length(&self.header[..usize::from(self.known)]) {
                self.known = 0;
                self.payload = length;
                self.frames = self.frames.checked_sub(1).ok_or(Refusal::TooMuch)?;
                let is_whole = self.header[0] & 0x80 != 0 && self.header[0] & 0x0f != 0;
                if !is_whole {
                    // A message is short enough for one frame.
                    return Err(Refusal::BadMessage);
                }
                if length > self.longest {
                    return Err(Refusal::TooMuch);
                }
            }
        }
        Ok(())
    }
}

/// Length of the payload, as soon as the header is complete.
fn length(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let (short, mask) = (second & 0x7f, if second & 0x80 == 0 { 0 } else { 4 });
    let extended = match short {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if header.len() < 2 + extended + mask {
        return None;
    }
    let extended = &header[2..2 + extended];
    let long = extended.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    Some(if extended.is_empty() { u64::from(short) } else { long })
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if let Err(refusal) = self.meter.follow(&buffer.filled()[before..]) {
            self.meter.over = Some(refusal);
            return Poll::Ready(Err(io::Error::other(refusal)));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meter() -> Meter {
        Meter { is_head: false, bytes: BYTES, ..Meter::new() }
    }

    /// A masked frame; its first byte says what it is.
    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match length {
            0..126 => bytes.push(0x80 | length as u8),
            126..65536 => bytes.extend([0xfe, (length >> 8) as u8, length as u8]),
            _ => bytes.extend([&[0xff][..], &(length as u64).to_be_bytes()].concat()),
        }
        bytes.resize(bytes.len() + 4 + length, 0xff);
        bytes
    }

    #[test]
    fn frames_are_followed_whatever_the_pieces() {
        let lengths = [0, 1, 125, 126, 500, 0, 1024, 7];
        let all: Vec<u8> = lengths.iter().flat_map(|length| frame(0x81, *length)).collect();
        for size in 1..all.len() {
            let mut meter = meter();
            assert!(all.chunks(size).all(|piece| meter.follow(piece).is_ok()), "pieces of {size}");
            assert_eq!((meter.frames, meter.known, meter.payload), (FRAMES - 8, 0, 0), "pieces of {size}");
            assert_eq!(meter.bytes, BYTES - all.len());
        }
    }

    #[test]
    fn what_is_too_much_is_told() {
        for (first, length, expected) in [
            (0x81, 1025, Refusal::TooMuch),
            (0x81, 65536, Refusal::TooMuch),
            (0x81, usize::MAX >> 1, Refusal::TooMuch),
            (0x01, 0, Refusal::BadMessage),
            (0x00, 0, Refusal::BadMessage),
            (0x80, 0, Refusal::BadMessage),
        ] {
            let header = if length > 70_000 {
                [&[first, 0xff][..], &(length as u64).to_be_bytes(), &[0; 4]].concat()
            } else {
                frame(first, length)
            };
            assert_eq!(meter().follow(&header), Err(expected), "{first:x} {length}");
        }
        for kind in [0x81, 0x89, 0x8a] {
            let mut meter = meter();
            let n = (0..).take_while(|_| meter.follow(&frame(kind, 0)).is_ok()).count();
            assert_eq!(n, FRAMES as usize, "{kind:x}");
        }
        let mut meter = Meter::new();
        assert_eq!(meter.follow(&[b'x'; HEAD]), Ok(()));
        assert_eq!(meter.follow(b"x"), Err(Refusal::TooMuch));
    }

    #[test]
    fn payloads_are_longer_than_what_comes_before() {
        let mut metered = Metered::new(tokio::io::empty());
        metered.begin_frames();
        metered.allow_payloads();
        assert_eq!(metered.meter.follow(&frame(0x81, MAX_MESSAGE)), Ok(()));
        assert_eq!(metered.meter.follow(&frame(0x81, MAX_MESSAGE + 1)), Err(Refusal::TooMuch));
    }
}
