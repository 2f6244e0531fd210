//! What systemd is to a service: it keeps what it is given (FDSTORE of sd_notify(3)), and passes it to the next process
//! (LISTEN_FDS of sd_listen_fds(3)). For tests and benchmarks that restart the server.
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
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

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
    pub environment: [(&'static str, String); 2],
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
    pub(crate) fn passing(&self) -> Passing {
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
        let environment = [
            ("LISTEN_FDS", self.stored.len().to_string()),
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
                self.stored.extend(sockets.map(|socket| (name.clone(), socket)));
            }
        }
        if text.contains("FDSTOREREMOVE=1") {
            self.stored.retain(|(stored, _)| *stored != name);
        }
        text
    }
}
