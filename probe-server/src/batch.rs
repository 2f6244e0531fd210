//! Batched socket calls: recvmmsg and sendmmsg of Linux behind safe types; the only unsafe code of the server.
//!
//! Both calls take arrays of C structures that point at buffers. Those for receiving point at buffers on the heap
//! that live, unmoved, as long as the arrays do; those for sending are made anew for each call from what the caller
//! lends for it.
#![expect(unsafe_code, reason = "the standard library has no batched socket calls")]

use std::{
    io, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket},
    os::fd::AsRawFd,
    ptr,
};

/// Room for an address of either family: the larger structure. The general one of the C library is four times as
/// long, and a batch of them would push other things out of the cache.
type Name = libc::sockaddr_in6;

/// Room for one batch of datagrams.
#[derive(Debug)]
pub struct Receiver {
    length: usize,
    // Vectors and not boxes: pointers to what a box holds do not outlive its being moved.
    buffers: Vec<u8>,
    names: Vec<Name>,
    // Read by the kernel alone, through the headers.
    _vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    /// Headers that the kernel has written to.
    used: usize,
}

impl Receiver {
    /// Room for `batch` datagrams of at most `length` bytes.
    #[must_use]
    pub fn new(batch: usize, length: usize) -> Self {
        let mut buffers = vec![0_u8; batch * length];
        let mut names = vec![empty_name(); batch];
        let mut vectors = vec![EMPTY_VECTOR; batch];
        let mut headers = vec![empty_header(); batch];
        let (bytes, name) = (buffers.as_mut_ptr(), names.as_mut_ptr());
        for (i, vector) in vectors.iter_mut().enumerate() {
            vector.iov_base = bytes.wrapping_add(i * length).cast();
            vector.iov_len = length;
        }
        let vector = vectors.as_mut_ptr();
        for (i, header) in headers.iter_mut().enumerate() {
            header.msg_hdr.msg_name = name.wrapping_add(i).cast();
            header.msg_hdr.msg_iov = vector.wrapping_add(i);
            header.msg_hdr.msg_iovlen = 1;
        }
        Self { length, buffers, names, _vectors: vectors, headers, used: batch }
    }

    /// Takes what has come, without waiting; the number of datagrams.
    ///
    /// # Errors
    /// What the operating system says; [`io::ErrorKind::WouldBlock`] when nothing has come.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        for header in &mut self.headers[..self.used] {
            header.msg_hdr.msg_namelen = mem::size_of::<Name>() as libc::socklen_t;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: each header points at a name, a vector and through it a buffer of this struct, with their true
        // sizes beside the pointers. They are on the heap, are never moved or freed while the struct lives, and
        // `&mut self` keeps everybody else away during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                self.headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error());
        self.used = *received.as_ref().unwrap_or(&0);
        received
    }

    /// Source and bytes of a datagram of the last batch; `None` if it did not fit.
    #[must_use]
    pub fn get(&self, i: usize) -> Option<(SocketAddr, &[u8])> {
        let header = &self.headers[i];
        if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
            return None;
        }
        let length = (header.msg_len as usize).min(self.length);
        let start = i * self.length;
        Some((read_name(&self.names[i])?, &self.buffers[start..start + length]))
    }
}

/// Room for the headers of one batch of answers.
#[derive(Debug)]
pub struct Sender {
    names: Vec<Name>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

impl Sender {
    /// Room for `batch` datagrams.
    #[must_use]
    pub fn new(batch: usize) -> Self {
        Self {
            names: vec![empty_name(); batch],
            vectors: vec![EMPTY_VECTOR; batch],
            headers: vec![empty_header(); batch],
        }
    }

