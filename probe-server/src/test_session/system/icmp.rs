//! ICMP errors about what a socket sent, from the error queue of Linux (ip(7), IP_RECVERR).

use std::{
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
    sockopt::{Ipv4RecvErr, Ipv6RecvErr},
};
use shared::test_session::Icmp;

/// Has the system keep ICMP errors for this socket.
pub(super) fn keep_errors(socket: &impl AsFd, is_ipv6: bool) -> nix::Result<()> {
    if is_ipv6 { setsockopt(socket, Ipv6RecvErr, &true) } else { setsockopt(socket, Ipv4RecvErr, &true) }
}

/// The next ICMP error that was kept, and the beginning of what it is about.
pub(super) fn take_error(socket: &impl AsRawFd) -> Option<(Icmp, [u8; 16])> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut quoted = [0; 16];
    let mut pieces = [IoSliceMut::new(&mut quoted)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags).ok()?;
    let icmp = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, from) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP => {
            let from = Ipv4Addr::from(from?.sin_addr.s_addr.to_ne_bytes());
            Some(Icmp { kind: error.ee_type, code: error.ee_code, from: IpAddr::V4(from) })
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 => {
            let from = Ipv6Addr::from(from?.sin6_addr.s6_addr);
            Some(Icmp { kind: error.ee_type, code: error.ee_code, from: IpAddr::V6(from) })
        }
        _ => None,
    })?;
    Some((icmp, quoted))
}
