//! natlab: runs programs as hosts behind a NAT of your choice, with a probe server and an echo service outside.

mod args;

use std::process::ExitCode;

use clap::Parser;

use args::Cli;

/// As of `timeout`, `nice` and their like: the laboratory failed, not the command.
const LAB_FAILED: u8 = 125;
/// The same: there is no such command.
const NO_COMMAND: u8 = 127;
/// As of all programs that read their command line with clap.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match act(&cli.action) {
        Ok(code) => code,
        Err(Failure { code, message }) => {
            eprintln!("natlab: {message}");
            ExitCode::from(code)
        }
    }
}

/// Why nothing was run.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }
}

#[cfg(not(target_os = "linux"))]
fn act(action: &args::Action) -> Result<ExitCode, Failure> {
    use args::Action;
    match action {
        Action::List => Ok(list()),
        Action::Run { .. } | Action::Pair { .. } | Action::Shell { .. } => {
            let message =
                "network namespaces exist on Linux only; `nat-check --simulate NAT` works everywhere";
            Err(Failure { code: LAB_FAILED, message: message.into() })
        }
    }
}

#[cfg(target_os = "linux")]
use linux::act;

fn list() -> ExitCode {
    use shared::nat::model::{KEYS, PRESETS};
    let mut text = String::from("NATs with names:\n");
    for preset in PRESETS {
        text += &format!("  {:<22} {}\n  {:<22}   {}\n", preset.name, preset.about, "", preset.settings);
    }
    text += "\nSettings, joined by commas, alone or after a name:\n";
    for key in KEYS {
        text += &format!("  {:<22} {} ({})\n", format!("{}=", key.name), key.about, key.takes());
    }
    text += "\nSeveral in a row are joined by +, the innermost first: linux+symmetric\n";
    // A reader that has seen enough, such as `head`, is no error.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    ExitCode::SUCCESS
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        env,
        io::{BufRead, BufReader, Read, Write},
        process::{Command, ExitCode},
        thread,
    };

    use lab::{
        Lab, LabError,
        address::{SERVER4, SERVER6, server_endpoint},
        echo::{self, Echo},
        netns::obtain_privilege,
        process::{HostCommand, shell_code},
        sys,
        tun::TunSite,
    };
    use shared::nat::model::Stack;
    use tokio::signal::unix::{SignalKind, signal};

    use crate::{
        Failure, LAB_FAILED, NO_COMMAND,
        args::{Action, Network, split_pair},
        list,
    };

    /// Set for the process that is the first one of its process namespace.
    const INSIDE: &str = "NATLAB_INSIDE";

    pub(crate) fn act(action: &Action) -> Result<ExitCode, Failure> {
        if let Action::List = action {
            return Ok(list());
        }
        if let Action::Pair { nat, commands, .. } = action {
            split_pair(commands).map_err(Failure::usage)?;
            if nat.len() != 2 {
                let message =
                    format!("pair needs --nat twice, once for each command, not {} times", nat.len());
                return Err(Failure::usage(message));
            }
        }
        obtain_privilege()?;
        let code = if env::var_os(INSIDE).is_some() { inside(action) } else { outside() };
        Ok(code?)
    }

    impl From<LabError> for Failure {
        fn from(error: LabError) -> Self {
            let message = error.to_string();
            match error {
                LabError::Missing { .. } => Self { code: NO_COMMAND, message },
                _ => Self { code: LAB_FAILED, message },
            }
        }
    }

    /// Starts this program again as the first process of a process namespace. When that one ends, the kernel ends all
    /// that the commands may have left running; when this one ends, the kernel ends that one.
    fn outside() -> Result<ExitCode, LabError> {
        let _deaf = ignore_interrupts()?;
        sys::unshare_processes().map_err(LabError::io("making a process namespace"))?;
        let program = env::current_exe().map_err(LabError::io("finding this program"))?;
        let mut command = Command::new(program);
        command.args(env::args_os().skip(1)).env(INSIDE, "1");
        sys::die_with_spawner(&mut command);
        let status = command.status().map_err(LabError::io("starting the laboratory"))?;
        Ok(exit_code(shell_code(status)))
    }

    fn inside(action: &Action) -> Result<ExitCode, LabError> {
        let _deaf = ignore_interrupts()?;
        match action {
            Action::Run { nat, network, command } => run(nat, network, command),
            Action::Shell { nat, network } => {
                let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
                run(nat, network, &[shell])
            }
            Action::Pair { nat, network, commands } => pair(nat, network, commands),
            Action::List => Ok(list()),
        }
    }

    fn run(nat: &Stack, network: &Network, command: &[String]) -> Result<ExitCode, LabError> {
        let world = World::build(std::slice::from_ref(nat), network)?;
        let code = world.command(0, command)?.attached()?.wait()?;
        Ok(exit_code(code))
    }

    fn pair(nats: &[Stack], network: &Network, commands: &[String]) -> Result<ExitCode, LabError> {
        let world = World::build(nats, network)?;
        let commands = split_pair(commands).map_err(LabError::Words)?;
        let mut running = Vec::new();
        for (host, command) in commands.into_iter().enumerate() {
            let mut child = world.command(host, command)?.piped()?;
            let name = NAMES[host];
            let pipes = [
                child.stdout().map(|pipe| relay(name, pipe, std::io::stdout())),
                child.stderr().map(|pipe| relay(name, pipe, std::io::stderr())),
            ];
            running.push((child, pipes));
        }
        let mut codes = Vec::new();
        for (child, pipes) in running {
            codes.push(child.wait()?);
            pipes.into_iter().flatten().for_each(|relay| drop(relay.join()));
        }
        Ok(exit_code(codes.into_iter().find(|code| *code != 0).unwrap_or(0)))
    }

    const NAMES: [&str; 2] = ["a", "b"];

    /// The laboratory with all that stands in it.
    struct World {
        lab: Lab,
        nats: Vec<Stack>,
        _echo: Echo,
        _probe: probe_server::Server,
    }

    impl World {
        fn build(nats: &[Stack], network: &Network) -> Result<Self, LabError> {
            let sites: Vec<_> =
                nats.iter().map(|nat| TunSite::new(nat.clone()).over(network.line())).collect();
            let lab = Lab::tun(&sites, network.seed)?;
            let _probe = lab.probe_server()?;
            let echo = [SERVER4[0].into(), SERVER6[0].into()];
            let _echo = Echo::start(lab.server_host(), echo.into())?;
            if !network.quiet {
                for (host, nat) in nats.iter().enumerate() {
                    eprintln!("natlab: host {} is {} behind {nat}", NAMES[host], lab.host(host).ip(false));
                }
                let [primary, alternate] = [0, 1].map(|at| server_endpoint(false, at, at));
                eprintln!(
                    "natlab: probe server {primary} and {alternate}, echo {}:{}",
                    SERVER4[0],
                    echo::PORT
                );
            }
            Ok(Self { lab, nats: nats.to_vec(), _echo, _probe })
        }

        fn command(&self, host: usize, words: &[String]) -> Result<HostCommand<'_>, LabError> {
            let Some((program, arguments)) = words.split_first() else {
                return Err(LabError::Words("no command was given".into()));
            };
            let server = |v6, at| server_endpoint(v6, at, at).to_string();
            let echo = |ip: std::net::IpAddr| std::net::SocketAddr::new(ip, echo::PORT).to_string();
            let host_of = self.lab.host(host);
            let variables = [
                ("NATLAB_SERVER", server(false, 0)),
                ("NATLAB_SERVER6", server(true, 0)),
                ("NATLAB_SERVER_ALTERNATE", server(false, 1)),
                ("NAT_CHECK_SERVER", server(false, 0)),
                ("NATLAB_ECHO", echo(SERVER4[0].into())),
                ("NATLAB_ECHO6", echo(SERVER6[0].into())),
                ("NATLAB_HOST", NAMES[host].into()),
                ("NATLAB_ADDRESS", host_of.ip(false).to_string()),
                ("NATLAB_NAT", self.nats[host].to_string()),
            ];
            let command = host_of.command(program).args(arguments).without(INSIDE);
            Ok(variables.into_iter().fold(command, |command, (name, value)| command.env(name, value)))
        }
    }

    /// Copies lines with the name of their host before them.
    fn relay(
        name: &'static str,
        pipe: impl Read + Send + 'static,
        mut to: impl Write + Send + 'static,
    ) -> thread::JoinHandle<()> {
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let mut whole = format!("{name}| ").into_bytes();
                whole.append(&mut line);
                if whole.last() != Some(&b'\n') {
                    whole.push(b'\n');
                }
                // Nobody reads any more: the command will notice by itself.
                let _ = to.write_all(&whole);
            }
        })
    }

    /// Ctrl-C on the terminal goes to the commands as well; it is theirs to decide what it means. (A handler, because
    /// signals that are ignored would be ignored by the commands, too.)
    fn ignore_interrupts() -> Result<tokio::runtime::Runtime, LabError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(LabError::io("starting a runtime"))?;
        runtime.block_on(async {
            for kind in [SignalKind::interrupt(), SignalKind::quit()] {
                drop(signal(kind).map_err(LabError::io("handling signals"))?);
            }
            Ok(())
        })?;
        Ok(runtime)
    }

    fn exit_code(code: i32) -> ExitCode {
        ExitCode::from(u8::try_from(code).unwrap_or(1))
    }
}