    /// Sends these datagrams, at most as many as there is room for; the number of those that were not taken.
    pub fn send<'a>(
        &mut self,
        socket: &UdpSocket,
        messages: impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> usize {
        let mut count = 0;
        let slots = self.names.iter_mut().zip(&mut self.vectors).zip(&mut self.headers);
        for ((to, bytes), ((name, vector), header)) in messages.zip(slots) {
            header.msg_hdr.msg_namelen = write_name(name, to);
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            vector.iov_base = bytes.as_ptr().cast_mut().cast();
            vector.iov_len = bytes.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        let mut failed = 0;
        let mut at = 0;
        while at < count {
            // SAFETY: the headers from `at` to `count` point at names and vectors of this struct, and through them
            // at bytes that the caller lends for this call; sendmmsg only reads them, and writes the headers'
            // lengths. Sizes stand beside the pointers.
            let sent = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    self.headers.as_mut_ptr().add(at),
                    (count - at) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            // The call ends at the first datagram that is refused: it is given up, the others still go.
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => at += sent,
                Ok(_) | Err(_) => {
                    failed += 1;
                    at += 1;
                }
            }
        }
        failed
    }
}

// SAFETY: the pointers in the arrays lead only to heap memory that the struct itself owns, so a thread may hand it over.
unsafe impl Send for Receiver {}
// SAFETY: the pointers in the arrays are set at the beginning of each call and not read after its end.
unsafe impl Send for Sender {}

const EMPTY_VECTOR: libc::iovec = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };

fn empty_name() -> Name {
    // SAFETY: a plain C structure of integers, for which all zeros is a value.
    unsafe { mem::zeroed() }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: a plain C structure of integers and pointers, for which all zeros is a value.
    unsafe { mem::zeroed() }
}

#[inline]
fn read_name(name: &Name) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure the kernel wrote; it is smaller and not stricter aligned.
            let v4 = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            let v6 = name;
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[inline]
fn write_name(name: &mut Name, address: SocketAddr) -> libc::socklen_t {
    match address {
        SocketAddr::V4(address) => {
            // SAFETY: the other structure is smaller, not stricter aligned, and any bytes are a value of it.
            let v4 = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = address.port().to_be();
            v4.sin_addr.s_addr = u32::from(*address.ip()).to_be();
            mem::size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(address) => {
            let v6 = name;
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = address.port().to_be();
            v6.sin6_flowinfo = 0;
            v6.sin6_addr.s6_addr = address.ip().octets();
            v6.sin6_scope_id = address.scope_id();
            mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_c_structures() {
        for text in ["192.0.2.1:1", "127.0.0.1:65535", "[2001:db8::1]:3478", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            let mut name = empty_name();
            write_name(&mut name, address);
            assert_eq!(read_name(&name), Some(address));
        }
        assert_eq!(read_name(&empty_name()), None);
    }

    #[test]
    fn a_batch_there_and_back() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(loopback).unwrap();
            let client = UdpSocket::bind(loopback).unwrap();
            for i in 0..5_u8 {
                client.send_to(&vec![i; usize::from(i)], server.local_addr().unwrap()).unwrap();
            }
            client.send_to(&[9; 65], server.local_addr().unwrap()).unwrap();
            let mut receiver = Receiver::new(4, 64);
            let mut sender = Sender::new(4);
            assert_eq!(receiver.receive(&server).unwrap(), 4);
            let batch: Vec<_> = (0..4).map(|i| receiver.get(i).unwrap()).collect();
            assert!(batch.iter().enumerate().all(|(i, (_, bytes))| bytes.len() == i));
            assert_eq!(sender.send(&server, batch.into_iter()), 0);
            assert_eq!(receiver.receive(&server).unwrap(), 2);
            assert_eq!(receiver.get(0).unwrap().1, [4; 4]);
            assert_eq!(receiver.get(1), None, "what does not fit is told, not cut");
            assert_eq!(receiver.receive(&server).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            let mut buffer = [0; 64];
            for i in 0..4 {
                assert_eq!(client.recv_from(&mut buffer).unwrap(), (i, server.local_addr().unwrap()));
            }
        }
    }

    #[test]
    fn a_refused_datagram_does_not_stop_the_others() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let good = socket.local_addr().unwrap();
        // A loopback socket cannot reach an address of another family.
        let bad = "[2001:db8::1]:9".parse().unwrap();
        let messages = [(good, &b"one"[..]), (bad, b"two"), (good, b"three")];
        assert_eq!(Sender::new(3).send(&socket, messages.into_iter()), 1);
        let mut buffer = [0; 64];
        assert_eq!(socket.recv_from(&mut buffer).unwrap().0, 3);
        assert_eq!(socket.recv_from(&mut buffer).unwrap().0, 5);
    }
}
