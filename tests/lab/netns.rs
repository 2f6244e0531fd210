//! Network namespaces without names. Each is held by one thread, which runs jobs for others: open sockets, start programs,
//! set up devices. When the value is dropped, or this process ends in whatever way, the thread ends, the kernel kills the
//! programs that it started, and the namespace disappears with the last of them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    LabError,
    isolation::{Identity, Isolation},
    process::HostCommand,
    sys,
    worker::Worker,
};

const ADVICE: &str = "run as root; or allow unprivileged user namespaces (sysctl kernel.unprivileged_userns_clone=1, \
                      kernel.apparmor_restrict_unprivileged_userns=0); or give the container what it needs: \
                      --cap-add NET_ADMIN,SYS_ADMIN --device /dev/net/tun --security-opt apparmor=unconfined";

/// Far more than it takes.
const SETTLE: Duration = Duration::from_secs(60);

/// A network of its own: no devices but a loopback, which is up.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    identity: Identity,
    /// Made for the first program, so that routers, which run none, do without.
    isolation: Mutex<Option<Isolation>>,
    worker: Worker,
}

/// Makes sure that this process may create network namespaces, by becoming root of a new user namespace where it
/// has to. Call it first thing in `main`, while there is one thread.
///
/// # Errors
/// When the system allows neither; the message says what would help.
pub fn obtain_privilege() -> Result<(), LabError> {
    static ONCE: OnceLock<Result<(), (&'static str, i32)>> = OnceLock::new();
    let attempt = ONCE.get_or_init(|| {
        let code = |what| move |e: io::Error| (what, e.raw_os_error().unwrap_or_default());
        // The capabilities are asked for, not tried out by a thread: a thread that has been joined is still counted for a
        // moment, and the kernel then refuses the user namespace.
        if !sys::administers_networks() {
            sys::unshare_user().map_err(code("making a user namespace"))?;
        }
        thread::spawn(sys::unshare_network)
            .join()
            .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            .map_err(code("making a network namespace"))
    });
    attempt.map_err(|(operation, code)| LabError::Denied {
        operation,
        advice: ADVICE,
        source: io::Error::from_raw_os_error(code),
    })
}

impl Namespace {
    /// Makes a new namespace; the name is for error messages only.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn new(name: impl Into<String>) -> Result<Self, LabError> {
        let name = name.into();
        let (worker, thread) = Worker::start(format!("netns {name}"), || {
            // This thread's id in /proc, which may belong to another process namespace than ours.
            sys::unshare_network().and_then(|()| fs::read_link("/proc/thread-self"))
        })
        .map_err(|source| LabError::Denied {
            operation: "making a network namespace",
            advice: ADVICE,
            source,
        })?;
        let path = Path::new("/proc").join(thread).join("ns/net");
        let hostname = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let identity = Identity { hostname, hosts: String::new() };
        let namespace = Self { name, path, identity, isolation: Mutex::new(None), worker };
        namespace.ip("link set lo up")?;
        // No other host can have these addresses. With duplicate address detection, the first packet over IPv6 would wait
        // for a second.
        namespace.ipv6_setting("accept_dad", 0)?;
        Ok(namespace)
    }

    /// The name of the namespace in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that identifies this namespace in `ip link set ... netns FILE`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs a job inside: sockets opened and threads started there belong to the namespace for good. One job at a time;
    /// long ones should start a thread.
    ///
    /// # Panics
    /// When the job does.
    pub fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        self.worker.run(job)
    }

    /// Says what the host is called and which names resolve on it, before its first program is started.
    #[must_use]
    pub fn identified(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// The first process of the host's namespaces, in the terms of this process: others enter them by it.
    ///
    /// # Errors
    /// When the system does not allow them.
    pub fn init(&self) -> Result<rustix::process::Pid, LabError> {
        self.isolated(|isolation| Ok(isolation.init()))
            .map_err(LabError::io(format!("isolating {}", self.name)))
    }

    /// Starts a program.
    pub(crate) fn spawn(&self, command: Command) -> io::Result<Child> {
        self.isolated(|isolation| isolation.spawn(command))
    }

    fn isolated<R>(&self, work: impl FnOnce(&Isolation) -> io::Result<R>) -> io::Result<R> {
        let mut isolation = self.isolation.lock().unwrap_or_else(PoisonError::into_inner);
        let isolation = match &mut *isolation {
            Some(isolation) => isolation,
            none => {
                let identity = self.identity.clone();
                none.insert(self.run(move || Isolation::new(identity))?)
            }
        };
        work(isolation)
    }

    /// A program to be run inside.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> HostCommand<'_> {
        HostCommand::new(self, program)
    }

    /// Runs `ip` with a batch of commands, one per line.
    ///
    /// # Errors
    /// With what `ip` said, when one of them fails.
    pub fn ip(&self, batch: &str) -> Result<(), LabError> {
        match self.configure("ip", &["-batch", "-"], batch, "iproute2") {
            // That of busybox knows no batches.
            Err(LabError::Setup { message, .. }) if message.contains("BusyBox") => {
                batch.lines().try_for_each(|line| {
                    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
                    self.configure("ip", &words, "", "iproute2")
                })
            }
            done => done,
        }
    }

    /// Loads nftables rules.
    ///
    /// # Errors
    /// With what `nft` said.
    pub fn nft(&self, rules: &str) -> Result<(), LabError> {
        self.configure("nft", &["-f", "-"], rules, "nftables")
    }

    /// Sets a kernel parameter of this namespace: `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such parameter, or it may not be written.
    pub fn sysctl(&self, key: &str, value: impl ToString) -> Result<(), LabError> {
        let (path, value) = (format!("/proc/sys/{key}"), value.to_string());
        let operation = format!("setting {key} to {value}");
        // /proc/sys/net shows the network of the thread that opens it.
        self.run(move || fs::write(path, value)).map_err(LabError::io(operation))
    }

    /// Sets a parameter of IPv6 for all interfaces, those to come included. Where there is no IPv6, or a container's `/proc/sys`
    /// is read-only, the system's setting stays: then a host may have link-local addresses and lose a second at its start.
    pub(crate) fn ipv6_setting(&self, name: &str, value: impl ToString) -> Result<(), LabError> {
        for interfaces in ["all", "default"] {
            match self.sysctl(&format!("net/ipv6/conf/{interfaces}/{name}"), value.to_string()) {
                Err(LabError::Io { source, .. })
                    if matches!(
                        source.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem
                    ) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Waits until packets to every IPv6 address of this namespace are accepted. The kernel sets that up in the background,
    /// a little after `ip addr add` has returned.
    ///
    /// # Errors
    /// When it takes longer than a few seconds.
    pub fn settle(&self) -> Result<(), LabError> {
        let settled = self.run(|| {
            let deadline = Instant::now() + SETTLE;
            loop {
                if addresses_are_routed()? {
                    return Ok(true);
                }
                if Instant::now() > deadline {
                    return Ok(false);
                }
                // There is an event for this (netlink), but it is over in a millisecond or two.
                thread::sleep(Duration::from_millis(1));
            }
        });
        match settled.map_err(LabError::io("reading the routes"))? {
            true => Ok(()),
            false => Err(LabError::Setup {
                operation: format!("IPv6 in namespace {}", self.name),
                message: format!("the kernel did not take its addresses up within {SETTLE:?}"),
            }),
        }
    }

    /// Whether a program inside has a socket that others can reach: a TCP listener or a UDP socket.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.run(|| {
            let tables = ["tcp", "tcp6", "udp", "udp6"];
            tables.iter().any(|table| {
                let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
                text.lines().count() > 1
            })
        })
    }

    fn configure(
        &self,
        program: &'static str,
        arguments: &[impl AsRef<str>],
        input: &str,
        package: &'static str,
    ) -> Result<(), LabError> {
        let text = input.to_owned();
        let arguments: Vec<String> = arguments.iter().map(|argument| argument.as_ref().to_owned()).collect();
        let result = self.run(move || {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command.spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // A program that does not read all of its input prints the reason on its standard error.
                let _ = io::Write::write_all(&mut stdin, text.as_bytes());
            }
            child.wait_with_output()
        });
        match result {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(LabError::Setup {
                operation: format!("{program} in namespace {}", self.name),
                message: format!("{} (input: {input})", String::from_utf8_lossy(&output.stderr).trim()),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(LabError::Missing { program: program.into(), package: Some(package) })
            }
            Err(e) => Err(LabError::io(format!("running {program}"))(e)),
        }
    }
}

/// Whether each IPv6 address has its entry in the local routing table, in the network of this thread.
fn addresses_are_routed() -> io::Result<bool> {
    // An entry for a single address (prefix length 0x80) with the flag for local delivery.
    const LOCAL: u32 = 0x8000_0000;
    let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6")?;
    let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
    let is_local = |route: &&str| {
        let flags = route.split_whitespace().nth(8).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        flags.is_some_and(|flags| flags & LOCAL != 0)
    };
    let local: Vec<_> = routes.lines().filter(is_local).filter_map(|route| route.get(..35)).collect();
    Ok(addresses.lines().filter_map(|line| line.get(..32)).all(|ip| local.contains(&&*format!("{ip} 80"))))
}
