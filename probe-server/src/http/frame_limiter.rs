//! Limits what a client sends over HTTP: the bytes of its request, then the frames of its WebSocket (RFC 6455 section
//! 5.2). It follows frames below the WebSocket library, which keeps empty fragments to itself: they would cost a client
//! nothing.

use std::io::{self, Cursor};

use shared::rendezvous::{MAX_MESSAGE, Refusal};
use tokio_tungstenite::tungstenite::protocol::frame::{
    FrameHeader,
    coding::{Data, OpCode},
};

use crate::limited_stream::ReadLimit;

/// Longest HTTP request.
const MAX_REQUEST: usize = 4096;
/// Longest message of a client that has not met its peer yet: there is nothing long to be said.
const MAX_FIRST_MESSAGE: u64 = 1024;
/// Frames of one client, whatever their kind.
const MAX_FRAMES: u32 = 250;
/// Bytes of one client after its request, headers of frames and all.
const MAX_BYTES: usize = 96 * 1024;
/// The same for a member of a room, which stays longer: somewhat more than it may say in messages.
const MAX_ROOM_FRAMES: u32 = 1200;
const MAX_ROOM_BYTES: usize = 384 * 1024;
/// Longest header of a frame.
const MAX_HEADER: usize = 14;

/// Follows a request, then frames, through a stream of bytes.
#[derive(Debug)]
pub(crate) struct FrameLimiter {
    is_request: bool,
    /// Bytes that may still come.
    bytes: usize,
    /// Frames that may still come.
    frames: u32,
    longest: u64,
    /// What is known of the header that is coming in.
    header: [u8; MAX_HEADER],
    known: u8,
    /// Bytes that are missing of the payload.
    payload: u64,
    exceeded: Option<Refusal>,
}

impl FrameLimiter {
    /// For a connection that begins with an HTTP request.
    pub(crate) const fn new() -> Self {
        Self {
            is_request: true,
            bytes: MAX_REQUEST,
            frames: MAX_FRAMES,
            longest: MAX_FIRST_MESSAGE,
            header: [0; MAX_HEADER],
            known: 0,
            payload: 0,
            exceeded: None,
        }
    }

    /// The HTTP request has ended: what follows is frames.
    pub(crate) const fn begin_frames(&mut self) {
        self.is_request = false;
        self.bytes = MAX_BYTES;
    }

    /// The client has met its peer: what follows may be longer.
    pub(crate) const fn allow_payloads(&mut self) {
        self.longest = MAX_MESSAGE as u64;
    }

    /// The client has entered a room, where it may stay for long.
    pub(crate) const fn allow_room(&mut self) {
        (self.frames, self.bytes) = (MAX_ROOM_FRAMES, MAX_ROOM_BYTES);
    }

    /// Why the stream has ended, if the client sent what it may not.
    pub(crate) const fn exceeded(&self) -> Option<Refusal> {
        self.exceeded
    }

    fn check(&mut self, mut piece: &[u8]) -> Result<(), Refusal> {
        self.bytes = self.bytes.checked_sub(piece.len()).ok_or(Refusal::TooMuch)?;
        if self.is_request {
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
            let header = FrameHeader::parse(&mut Cursor::new(&self.header[..usize::from(self.known)]));
            if let Some((header, length)) = header.map_err(|_| Refusal::BadMessage)? {
                self.known = 0;
                self.payload = length;
                self.check_frame(&header)?;
            }
        }
        Ok(())
    }

    fn check_frame(&mut self, header: &FrameHeader) -> Result<(), Refusal> {
        self.frames = self.frames.checked_sub(1).ok_or(Refusal::TooMuch)?;
        // A message is short enough for one frame.
        if !header.is_final || header.opcode == OpCode::Data(Data::Continue) {
            return Err(Refusal::BadMessage);
        }
        if self.payload > self.longest { Err(Refusal::TooMuch) } else { Ok(()) }
    }
}

impl ReadLimit for FrameLimiter {
    fn follow(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check(bytes).map_err(|refusal| {
            self.exceeded = Some(refusal);
            io::Error::other(refusal)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> FrameLimiter {
        let mut limiter = FrameLimiter::new();
        limiter.begin_frames();
        limiter
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
            let mut limiter = limiter();
            assert!(all.chunks(size).all(|piece| limiter.check(piece).is_ok()), "pieces of {size}");
            assert_eq!(
                (limiter.frames, limiter.known, limiter.payload),
                (MAX_FRAMES - 8, 0, 0),
                "pieces of {size}"
            );
            assert_eq!(limiter.bytes, MAX_BYTES - all.len());
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
            (0x83, 0, Refusal::BadMessage),
        ] {
            let header = if length > 70_000 {
                [&[first, 0xff][..], &(length as u64).to_be_bytes(), &[0; 4]].concat()
            } else {
                frame(first, length)
            };
            assert_eq!(limiter().check(&header), Err(expected), "{first:x} {length}");
        }
        for kind in [0x81, 0x89, 0x8a] {
            let mut limiter = limiter();
            let n = (0..).take_while(|_| limiter.check(&frame(kind, 0)).is_ok()).count();
            assert_eq!(n, MAX_FRAMES as usize, "{kind:x}");
        }
        let mut limiter = FrameLimiter::new();
        assert_eq!(limiter.check(&[b'x'; MAX_REQUEST]), Ok(()));
        assert_eq!(limiter.check(b"x"), Err(Refusal::TooMuch));
    }

    #[test]
    fn payloads_are_longer_than_what_comes_before() {
        let mut limiter = limiter();
        limiter.allow_payloads();
        assert_eq!(limiter.check(&frame(0x81, MAX_MESSAGE)), Ok(()));
        assert_eq!(limiter.check(&frame(0x81, MAX_MESSAGE + 1)), Err(Refusal::TooMuch));
    }
}
