//! The kernel's limit: a responder that takes a batch of datagrams, stamps each answer with the id and the source
//! address at fixed places, and sends the batch. It checks nothing, so nothing that answers over this kernel's
//! sockets can be much faster.
#![expect(unsafe_code, reason = "batched socket calls, with nothing in between that would cost time")]

use std::{io, mem, net::UdpSocket, os::fd::AsRawFd, ptr};

const BATCH: usize = 64;
const REQUEST: usize = 2048;
const ANSWER: usize = 68;

/// Answers for ever, or until the operating system refuses to give more.
pub(crate) fn serve(socket: &UdpSocket) -> io::Result<()> {
    let mut requests = vec![[0_u8; REQUEST]; BATCH];
    let mut answers = vec![template(socket)?; BATCH];
    // SAFETY: plain C structures of integers, for which all zeros is a value.
    let mut names: Vec<libc::sockaddr_in> = vec![unsafe { mem::zeroed() }; BATCH];
    let mut vectors = vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH];
    // SAFETY: as above, with pointers, which may be null.
    let mut headers: Vec<libc::mmsghdr> = vec![unsafe { mem::zeroed() }; BATCH];
    let mut used = BATCH;
    loop {
        // Only what the last batch has changed.
        for i in 0..used {
            vectors[i] = libc::iovec { iov_base: requests[i].as_mut_ptr().cast(), iov_len: REQUEST };
            headers[i].msg_hdr.msg_name = ptr::from_mut(&mut names[i]).cast();
            headers[i].msg_hdr.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            headers[i].msg_hdr.msg_iov = ptr::from_mut(&mut vectors[i]);
            headers[i].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: all headers point at names, vectors and buffers that live in this function, sizes beside them.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        used = received;
        for i in 0..received {
            let answer = &mut answers[i];
            answer[4..20].copy_from_slice(&requests[i][4..20]);
            let (port, ip) = (names[i].sin_port.to_ne_bytes(), names[i].sin_addr.s_addr.to_ne_bytes());
            answer[26..28].copy_from_slice(&port);
            answer[28..32].copy_from_slice(&ip);
            answer[38..40].copy_from_slice(&[port[0] ^ 0x21, port[1] ^ 0x12]);
            answer[40..44].copy_from_slice(&[ip[0] ^ 0x21, ip[1] ^ 0x12, ip[2] ^ 0xa4, ip[3] ^ 0x42]);
            vectors[i] = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: ANSWER };
        }
        // SAFETY: as above; the names are those that the kernel wrote.
        unsafe {
            libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), received as libc::c_uint, 0);
        }
    }
}

/// A whole answer as the server's, with addresses that never change.
fn template(socket: &UdpSocket) -> io::Result<[u8; ANSWER]> {
    use shared::stun::{Class, TransactionId, Writer, attr};
    let own = socket.local_addr()?;
    let mut answer = [0; ANSWER];
    Writer::new(&mut answer, Class::Success, &TransactionId([0; 16]))
        .address(attr::MAPPED_ADDRESS, own)
        .address(attr::XOR_MAPPED_ADDRESS, own)
        .address(attr::RESPONSE_ORIGIN, own)
        .address(attr::OTHER_ADDRESS, own);
    Ok(answer)
}
