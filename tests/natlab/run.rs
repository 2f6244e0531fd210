//! run, pair, shell and up: from the command line to a topology and its programs.

use std::{env, process::ExitCode};

use natlab::{LabError, netns::obtain_privilege, topology::Topology};
use shared::nat::model::Stack;

use crate::{
    Failure, LAB_FAILED, NO_COMMAND, USAGE,
    args::{Action, Common, Network, Outputs, Until, split_pair},
    control, read,
    stage::{Interrupts, Play, Stage},
};

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let message = error.to_string();
        let code = match error {
            LabError::Missing { package: None, .. } => NO_COMMAND,
            LabError::Words(_) => USAGE,
            _ => LAB_FAILED,
        };
        Self { code, message }
    }
}

/// The hosts of a pair.
const PAIR: [&str; 2] = ["a", "b"];

pub(crate) fn act(action: &Action) -> Result<ExitCode, Failure> {
    // Before a user namespace makes everybody root.
    let owner = control::owner();
    match action {
        Action::Run { nat, network, common, command } => {
            let topology = side_by_side(std::slice::from_ref(nat), network)?;
            one(topology, owner, common, command.clone(), Interrupts::SecondEnds)
        }
        Action::Shell { nat, network, common } => {
            let topology = side_by_side(std::slice::from_ref(nat), network)?;
            let shell = env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
            one(topology, owner, common, vec![shell], Interrupts::AreTheCommands)
        }
        Action::Pair { nat, until, network, common, outputs, commands } => {
            let commands = split_pair(commands).map_err(Failure::usage)?.map(<[String]>::to_vec);
            if nat.len() != 2 {
                let message =
                    format!("pair needs --nat twice, once for each command, not {} times", nat.len());
                return Err(Failure::usage(message));
            }
            pair(side_by_side(nat, network)?, owner, common, outputs, *until, commands)
        }
        Action::Up { file, common, outputs, command } => {
            let topology = read(file)?;
            let stem = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            up(topology, owner, common, outputs, &stem, command)
        }
        Action::Exec { .. } | Action::Set { .. } | Action::Draw { .. } | Action::List { .. } => {
            Err(Failure::usage("this action needs no laboratory"))
        }
    }
}

/// One host behind each NAT: a, b, ...
fn side_by_side(nats: &[Stack], network: &Network) -> Result<Topology, Failure> {
    let mut topology = Topology::new().seed(network.seed).families(network.families());
    for (nat, host) in nats.iter().zip(PAIR) {
        topology = topology.router_of(&format!("nat-{host}"), nat.clone(), network.line());
        topology = topology.host(host, &format!("nat-{host}"));
    }
    Ok(topology)
}

/// One command, on this terminal.
fn one(
    topology: Topology,
    owner: u32,
    common: &Common,
    command: Vec<String>,
    interrupts: Interrupts,
) -> Result<ExitCode, Failure> {
    obtain_privilege()?;
    let stage = Stage::build(topology, owner, common, &Outputs::raw(), &std::process::id().to_string())?;
    let play = Play {
        programs: vec![(0, command)],
        stdin: Some(0),
        of_machine: Vec::new(),
        ends: vec![0],
        interrupts,
    };
    stage.play(play)
}

fn pair(
    topology: Topology,
    owner: u32,
    common: &Common,
    outputs: &Outputs,
    until: Until,
    commands: [Vec<String>; 2],
) -> Result<ExitCode, Failure> {
    obtain_privilege()?;
    let stage = Stage::build(topology, owner, common, outputs, &std::process::id().to_string())?;
    let ends = match until {
        Until::A => vec![0],
        Until::B => vec![1],
        Until::Both => vec![0, 1],
    };
    let programs = commands.into_iter().enumerate().collect();
    let play = Play { programs, stdin: Some(0), of_machine: Vec::new(), ends, interrupts: Interrupts::End };
    stage.play(play)
}

fn up(
    topology: Topology,
    owner: u32,
    common: &Common,
    outputs: &Outputs,
    name: &str,
    command: &[String],
) -> Result<ExitCode, Failure> {
    obtain_privilege()?;
    let internet = topology.internet_hosts();
    let programs = topology.programs();
    let stage = Stage::build(topology, owner, common, outputs, name)?;
    // Programs on the Internet are servers, which go on as long as the others.
    let of_hosts = programs.iter().map(|(host, _)| *host).filter(|host| !internet.contains(host));
    let ends = if command.is_empty() { of_hosts.collect() } else { Vec::new() };
    let play =
        Play { programs, stdin: None, of_machine: command.to_vec(), ends, interrupts: Interrupts::End };
    stage.play(play)
}

impl Outputs {
    /// Passed on as they are.
    fn raw() -> Self {
        Self { raw: true, output: None }
    }
}
