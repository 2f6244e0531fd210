//! Programs on the laboratory's hosts: started inside a namespace, awaited with a deadline, killed with the namespace.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::time::Instant;

use crate::{LabError, netns::Namespace, sys};

/// A program that is about to run as a host.
#[derive(Debug)]
pub struct HostCommand<'a> {
    host: &'a Namespace,
    command: Command,
}

/// The exit code and outputs of a program.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code, or 128 plus the number of the signal that killed it, as in shells.
    pub code: i32,
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
}

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    handle: OwnedFd,
    name: String,
    lines: mpsc::Receiver<String>,
    errors: mpsc::Receiver<String>,
    readers: Vec<thread::JoinHandle<()>>,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl<'a> HostCommand<'a> {
    pub(crate) fn new(host: &'a Namespace, program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        sys::die_with_spawner(&mut command);
        Self { host, command }
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes an environment variable.
    #[must_use]
    pub fn without(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time; it is killed then.
    pub fn output(self, within: Duration) -> Result<Output, LabError> {
        self.start()?.finish(within)
    }

    /// Starts it, with its outputs collected.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Running, LabError> {
        let Self { host, mut command } = self;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let (mut child, name) = spawn(host, command)?;
        let handle = handle_of(&child, &name)?;
        let (sender, lines) = mpsc::channel();
        let (error_sender, errors) = mpsc::channel();
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = [
            child.stdout.take().map(|pipe| collect(pipe, Arc::clone(&stdout), sender)),
            child.stderr.take().map(|pipe| collect(pipe, Arc::clone(&stderr), error_sender)),
        ];
        let readers = readers.into_iter().flatten().collect();
        Ok(Running { child, handle, name, lines, errors, readers, stdout, stderr })
    }

    /// Starts it on this process's own terminal.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn attached(self) -> Result<Attached, LabError> {
        self.with(Stdio::inherit(), Stdio::inherit(), Stdio::inherit())
    }

    /// Starts it with pipes for its outputs, which the caller has to read.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn piped(self) -> Result<Attached, LabError> {
        self.with(Stdio::null(), Stdio::piped(), Stdio::piped())
    }

    /// Starts it with this input and these outputs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn with(self, stdin: Stdio, stdout: Stdio, stderr: Stdio) -> Result<Attached, LabError> {
        let Self { host, mut command } = self;
        command.stdin(stdin).stdout(stdout).stderr(stderr);
        let (child, name) = spawn(host, command)?;
        Ok(Attached { child, name })
    }
}

/// A program whose outputs go to this process's terminal, or to its pipes. Dropping it kills it.
#[derive(Debug)]
pub struct Attached {
    child: Child,
    name: String,
}

impl Attached {
    /// Its standard output, once, if that is a pipe.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard error, once, if that is a pipe.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Waits for its end, for as long as it takes: exit code as shells count it.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn wait(mut self) -> Result<i32, LabError> {
        let status = self.child.wait().map_err(LabError::io(format!("waiting for {}", self.name)))?;
        Ok(shell_code(status))
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on standard output that satisfies the test, and returns it.
    ///
    /// # Errors
    /// When the program ends or the time is up before.
    pub fn line(&mut self, within: Duration, test: impl FnMut(&str) -> bool) -> Result<String, LabError> {
        self.wait_for(&self.lines, within, test)
    }

    /// The same on standard error.
    ///
    /// # Errors
    /// When the program ends or the time is up before.
    pub fn error_line(
        &mut self,
        within: Duration,
        test: impl FnMut(&str) -> bool,
    ) -> Result<String, LabError> {
        self.wait_for(&self.errors, within, test)
    }

    fn wait_for(
        &self,
        lines: &mpsc::Receiver<String>,
        within: Duration,
        mut test: impl FnMut(&str) -> bool,
    ) -> Result<String, LabError> {
        let deadline = Instant::now() + within;
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if test(&line) {
                return Ok(line);
            }
        }
        Err(self.late("waiting for a line of", within))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        pidfd_send_signal(&self.handle, signal)
            .map_err(|e| LabError::io(format!("sending a signal to {}", self.name))(e.into()))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn finish(mut self, within: Duration) -> Result<Output, LabError> {
        if !self.ends_within(within)? {
            return Err(self.late("waiting for the end of", within));
        }
        let status = self.child.wait().map_err(LabError::io(format!("waiting for {}", self.name)))?;
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
        Ok(Output { code: shell_code(status), stdout: text(&self.stdout), stderr: text(&self.stderr) })
    }

    /// Waits until it has ended, or the time is up; tells whether it has.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn ends_within(&self, within: Duration) -> Result<bool, LabError> {
        ended_within(&self.handle, within).map_err(LabError::io(format!("waiting for {}", self.name)))
    }

    /// What it has printed so far, both outputs.
    #[must_use]
    pub fn printed(&self) -> String {
        text(&self.stdout) + &text(&self.stderr)
    }

    fn late(&self, what: &str, within: Duration) -> LabError {
        LabError::Timeout { operation: format!("{what} {}", self.name), within, printed: self.printed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code, or 128 plus the signal, as shells count.
#[must_use]
pub fn shell_code(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}

fn spawn(host: &Namespace, command: Command) -> Result<(Child, String), LabError> {
    let name = command.get_program().to_string_lossy().into_owned();
    match host.spawn(command) {
        Ok(child) => Ok((child, name)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(LabError::Missing { program: name, package: None })
        }
        Err(e) => Err(LabError::io(format!("starting {name}"))(e)),
    }
}

fn handle_of(child: &Child, name: &str) -> Result<OwnedFd, LabError> {
    // The child has not been waited for yet, so its process id cannot have been reused.
    let pid = Pid::from_child(child);
    pidfd_open(pid, PidfdFlags::empty())
        .map_err(|e| LabError::io(format!("opening a handle of {name}"))(e.into()))
}

fn ended_within(handle: &OwnedFd, within: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + within;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn collect(
    pipe: impl Read + Send + 'static,
    into: Arc<Mutex<String>>,
    lines: mpsc::Sender<String>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let decoded = String::from_utf8_lossy(&line);
            into.lock().unwrap_or_else(PoisonError::into_inner).push_str(&decoded);
            // No receiver may be left; the text is kept all the same.
            let _ = lines.send(decoded.trim_end().to_owned());
            line.clear();
        }
    })
}

fn text(collected: &Mutex<String>) -> String {
    collected.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
