//! A laboratory at work: its programs are started, waited for, and ended; what happened is told.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, SystemTime},
};

use natlab::{
    Lab, LabError, Services,
    address::server_endpoint,
    network::summary::Summary,
    process::{Attached, shell_code},
    sys,
    topology::Topology,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{
    Failure, TIMED_OUT,
    args::{Common, Outputs},
    control::Control,
};

/// What is run.
#[derive(Debug)]
pub(crate) struct Play {
    /// Host numbers and commands.
    pub(crate) programs: Vec<(usize, Vec<String>)>,
    /// The host whose program gets standard input.
    pub(crate) stdin: Option<usize>,
    /// A command of this machine, whose end is the end.
    pub(crate) of_machine: Vec<String>,
    /// Otherwise the hosts whose programs all end; with none of either, an interrupt is the end.
    pub(crate) ends: Vec<usize>,
    pub(crate) interrupts: Interrupts,
}

/// What Ctrl-C does. The terminal sends it to the commands as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupts {
    /// The commands have some time to end, then everything is ended.
    End,
    /// It is the command's to decide what it means; a second one soon after ends everything.
    SecondEnds,
    /// It is the command's to decide what it means.
    AreTheCommands,
}

/// How long commands may take to end after Ctrl-C.
const GRACE: Duration = Duration::from_secs(2);
/// How long a program on the Internet may take until it has a socket; then the others are started all the same.
const UNTIL_SERVING: Duration = Duration::from_secs(3);

/// Something that ends a play, or a part of it.
enum Event {
    /// The program of a host, or with none the command of this machine, ended.
    Ended(Option<usize>, i32),
    Signal(i32),
}

/// A laboratory with its services.
pub(crate) struct Stage {
    lab: Arc<Lab>,
    names: Vec<String>,
    internet: Vec<(usize, Vec<String>)>,
    services: Services,
    control: Control,
    common: Common,
    outputs: Outputs,
}

impl Stage {
    pub(crate) fn build(
        mut topology: Topology,
        owner: u32,
        common: &Common,
        outputs: &Outputs,
        name: &str,
    ) -> Result<Self, Failure> {
        let mut internet = Vec::new();
        for program in &common.internet {
            let name = free_name(&topology, &program.0);
            topology = topology.internet(&name);
            internet.push((topology.host_names().len() - 1, program.0.clone()));
        }
        for folder in [&common.pcap, &outputs.output].into_iter().flatten() {
            fs::create_dir_all(folder).map_err(|e| Failure::usage(format!("{}: {e}", folder.display())))?;
        }
        let lab = Lab::build(&topology)?;
        if let Some(folder) = &common.pcap {
            lab.capture(folder, now())?;
        }
        let services = lab.services()?;
        let lab = Arc::new(lab);
        let control = Control::open(Arc::clone(&lab), owner, common.name.as_deref().unwrap_or(name))?;
        let stage = Self {
            names: topology.host_names(),
            internet,
            services,
            control,
            common: common.clone(),
            outputs: outputs.clone(),
            lab,
        };
        stage.tell(|| {
            let drawn = topology.draw_text().unwrap_or_default();
            let [primary, alternate] = [0, 1].map(|at| {
                let first = topology_family(&stage.lab);
                server_endpoint(first, at, at)
            });
            format!("{drawn}probe server {primary} and {alternate}")
        });
        Ok(stage)
    }

    /// Runs programs until the end, and tells what happened.
    pub(crate) fn play(self, play: Play) -> Result<ExitCode, Failure> {
        let (sender, events) = mpsc::channel();
        listen_to_signals(sender.clone())?;
        let mut relays = Vec::new();
        for (host, words) in &self.internet {
            self.start(*host, words, None, &mut relays, &sender)?;
        }
        self.wait_until_serving(&events);
        for (host, words) in &play.programs {
            self.start(*host, words, play.stdin, &mut relays, &sender)?;
        }
        let _child = self.start_of_machine(&play.of_machine, &sender)?;
        let (stop, stopped) = mpsc::channel();
        let schedule = {
            let (lab, quiet) = (Arc::clone(&self.lab), self.common.quiet);
            thread::spawn(move || {
                lab.run_schedule(&stopped, |order, done| match done {
                    Ok(()) if quiet => {}
                    Ok(()) => tell!("natlab: {order}"),
                    Err(e) => tell!("natlab: {order}: {e}"),
                });
            })
        };
        let code = self.wait(&play, &events);
        drop(stop);
        let _ = schedule.join();
        let summary = self.lab.summary();
        let Self { lab, services, control, names, common, .. } = self;
        drop((services, control));
        // All programs end here, also those in the background; then their outputs end.
        drop(Arc::into_inner(lab));
        relays.into_iter().for_each(|relay: thread::JoinHandle<()>| drop(relay.join()));
        report(&summary?, &names, &common)?;
        Ok(ExitCode::from(code))
    }

