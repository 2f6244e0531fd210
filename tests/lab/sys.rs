//! The system calls without a safe wrapper: new namespaces, being killed with the parent, naming a TUN device. The only
//! unsafe code of the laboratory; each block says why it is sound.
#![allow(unsafe_code, reason = "these calls have no safe wrapper, see each block")]

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::Command,
};

use tokio::io::unix::AsyncFd;

use rustix::{
    mount::{MountFlags, mount},
    process::{Pid, Signal, WaitOptions, getgid, getuid, set_parent_process_death_signal, waitpid},
    thread::{CapabilitySet, UnshareFlags, capabilities, unshare_unsafe},
};

/// Whether this thread may make network namespaces and set up devices in them.
pub(crate) fn administers_networks() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

/// Moves the calling thread, and no other, to a new, empty network namespace. It exists as long as a thread or process in
/// it.
pub(crate) fn unshare_network() -> io::Result<()> {
    // SAFETY: CLONE_NEWNET changes only what later socket calls of this thread see. It frees no memory and closes
    // no file descriptor, which is what makes other flags of this call dangerous.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.map_err(io::Error::from)
}

/// Moves the calling thread, and no other, to mounts and a host name of its own, and its later children to a process
/// namespace, of which the next child is the first process.
pub(crate) fn unshare_host() -> io::Result<()> {
    let flags = UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWPID;
    // SAFETY: the thread gets its own root and working directory along with its mounts, which start as copies; the other
    // flags concern its host name and its children. No memory is freed, and no file descriptor closed.
    unsafe { unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// The first process of a host's process namespace. Dropping it ends it, and the kernel then ends the others.
#[derive(Debug)]
pub(crate) struct Init {
    pid: Pid,
    /// Closed when this process ends, in whatever way; the first process then ends as well.
    lifeline: Option<OwnedFd>,
}

impl Init {
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Init {
    fn drop(&mut self) {
        self.lifeline = None;
        // It fails only when there is nothing to wait for.
        let _ = waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// Starts the first process of the process namespace that [`unshare_host`] has made, and has it mount `/proc`. It returns
/// when that is done, or was refused, as in containers that hide a part of theirs.
pub(crate) fn start_init() -> io::Result<Init> {
    let mut ends = [-1; 2];
    // SAFETY: the array has room for the two descriptors.
    if unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr())
    } < 0
    {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are open, and nothing else owns them.
    let [ours, theirs] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    // SAFETY: the child makes only plain system calls, see `init`, and never returns.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(io::Error::last_os_error()),
        0 => init(theirs.as_raw_fd()),
        pid => pid,
    };
    drop(theirs);
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::Other)?;
    let init = Init { pid, lifeline: Some(ours) };
    let mut ready = [0];
    match &init.lifeline {
        Some(lifeline) if rustix::io::read(lifeline, &mut ready)? == 1 => Ok(init),
        _ => Err(io::Error::other("the first process of the host ended")),
    }
}

/// What the first process does: wait for the end. Orphans that become its children vanish by themselves, because it ignores
/// their ends. It was forked from a process with several threads: no locks, no allocation.
fn init(lifeline: i32) -> ! {
    // SAFETY: plain system calls on constants and on memory of this function; the descriptor is open. Those of the parent
    // are closed, because some are pipes whose end others wait for.
    unsafe {
        libc::setsid();
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::dup2(lifeline, 0);
        libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0);
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let _ = mount(c"proc", c"/proc", c"proc", flags, None);
        let mut byte = 0_u8;
        libc::write(0, (&raw const byte).cast(), 1);
        while libc::read(0, (&raw mut byte).cast(), 1) < 0 {}
        libc::_exit(0)
    }
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
