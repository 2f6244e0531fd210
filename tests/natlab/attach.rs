//! exec and set: into a laboratory that another process runs.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    process::{Command, ExitCode},
};

use natlab::{LabError, process::shell_code, sys};
use rustix::{
    process::{Pid, PidfdFlags, pidfd_open},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use crate::{
    Failure, REFUSED,
    args::Which,
    control::{Request, Response, address, owner, prefix},
};

/// Changes a running laboratory.
pub(crate) fn set(which: &Which, target: &str, changes: &[String]) -> Result<ExitCode, Failure> {
    let order = format!("{target} {}", changes.join(" "));
    // Misspelt ones are found here, as a usage error.
    order.parse::<natlab::topology::Order>()?;
    match ask(which, &Request::Set(order))? {
        Response::Done => Ok(ExitCode::SUCCESS),
        Response::Refused(why) => Err(Failure { code: REFUSED, message: why }),
        Response::Host { .. } => Err(Failure::lab("the laboratory gave an answer to something else")),
    }
}

/// Runs a command on a host of a running laboratory, as a child of this process, on its terminal.
pub(crate) fn exec(which: &Which, host: &str, words: &[String]) -> Result<ExitCode, Failure> {
    let (process, environment) = match ask(which, &Request::Enter(host.to_owned()))? {
        Response::Host { process, environment } => (process, environment),
        Response::Refused(why) => return Err(Failure { code: REFUSED, message: why }),
        Response::Done => return Err(Failure::lab("the laboratory gave an answer to something else")),
    };
    let folder = env::current_dir().ok();
    enter(process).map_err(LabError::io(format!("entering host {host}")))?;
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::usage("exec needs a command"));
    };
    let mut command = Command::new(program);
    command.args(arguments).envs(environment);
    // The mounts are the host's now, in which the folder is the same one, by its name.
    if let Some(folder) = folder.filter(|folder| folder.is_dir()) {
        command.current_dir(folder);
    }
    sys::die_with_spawner(&mut command);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => LabError::Missing { program: program.clone(), package: None },
        _ => LabError::Io { operation: format!("starting {program}"), source: e },
    })?;
    let status = child.wait().map_err(LabError::io(format!("waiting for {program}")))?;
    Ok(ExitCode::from(u8::try_from(shell_code(status)).unwrap_or(1)))
}

/// Moves this thread, the only one, into the namespaces of a host.
fn enter(process: i32) -> io::Result<()> {
    let pid = Pid::from_raw(process).ok_or(io::ErrorKind::NotFound)?;
    let handle = pidfd_open(pid, PidfdFlags::empty())?;
    let mut kinds = ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::PROCESS_ID;
    let user = |path: String| fs::read_link(path).ok();
    if user("/proc/self/ns/user".into()) != user(format!("/proc/{process}/ns/user")) {
        kinds |= ThreadNameSpaceType::USER;
    }
    move_into_thread_name_spaces(rustix::fd::AsFd::as_fd(&handle), kinds)?;
    Ok(())
}

fn ask(which: &Which, request: &Request) -> Result<Response, Failure> {
    let owner = owner();
    let name = match &which.lab {
        Some(name) => name.clone(),
        None => the_only_one(owner)?,
    };
    let failed = || LabError::io(format!("asking the laboratory `{name}`"));
    let stream = address(owner, &name)
        .and_then(|address| UnixStream::connect_addr(&address))
        .map_err(|_| Failure::lab(format!("no laboratory called `{name}` is running")))?;
    let line = serde_json::to_string(request).map_err(|e| failed()(e.into()))?;
    writeln!(&stream, "{line}").map_err(failed())?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).map_err(failed())?;
    serde_json::from_str(&answer).map_err(|e| failed()(e.into()).into())
}

/// The name of the laboratory, where only one runs.
fn the_only_one(owner: u32) -> Result<String, Failure> {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let prefix = format!("@{}", prefix(owner));
    let mut names: Vec<_> = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix(&prefix).map(str::to_owned))
        .collect();
    names.sort_unstable();
    names.dedup();
    match &names[..] {
        [] => Err(Failure::lab("no laboratory is running")),
        [name] => Ok(name.clone()),
        several => {
            let several = several.join(", ");
            Err(Failure::usage(format!("several laboratories are running; say with --lab which: {several}")))
        }
    }
}
