//! Writes a STUN message into a buffer of the caller's, without allocation (RFC 8489 sections 5, 14).

use std::net::{IpAddr, SocketAddr};

use super::{BINDING, Class, HEADER, TransactionId, attr, fingerprint, message_type, view::unmask};

/// The message did not fit into the buffer, or into STUN's 16-bit length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message does not fit into its buffer")]
pub struct WriteError;

/// A message in the making. Attributes are appended in the order of the calls; one that does not fit makes
/// [`Writer::finish`] fail, so the calls in between need no checks.
#[derive(Debug)]
pub struct Writer<'a> {
    buffer: &'a mut [u8],
    length: usize,
    fits: bool,
}

impl<'a> Writer<'a> {
    /// Begins a Binding message of this class.
    #[must_use]
    pub fn new(buffer: &'a mut [u8], class: Class, id: &TransactionId) -> Self {
        let fits = buffer.len() >= HEADER;
        if fits {
            buffer[..2].copy_from_slice(&message_type(class, BINDING).to_be_bytes());
            buffer[2..4].copy_from_slice(&[0, 0]);
            buffer[4..HEADER].copy_from_slice(&id.0);
        }
        Self { buffer, length: HEADER, fits }
    }

    /// Appends an attribute with these bytes as value; padding is zeros.
    pub fn bytes(&mut self, number: u16, value: &[u8]) -> &mut Self {
        if let Some(space) = self.reserve(number, value.len()) {
            space.copy_from_slice(value);
        }
        self
    }

    /// Appends an attribute of `length` zero bytes.
    pub fn zeros(&mut self, number: u16, length: usize) -> &mut Self {
        if let Some(space) = self.reserve(number, length) {
            space.fill(0);
        }
        self
    }

    /// Appends an attribute of four bytes.
    pub fn u32(&mut self, number: u16, value: u32) -> &mut Self {
        self.bytes(number, &value.to_be_bytes())
    }

    /// Appends an attribute in MAPPED-ADDRESS format.
    pub fn address(&mut self, number: u16, address: SocketAddr) -> &mut Self {
        match address.ip() {
            IpAddr::V4(ip) => self.encode_address(number, 1, address.port(), &ip.octets()),
            IpAddr::V6(ip) => self.encode_address(number, 2, address.port(), &ip.octets()),
        }
    }

    /// Appends an attribute in XOR-MAPPED-ADDRESS format.
    pub fn xor_address(&mut self, number: u16, address: SocketAddr) -> &mut Self {
        if !self.fits {
            return self;
        }
        let mut id = [0; 16];
        id.copy_from_slice(&self.buffer[4..HEADER]);
        self.address(number, unmask(address, &TransactionId(id)))
    }

    /// Appends RESPONSE-PORT in its 2-byte form, the one that every server is known to read.
    pub fn response_port(&mut self, port: u16) -> &mut Self {
        self.bytes(attr::RESPONSE_PORT, &port.to_be_bytes())
    }

    /// Appends ERROR-CODE without a reason text.
    pub fn error(&mut self, code: u16) -> &mut Self {
        let [class, number] = [(code / 100) as u8 & 7, (code % 100) as u8];
        self.bytes(attr::ERROR_CODE, &[0, 0, class, number])
    }

    /// Appends UNKNOWN-ATTRIBUTES.
    pub fn unknown_attributes(&mut self, numbers: &[u16]) -> &mut Self {
        if let Some(space) = self.reserve(attr::UNKNOWN_ATTRIBUTES, numbers.len() * 2) {
            for (slot, number) in space.chunks_exact_mut(2).zip(numbers) {
                slot.copy_from_slice(&number.to_be_bytes());
            }
        }
        self
    }

    /// Appends FINGERPRINT; nothing may follow.
    pub fn fingerprint(&mut self) -> &mut Self {
        self.bytes(attr::FINGERPRINT, &[0; 4]);
        if self.fits {
            let at = self.length - 8;
            let value = fingerprint(&self.buffer[..at]);
            self.buffer[at + 4..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        self
    }

    /// Bytes written so far, header included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing but the header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    /// The number of bytes of the finished message.
    ///
    /// # Errors
    /// When something did not fit.
    pub fn finish(&self) -> Result<usize, WriteError> {
        if self.fits { Ok(self.length) } else { Err(WriteError) }
    }

    fn encode_address(&mut self, number: u16, family: u8, port: u16, ip: &[u8]) -> &mut Self {
        if let Some(space) = self.reserve(number, 4 + ip.len()) {
            space[0] = 0;
            space[1] = family;
            space[2..4].copy_from_slice(&port.to_be_bytes());
            space[4..].copy_from_slice(ip);
        }
        self
    }

    /// Makes room for an attribute, writes its header, zeros its padding, keeps the length field true.
    fn reserve(&mut self, number: u16, length: usize) -> Option<&mut [u8]> {
        let start = self.length + 4;
        let end = start + length.next_multiple_of(4);
        self.fits &= end <= self.buffer.len() && end - HEADER <= usize::from(u16::MAX);
        if !self.fits {
            return None;
        }
        self.length = end;
        self.buffer[start - 4..start - 2].copy_from_slice(&number.to_be_bytes());
        self.buffer[start - 2..start].copy_from_slice(&(length as u16).to_be_bytes());
        self.buffer[start + length..end].fill(0);
        self.buffer[2..4].copy_from_slice(&((end - HEADER) as u16).to_be_bytes());
        Some(&mut self.buffer[start..start + length])
    }
}
