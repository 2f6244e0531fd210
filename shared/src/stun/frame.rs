//! Framing of STUN in a stream (RFC 8489 section 6.2.2): the header tells where a message ends.

use super::HEADER;

/// The stream is not STUN, or its next message is longer than is taken: nothing behind it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The two top bits are set.
    #[error("the first two bits are not zero")]
    NotStun,
    /// The length is no multiple of four.
    #[error("the length field is no multiple of four")]
    Length,
    /// Longer than the limit.
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
}

/// The length in bytes of the message at the start of `stream`, header included, as soon as its first four bytes
/// are there. The message itself may still be incomplete.
///
/// # Errors
/// When no message of at most `limit` bytes can begin like this.
pub fn length(stream: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let [first, _, high, low, ..] = *stream else {
        return match stream.first() {
            Some(first) if first & 0xc0 != 0 => Err(FrameError::NotStun),
            _ => Ok(None),
        };
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if first & 0xc0 != 0 {
        Err(FrameError::NotStun)
    } else if length % 4 != 0 {
        Err(FrameError::Length)
    } else if HEADER + length > limit {
        Err(FrameError::TooLong(HEADER + length))
    } else {
        Ok(Some(HEADER + length))
    }
}

/// Cuts a stream into messages, whatever the pieces in which it arrives. It never holds more than one message and
/// one piece.
#[derive(Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    taken: usize,
    limit: usize,
}

impl Frames {
    /// Takes messages of at most `limit` bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { buffer: Vec::new(), taken: 0, limit }
    }

    /// Adds what arrived. Call [`Frames::next_message`] until it gives nothing before adding more.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(piece);
    }

    /// The next complete message, if there is one.
    ///
    /// # Errors
    /// When the stream is broken; every later call fails likewise.
    pub fn next_message(&mut self) -> Result<Option<&[u8]>, FrameError> {
        let rest = &self.buffer[self.taken..];
        match length(rest, self.limit)? {
            Some(length) if length <= rest.len() => {
                let start = self.taken;
                self.taken += length;
                Ok(Some(&self.buffer[start..self.taken]))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// Whether a message has begun and is not complete.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.taken < self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Class, TransactionId, Writer, attr};
    use super::*;

    fn stream() -> (Vec<u8>, Vec<usize>) {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut bytes = Vec::new();
        let mut lengths = Vec::new();
        for size in [0, 1, 4, 100, 0, 33] {
            let mut buffer = [0; 256];
            let mut writer = Writer::new(&mut buffer, Class::Request, &TransactionId::modern(&mut rng));
            if size > 0 {
                writer.zeros(attr::PADDING, size);
            }
            let length = writer.finish().unwrap();
            bytes.extend_from_slice(&buffer[..length]);
            lengths.push(length);
        }
        (bytes, lengths)
    }

    #[test]
    fn pieces_of_every_size_give_the_same_messages() {
        let (bytes, lengths) = stream();
        for size in 1..=bytes.len() {
            let mut frames = Frames::new(200);
            let mut seen = Vec::new();
            for piece in bytes.chunks(size) {
                frames.push(piece);
                while let Some(message) = frames.next_message().unwrap() {
                    seen.push(message.len());
                }
            }
            assert_eq!(seen, lengths, "pieces of {size}");
            assert!(!frames.is_partial());
        }
    }

    #[test]
    fn broken_streams_are_told_early() {
        assert_eq!(length(&[0x80], 100), Err(FrameError::NotStun));
        assert_eq!(length(&[0x16, 0x03, 0x01, 0x02], 100), Err(FrameError::Length));
        assert_eq!(length(&[0, 1, 1, 0], 100), Err(FrameError::TooLong(276)));
        assert_eq!(length(&[0, 1, 0], 100), Ok(None));
        assert_eq!(length(&[0, 1, 0, 8], 100), Ok(Some(28)));
    }
}
