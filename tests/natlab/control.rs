//! The side door of a running laboratory: an abstract Unix socket, by which `natlab exec` and `natlab set` reach it. It is
//! gone when the laboratory ends, in whatever way; only the same user is served.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use natlab::{Lab, LabError};
use rustix::{net::sockopt::socket_peercred, process::getuid};
use serde::{Deserialize, Serialize};

/// What is asked: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Change something.
    Set(String),
    /// How to enter a host.
    Enter(String),
}

/// What is answered: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Response {
    /// It was done.
    Done,
    /// It was refused.
    Refused(String),
    /// The host's first process, and the environment of its programs.
    Host { process: i32, environment: Vec<(String, String)> },
}

/// How long one who is connected may be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// The door. Closed when this is dropped.
pub(crate) struct Control {
    name: String,
    owner: u32,
    address: SocketAddr,
    closed: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Set for the command of `natlab up`, which may run in a user namespace where everybody is called root.
pub(crate) const OWNER: &str = "NATLAB_OWNER";

/// The user whose laboratories these are.
pub(crate) fn owner() -> u32 {
    let told = std::env::var(OWNER).ok().and_then(|owner| owner.parse().ok());
    told.unwrap_or_else(|| getuid().as_raw())
}

/// The beginning of the names of a user's sockets.
pub(crate) fn prefix(owner: u32) -> String {
    format!("natlab-{owner}-")
}

/// The socket of a laboratory.
pub(crate) fn address(owner: u32, name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{}{name}", prefix(owner)))
}

impl Control {
    pub(crate) fn open(lab: Arc<Lab>, owner: u32, name: &str) -> Result<Self, LabError> {
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::AddrInUse => {
                LabError::Words(format!("a laboratory called `{name}` is running; choose another --name"))
            }
            _ => LabError::Io { operation: format!("opening the control socket of `{name}`"), source: e },
        };
        let address = address(owner, name).map_err(failed)?;
        let listener = UnixListener::bind_addr(&address).map_err(failed)?;
        let closed = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&closed);
        let serve = move || {
            for stream in listener.incoming() {
                if done.load(Ordering::Acquire) {
                    return;
                }
                // One who is gone gets no answer.
                let _ = stream.and_then(|stream| serve(&lab, stream));
            }
        };
        let thread = thread::Builder::new().name("control".into()).spawn(serve).map_err(failed)?;
        Ok(Self { name: name.to_owned(), owner, address, closed, thread: Some(thread) })
    }

    /// The environment by which `natlab exec` and `natlab set` find this laboratory.
    pub(crate) fn environment(&self) -> [(&'static str, String); 2] {
        [("NATLAB_LAB", self.name.clone()), (OWNER, self.owner.to_string())]
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        // Wakes the thread up.
        let _ = UnixStream::connect_addr(&self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(lab: &Lab, stream: UnixStream) -> io::Result<()> {
    // In terms of this process's user namespace, in which its own user may be called root.
    if socket_peercred(&stream)?.uid != getuid() {
        return Ok(());
    }
    stream.set_read_timeout(Some(SILENCE))?;
    let mut line = String::new();
    BufReader::new(io::Read::take(&stream, 65_536)).read_line(&mut line)?;
    let response = match serde_json::from_str(&line) {
        Ok(request) => answer(lab, request).unwrap_or_else(|e| Response::Refused(e.to_string())),
        Err(e) => Response::Refused(e.to_string()),
    };
    writeln!(&stream, "{}", serde_json::to_string(&response)?)
}

fn answer(lab: &Lab, request: Request) -> Result<Response, LabError> {
    match request {
        Request::Set(order) => lab.change(&order.parse()?).map(|()| Response::Done),
        Request::Enter(name) => {
            let number = lab.number_of(&name)?;
            let process = lab.find(&name)?.init()?.as_raw_nonzero().get();
            let environment = match number {
                Some(number) => lab.environment(number),
                None => Vec::new(),
            };
            let environment = environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            Ok(Response::Host { process, environment })
        }
    }
}