    fn start(
        &self,
        host: usize,
        words: &[String],
        stdin: Option<usize>,
        relays: &mut Vec<thread::JoinHandle<()>>,
        ended: &mpsc::Sender<Event>,
    ) -> Result<(), Failure> {
        let name = self.names[host].clone();
        let command = self.lab.command(host, words)?;
        let input = if stdin == Some(host) { Stdio::inherit() } else { Stdio::null() };
        let on_internet = self.internet.iter().any(|(other, _)| *other == host);
        let mut child = match &self.outputs.output {
            Some(folder) => {
                let create = |kind: &str| {
                    let file = folder.join(format!("{name}.{kind}"));
                    File::create(&file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
                };
                command.with(input, create("out")?.into(), create("err")?.into())?
            }
            // What servers print is no part of the commands' output.
            None if self.outputs.raw && !on_internet => {
                command.with(input, Stdio::inherit(), Stdio::inherit())?
            }
            None => command.with(input, Stdio::piped(), Stdio::piped())?,
        };
        relays.extend(child.stderr().map(|pipe| relay(&name, pipe, io::stderr())));
        relays.extend(child.stdout().map(|pipe| match on_internet {
            true => relay(&name, pipe, io::stderr()),
            false => relay(&name, pipe, io::stdout()),
        }));
        relays.push(await_end(child, Some(host), ended.clone()));
        Ok(())
    }

    fn start_of_machine(
        &self,
        words: &[String],
        ended: &mpsc::Sender<Event>,
    ) -> Result<Option<thread::JoinHandle<()>>, Failure> {
        let Some((program, arguments)) = words.split_first() else { return Ok(None) };
        let mut command = Command::new(program);
        command.args(arguments).envs(self.control.environment());
        sys::die_with_spawner(&mut command);
        let mut child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LabError::Missing { program: program.clone(), package: None },
            _ => LabError::Io { operation: format!("starting {program}"), source: e },
        })?;
        let ended = ended.clone();
        Ok(Some(thread::spawn(move || {
            let code = child.wait().map_or(1, shell_code);
            // Nobody may wait for it any more.
            let _ = ended.send(Event::Ended(None, code));
        })))
    }

    /// Waits until every program on the Internet has a socket, so that the first packet of the others is answered.
    fn wait_until_serving(&self, events: &mpsc::Receiver<Event>) {
        let deadline = Instant::now() + UNTIL_SERVING;
        let serves = |host: &usize| self.lab.host(*host).serves();
        while !self.internet.iter().all(|(host, _)| serves(host)) {
            // There is no event for a socket that opens.
            match events.recv_timeout(Duration::from_millis(10)) {
                Ok(Event::Ended(Some(host), code)) => self.tell(|| ended(&self.names[host], code)),
                Ok(Event::Ended(None, _) | Event::Signal(_)) => return,
                Err(_) if Instant::now() > deadline => return,
                Err(_) => {}
            }
        }
    }

    /// Waits for the end; returns the exit code.
    fn wait(&self, play: &Play, events: &mpsc::Receiver<Event>) -> u8 {
        let mut deadline = self.common.timeout().map(|timeout| (Instant::now() + timeout, TIMED_OUT));
        let mut waits_for: Vec<usize> = play.ends.clone();
        let mut codes: Vec<(usize, i32)> = Vec::new();
        let mut interrupted: Option<Instant> = None;
        loop {
            let event = match deadline {
                Some((deadline, _)) => {
                    events.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
                None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(Event::Ended(None, code)) => return exit_code(code),
                Ok(Event::Ended(Some(host), code)) => {
                    let several = play.programs.len() > 1 || !play.of_machine.is_empty();
                    if several && code != 0 {
                        self.tell(|| ended(&self.names[host], code));
                    }
                    codes.push((host, code));
                    waits_for.retain(|other| *other != host);
                    if !play.ends.is_empty() && waits_for.is_empty() {
                        codes.sort_unstable();
                        let of_ends = codes.iter().filter(|(host, _)| play.ends.contains(host));
                        let first = of_ends.map(|(_, code)| *code).find(|code| *code != 0);
                        return interrupted.map_or_else(|| exit_code(first.unwrap_or(0)), |_| INTERRUPTED);
                    }
                }
                Ok(Event::Signal(number)) if number != SignalKind::interrupt().as_raw_value() => {
                    return exit_code(128 + number);
                }
                Ok(Event::Signal(_)) => match play.interrupts {
                    Interrupts::AreTheCommands => {}
                    Interrupts::SecondEnds => {
                        if interrupted.is_some_and(|before| before.elapsed() < GRACE) {
                            return INTERRUPTED;
                        }
                        interrupted = Some(Instant::now());
                    }
                    Interrupts::End => {
                        let nothing = play.ends.is_empty() && play.of_machine.is_empty();
                        if nothing || interrupted.is_some() {
                            return INTERRUPTED;
                        }
                        interrupted = Some(Instant::now());
                        deadline = Some((Instant::now() + GRACE, INTERRUPTED));
                    }
                },
                Err(RecvTimeoutError::Timeout) => {
                    let code = deadline.map_or(TIMED_OUT, |(_, code)| code);
                    if code == TIMED_OUT {
                        self.tell(|| "the time is up".to_owned());
                    }
                    return code;
                }
                Err(RecvTimeoutError::Disconnected) => return 0,
            }
        }
    }

    fn tell(&self, text: impl FnOnce() -> String) {
        if !self.common.quiet {
            text().lines().for_each(|line| tell!("natlab: {line}"));
        }
    }
}

