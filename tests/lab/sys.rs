//! The system calls without a safe wrapper: new namespaces, being killed with the parent, naming a TUN device. The only
//! unsafe code of the laboratory; each block says why it is sound.
#![allow(unsafe_code, reason = "these calls have no safe wrapper, see each block")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
};

use tokio::io::unix::AsyncFd;

use rustix::{
    process::{Signal, getgid, getuid, set_parent_process_death_signal},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Moves the calling thread, and no other, to a new, empty network namespace. It exists as long as a thread or process in
/// it.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET changes only what later socket calls of this thread see. It frees no memory and closes
    // no file descriptor, which is what makes other flags of this call dangerous.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Makes the calling thread's next child the first process of a new process namespace: when that one ends, the
/// kernel ends everything that it started.
pub fn unshare_processes() -> io::Result<()> {
    // SAFETY: CLONE_NEWPID concerns only children that are made later.
    unsafe { unshare_unsafe(UnshareFlags::NEWPID) }.map_err(io::Error::from)
}

/// Makes this process root of a new user namespace, so that it may make network namespaces without privilege.
/// To be called while the process has a single thread.
pub(crate) fn unshare_user() -> io::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    // SAFETY: the kernel refuses CLONE_NEWUSER in a process with several threads, and in a process with one
    // thread nothing else can observe the change half-way.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Has the kernel kill the command's process when the thread that spawned it ends, for whatever reason.
pub fn die_with_spawner(command: &mut Command) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is one plain system call, and
    // turning its error into an io::Error allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// Opens a TUN device of this name (IP packets without any header) in the network namespace of the calling thread.
/// It goes away when the file is closed.
pub(crate) fn open_tun(name: &str) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain old data, for which all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "interface name {name} is too long");
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, TUNSETIFF takes a pointer to an ifreq, and the kernel is done with it when
    // the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Watches a device in the runtime of the calling task.
pub(crate) fn watch(device: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a File owns its descriptor, always gives the same one, and the AsyncFd owns the File until it is
    // dropped, when it is taken out of the runtime first.
    unsafe { AsyncFd::register(device) }.map_err(Into::into)
}
