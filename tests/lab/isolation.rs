//! What makes a host more than a network: mounts, host name, name resolution and processes of its own
//! (mount_namespaces(7), uts_namespaces(7), pid_namespaces(7)).
//!
//! Files are the machine's, except those that say where a program is: `/etc/hosts`, `/etc/resolv.conf`,
//! `/etc/nsswitch.conf`, `/proc` and `/sys`. When the host goes, or the process that made it ends in whatever way, the
//! kernel ends all its programs, including those that went to the background.

use std::{fs, io, path::Path, process::Command};

use rustix::{
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, unmount,
    },
    process::Pid,
    system::sethostname,
};

use crate::{
    sys::{self, Init},
    worker::Worker,
};

/// What a host is called, and the names that resolve on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its host name.
    pub hostname: String,
    /// Lines for its `/etc/hosts`, after those for the loopback.
    pub hosts: String,
}

/// The isolated part of a host, in which its programs are started.
#[derive(Debug)]
pub(crate) struct Isolation {
    worker: Worker,
    /// Dropped after the worker: the first process of the host.
    init: Init,
}

/// No server answers there, so that a name that `/etc/hosts` does not have fails at once.
const RESOLV_CONF: &str = "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n";
/// Without services that would ask the machine's own resolver through a Unix socket.
const NSSWITCH_CONF: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\n\
     services: files\nethers: files\nrpc: files\n";
/// Where files are put together until they are mounted; `/proc` of the host comes there later.
const STAGING: &str = "/proc";

impl Isolation {
    /// Called by a thread that is in the host's network, which the programs inherit.
    pub(crate) fn new(identity: Identity) -> io::Result<Self> {
        let name = format!("host {}", identity.hostname);
        let (worker, init) = Worker::start(name, move || {
            sys::unshare_host()?;
            sethostname(identity.hostname.as_bytes())?;
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            mount_files(&identity)?;
            sys::start_init()
        })?;
        Ok(Self { worker, init })
    }

    /// Starts a program.
    pub(crate) fn spawn(&self, mut command: Command) -> io::Result<std::process::Child> {
        self.worker.run(move || command.spawn())
    }

    /// The first process, by which others find the host's namespaces.
    pub(crate) fn init(&self) -> Pid {
        self.init.pid()
    }
}

/// Covers the files that are the host's own.
fn mount_files(identity: &Identity) -> io::Result<()> {
    let Identity { hostname, hosts } = identity;
    let hosts = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n{hosts}");
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("natlab", STAGING, "tmpfs", quiet, c"mode=755")?;
    for (file, text) in [
        ("/etc/hosts", &*hosts),
        ("/etc/resolv.conf", RESOLV_CONF),
        ("/etc/nsswitch.conf", NSSWITCH_CONF),
        ("/etc/hostname", &format!("{hostname}\n")),
    ] {
        let staged = Path::new(STAGING).join(file.rsplit('/').next().unwrap_or(file));
        fs::write(&staged, text)?;
        cover(&staged, Path::new(file), false)?;
    }
    let (cgroup, staged) = (Path::new("/sys/fs/cgroup"), Path::new(STAGING).join("cgroup"));
    fs::create_dir(&staged)?;
    cover(cgroup, &staged, true)?;
    // A container may forbid a new one because parts of its own are hidden: then /sys stays the container's.
    if mount("sysfs", "/sys", "sysfs", quiet, None).is_ok() {
        cover(&staged, cgroup, true)?;
    }
    for cache in ["/run/nscd", "/var/run/nscd"] {
        if Path::new(cache).exists() {
            mount("natlab", cache, "tmpfs", quiet, c"mode=755")?;
        }
    }
    Ok(unmount(STAGING, UnmountFlags::DETACH)?)
}

/// Mounts a file or folder over another, where both are there.
fn cover(with: &Path, at: &Path, recursive: bool) -> io::Result<()> {
    if !with.exists() || !at.exists() {
        return Ok(());
    }
    let mounted = if recursive { mount_bind_recursive(with, at) } else { mount_bind(with, at) };
    mounted.map_err(|e| io::Error::new(io::Error::from(e).kind(), format!("mounting {}: {e}", at.display())))
}