/// The exit code of what Ctrl-C ended, as of shells.
const INTERRUPTED: u8 = 130;

/// Says what happened, in words and as JSON.
fn report(summary: &Summary, names: &[String], common: &Common) -> Result<(), Failure> {
    if let Some(file) = &common.summary {
        let text = serde_json::to_string_pretty(summary).map_err(|e| Failure::lab(e.to_string()))? + "\n";
        match file.to_str() {
            Some("-") => drop(crate::print(text)),
            _ => fs::write(file, text).map_err(|e| Failure::lab(format!("{}: {e}", file.display())))?,
        }
    }
    if !common.quiet {
        summary.nats.iter().for_each(|nat| tell!("natlab: {nat}"));
        if let [a, b, ..] = names
            && (a, b) == (&"a".to_owned(), &"b".to_owned())
        {
            tell!("natlab: {}", summary.between(a, b));
        }
    }
    Ok(())
}

/// A name for a program on the Internet: that of its file, with a number where it is taken.
fn free_name(topology: &Topology, words: &[String]) -> String {
    let file = words.first().map(String::as_str).unwrap_or_default();
    let file = file.rsplit('/').next().unwrap_or(file).to_lowercase();
    let plain: String =
        file.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(30).collect();
    let taken = topology.host_names();
    let names = std::iter::once(plain.clone()).chain((2..).map(|number| format!("{plain}-{number}")));
    let is_free =
        |name: &String| !taken.contains(name) && !["server", "echo", "localhost"].contains(&name.as_str());
    names.into_iter().find(is_free).unwrap_or(plain)
}

fn topology_family(lab: &Lab) -> bool {
    lab.families().all().next().unwrap_or_default()
}

fn ended(name: &str, code: i32) -> String {
    match code {
        code @ 129..=192 => format!("{name} was ended by signal {}", code - 128),
        code => format!("{name} ended with exit code {code}"),
    }
}

fn await_end(child: Attached, host: Option<usize>, ended: mpsc::Sender<Event>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let code = child.wait().unwrap_or(1);
        // Nobody may wait for it any more.
        let _ = ended.send(Event::Ended(host, code));
    })
}

/// Copies lines with the name of their host before them.
fn relay(
    name: &str,
    pipe: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> thread::JoinHandle<()> {
    let name = name.to_owned();
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

/// Turns the signals that ask for an end into events.
fn listen_to_signals(events: mpsc::Sender<Event>) -> Result<(), LabError> {
    let failed = || LabError::io("handling signals");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
    let signals = runtime.block_on(async {
        kinds
            .into_iter()
            .map(|kind| signal(kind).map(|signal| (kind, signal)))
            .collect::<io::Result<Vec<_>>>()
    });
    let signals = signals.map_err(failed())?;
    thread::spawn(move || {
        runtime.block_on(async {
            let mut waiting = tokio::task::JoinSet::new();
            for (kind, mut signal) in signals {
                let events = events.clone();
                waiting.spawn(async move {
                    while signal.recv().await.is_some() {
                        if events.send(Event::Signal(kind.as_raw_value())).is_err() {
                            return;
                        }
                    }
                });
            }
            while waiting.join_next().await.is_some() {}
        });
    });
    Ok(())
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(1)
}

/// The time of day, for captures.
#[allow(clippy::disallowed_methods, reason = "captures carry the time of day")]
fn now() -> SystemTime {
    SystemTime::now()
}
