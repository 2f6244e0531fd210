//! What systemd is to a service: it keeps what it is given (FDSTORE of sd_notify(3)), and passes it to the next process
//! (LISTEN_FDS of sd_listen_fds(3)). Like systemd it keeps a file once, at most so many, and none that has an error or has
//! hung up. For tests and benchmarks that restart the server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "not every user needs all of it")]

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::fstat,
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

/// The unit's FileDescriptorStoreMax=.
const STORE_MAX: usize = 1024;
/// How long a program may say nothing before it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// The sockets that are kept, and where programs report.
pub(crate) struct ServiceManager {
    notify: UnixDatagram,
    path: PathBuf,
    stored: Vec<(String, OwnedFd)>,
}

/// What passes the stored sockets to a program: to be kept until that has been started.
pub(crate) struct Passing {
    /// Arguments of `bash`, before the program and its own.
    pub arguments: [String; 2],
    /// Variables of its environment.
    pub environment: [(&'static str, String); 3],
    _copies: Vec<OwnedFd>,
}

impl ServiceManager {
    /// Keeps nothing yet; programs report to a socket in this folder.
    pub(crate) fn new(folder: &Path) -> Self {
        let path = folder.join("notify");
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { notify, path, stored: Vec::new() }
    }

    /// How many sockets are kept.
    pub(crate) fn kept(&self) -> usize {
        self.stored.len()
    }

    /// The stored sockets, from file descriptor 3 on.
    pub(crate) fn passing(&mut self) -> Passing {
        self.stored.retain(|(_, socket)| is_sound(socket));
        let mut script = String::from("exec");
        let mut copies = Vec::new();
        for (i, (_, socket)) in self.stored.iter().enumerate() {
            // Out of the way of the numbers that they get.
            let copy = fcntl_dupfd_cloexec(socket, 100).unwrap();
            fcntl_setfd(&copy, FdFlags::empty()).unwrap();
            script += &format!(" {}<&{}", 3 + i, copy.as_raw_fd());
            copies.push(copy);
        }
        script += "; export LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let names: Vec<_> = self.stored.iter().map(|(name, _)| name.as_str()).collect();
        let environment = [
            ("LISTEN_FDS", self.stored.len().to_string()),
            ("LISTEN_FDNAMES", names.join(":")),
            ("NOTIFY_SOCKET", self.path.to_string_lossy().into_owned()),
        ];
        Passing { arguments: ["-c".into(), script], environment, _copies: copies }
    }

    /// Waits until the program says that it is ready; what it hands over meanwhile is stored.
    pub(crate) fn wait_until_ready(&mut self) {
        while !self.hear().split('\n').any(|state| state == "READY=1") {}
    }

    /// One message; the sockets in it are stored.
    fn hear(&mut self) -> String {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let length = recvmsg(&self.notify, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                assert!(text.contains("FDSTORE=1"), "{text}");
                sockets.for_each(|socket| self.store(&name, socket));
            }
        }
        if text.contains("FDSTOREREMOVE=1") {
            self.stored.retain(|(stored, _)| *stored != name);
        }
        text
    }

    fn store(&mut self, name: &str, socket: OwnedFd) {
        let is_stored = self.stored.iter().any(|(_, stored)| is_same(stored, &socket));
        if !is_stored && is_sound(&socket) && self.stored.len() < STORE_MAX {
            self.stored.push((name.to_owned(), socket));
        }
    }
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let [one, other] = [one, other].map(|file| fstat(file).unwrap());
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// Whether it has neither an error nor hung up: systemd lets go of those.
fn is_sound(socket: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(socket, PollFlags::empty())];
    poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    polled[0].revents().is_empty()
}
