//! The command line of natlab.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use nat_check_core::net::sim::{Loss, PathSpec};
use natlab::{
    LabError,
    quantity::{BitRate, Share, Time},
    topology::{Families, LinkSpec, Queue, Rate},
};
use shared::nat::model::Stack;

/// Runs programs as hosts behind NATs of your choice, with a small Internet outside.
#[derive(Debug, Parser)]
#[command(name = "natlab", version, about, long_about = LONG, arg_required_else_help = true, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
    /// Print a man page or a completion script
    #[arg(long, value_enum, value_name = "WHAT", exclusive = true)]
    pub(crate) generate: Option<Generate>,
}

/// What can be generated from the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Generate {
    Man,
    Bash,
    Zsh,
    Fish,
}

const LONG: &str = "\
Runs programs as hosts behind NATs of your choice, with a small Internet outside.

Each host is a set of Linux namespaces (network, mounts, processes, host name) whose only way out leads through a \
user-space NAT; nothing else of this machine is touched, and everything is gone when the command ends. On the Internet \
are a probe server (STUN with two addresses), an echo service (UDP and TCP port 7) and the programs that you put there.";

const AFTER: &str = "\
A NAT is a name (see `natlab list`), settings (mapping=apd,filtering=ad,ports=sequential), a name with settings
(linux,stream=60), or several in a row joined by +, the innermost first (linux+symmetric).

Names that resolve on every host: server, echo, the other hosts (a and b), the programs of --internet.

Environment of the commands:
  NATLAB_SERVER, NATLAB_SERVER6   the probe server over IPv4 and IPv6; NAT_CHECK_SERVER is the first of them
  NATLAB_SERVER_ALTERNATE         its other address
  NATLAB_ECHO, NATLAB_ECHO6       the echo service, over UDP and TCP
  NATLAB_HOST, NATLAB_ADDRESS     which host this is (a or b), and its own address
  NATLAB_NAT                      the settings of the NAT in front of it

Exit codes:
  run, shell, exec   the command's own; 128 plus the signal that killed it
  pair               the first non-zero one of a and b (of the one that --until names); which one is said on standard error
  up                 that of the command after --, or the first non-zero one of the hosts' programs
  1 a change was refused; 2 usage; 124 the --timeout; 125 the laboratory failed; 127 no such command; 130 Ctrl-C

Examples:
  natlab run --nat symmetric -- nat-check
  natlab run --nat full-cone --delay 40ms --loss 5% -- ./my-p2p-program --stun server
  natlab pair --nat linux --nat linux-random --timeout 60s -- ./peer --listen --- ./peer --dial
  natlab pair --nat symmetric --nat symmetric --internet 'turnserver -n' --pcap captures -- ./a --- ./b
  natlab shell --nat port-restricted-cone
  natlab up office.toml -- ./test.sh        (in it: natlab exec alice -- ping bob; natlab set home restart)

Needs root, or a system that lets users make user namespaces and open /dev/net/tun; in a container
--cap-add NET_ADMIN,SYS_ADMIN --device /dev/net/tun.";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Runs a command as a host behind a NAT; the exit code is the command's
    Run {
        /// The NAT in front of the host
        #[arg(long, default_value = "port-restricted-cone", value_parser = nat)]
        nat: Stack,
        #[command(flatten)]
        network: Network,
        #[command(flatten)]
        common: Common,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Runs two commands, each as a host behind a NAT of its own; the first one gets standard input
    Pair {
        /// The NAT in front of the first host; given again, in front of the second
        #[arg(long, required = true, num_args = 1, action = clap::ArgAction::Append, value_parser = nat)]
        nat: Vec<Stack>,
        /// Whose end is the end
        #[arg(long, value_enum, default_value_t = Until::Both)]
        until: Until,
        #[command(flatten)]
        network: Network,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        outputs: Outputs,
        /// Both commands, with --- between them
        #[arg(last = true, required = true, value_name = "COMMAND_A --- COMMAND_B")]
        commands: Vec<String>,
    },
    /// Opens a shell on a host behind a NAT
    Shell {
        /// The NAT in front of the host
        #[arg(long, default_value = "port-restricted-cone", value_parser = nat)]
        nat: Stack,
        #[command(flatten)]
        network: Network,
        #[command(flatten)]
        common: Common,
    },
    /// Sets up the topology of a file, runs its programs, and a command of this machine (natlab exec and natlab set in it
    /// mean this laboratory); ends with the command, else with the programs, else with Ctrl-C
    Up {
        /// The topology, a TOML file
        file: PathBuf,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        outputs: Outputs,
        /// The command
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Runs a command on a host of a running laboratory
    Exec {
        #[command(flatten)]
        which: Which,
        /// The host
        host: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Changes a running laboratory: `home restart`, `home nat=symmetric`, `home address=203.0.113.77`, `home link=down`,
    /// `home loss=5% delay=80ms rate=1mbit`, `alice on=office`, `alice link=down`
    Set {
        #[command(flatten)]
        which: Which,
        /// A router or host
        target: String,
        /// What changes
        #[arg(required = true, value_name = "CHANGE")]
        changes: Vec<String>,
    },
    /// Draws the topology of a file
    Draw {
        /// The topology, a TOML file
        file: PathBuf,
        /// As SVG instead of text
        #[arg(long)]
        svg: bool,
    },
    /// Lists the NATs that have names, and all settings
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Whose end is the end of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    A,
    B,
    Both,
}

/// Which of several running laboratories is meant.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// Its name; not needed where only one runs, or inside the command of `natlab up`
    #[arg(long, env = "NATLAB_LAB", value_name = "NAME")]
    pub(crate) lab: Option<String>,
}

/// What lies between the hosts and the Internet.
#[derive(Clone, Debug, Args)]
pub(crate) struct Network {
    /// IPv6 alone
    #[arg(short = '6', conflicts_with = "dual")]
    ipv6: bool,
    /// Both families; without this or -6, IPv4 alone
    #[arg(long)]
    dual: bool,
    /// Delay of each host's line, each way: 40ms makes a round trip to the server of 80 ms
    #[arg(long, default_value = "0ms", value_name = "TIME")]
    delay: Time,
    /// Up to this much more delay, at random for each packet
    #[arg(long, default_value = "0ms", value_name = "TIME")]
    jitter: Time,
    /// Packets that get lost on each host's line, each way
    #[arg(long, default_value = "0%", value_name = "PERCENT")]
    loss: Share,
    /// Lose packets in runs of this mean length, as full queues and radio do
    #[arg(long, value_name = "PACKETS", requires = "loss", value_parser = burst)]
    burst: Option<f64>,
    /// Share of packets that are overtaken by later ones
    #[arg(long, default_value = "0%", value_name = "PERCENT")]
    reorder: Share,
    /// Share of packets that arrive twice
    #[arg(long, default_value = "0%", value_name = "PERCENT")]
    duplicate: Share,
    /// What each host's line passes in a second, each way: 64kbit, 10mbit (a token bucket of two large packets)
    #[arg(long, value_name = "RATE")]
    rate: Option<BitRate>,
    /// What waits for that rate: 64kB, or 100p (packets) [default: what passes in 100 ms]
    #[arg(long, value_name = "SIZE", requires = "rate")]
    queue: Option<Queue>,
    /// Chooses the random ports and losses; the same seed, the same choices
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

/// What all laboratories have.
#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    /// A program on the Internet, at 198.51.100.20 and up, known on all hosts by its name; it ends with the laboratory
    #[arg(long, value_name = "COMMAND", value_parser = program)]
    pub(crate) internet: Vec<Program>,
    /// Captures both sides of each NAT into files of this folder, for Wireshark
    #[arg(long, value_name = "FOLDER")]
    pub(crate) pcap: Option<PathBuf>,
    /// Writes what each NAT did as JSON to this file (- for standard output)
    #[arg(long, value_name = "FILE")]
    pub(crate) summary: Option<PathBuf>,
    /// Ends everything after this time, with exit code 124
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<Time>,
    /// The name by which natlab exec and natlab set find it [default: the process id, or the file's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Do not say on standard error what was set up and what happened
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

/// Where the outputs of several programs go; without any of these each line is preceded by the host's name.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
pub(crate) struct Outputs {
    /// Pass outputs on as they are
    #[arg(long)]
    pub(crate) raw: bool,
    /// One file for each output in this folder: a.out, a.err, b.out, b.err
    #[arg(long, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
}

/// A command given as one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program(pub(crate) Vec<String>);

impl Network {
    pub(crate) fn families(&self) -> Families {
        match (self.ipv6, self.dual) {
            (true, _) => Families::V6,
            (false, true) => Families::DUAL,
            (false, false) => Families::V4,
        }
    }

    pub(crate) fn line(&self) -> LinkSpec {
        let loss = match (self.loss.0, self.burst) {
            (0.0, _) => Loss::None,
            (rate, None) => Loss::Independent(rate),
            (rate, Some(burst)) => Loss::Bursty { rate, burst },
        };
        let Self { delay, jitter, reorder, duplicate, .. } = self;
        let (reorder, duplicate) = (reorder.0, duplicate.0);
        let path = PathSpec { delay: delay.0, jitter: jitter.0, reorder, duplicate, ..PathSpec::default() };
        let rate = self.rate.map(|rate| {
            let rate = Rate::new(rate.0);
            Rate { queue: self.queue.unwrap_or(rate.queue), ..rate }
        });
        LinkSpec { path: path.with_loss(loss), up: rate, down: rate }
    }
}

impl Common {
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout.map(|time| time.0)
    }
}

/// Both commands of a pair, or what is wrong with them.
pub(crate) fn split_pair(commands: &[String]) -> Result<[&[String]; 2], String> {
    let parts: Vec<_> = commands.split(|word| word == "---").collect();
    match parts[..] {
        [a, b] if !a.is_empty() && !b.is_empty() => Ok([a, b]),
        _ => Err("pair needs two commands with `---` between them: -- COMMAND_A --- COMMAND_B".into()),
    }
}

fn burst(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(length) if (1.0..=1000.0).contains(&length) => Ok(length),
        Ok(_) | Err(_) => Err("a mean length from 1 to 1000 packets".into()),
    }
}

fn nat(text: &str) -> Result<Stack, String> {
    text.parse().map_err(|e: shared::nat::model::SpecError| e.to_string())
}

fn program(text: &str) -> Result<Program, String> {
    natlab::topology::shell_words(text).map(Program).map_err(|e: LabError| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_line_is_what_the_options_say() {
        let network = |words: &str| {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            let Some(Action::Run { network, .. }) = cli.action else { panic!("it is a run") };
            network
        };
        let plain = network("natlab run -- x");
        assert_eq!((plain.line(), plain.families()), (LinkSpec::perfect(), Families::V4));
        let busy = network("natlab run --dual --loss 10% --burst 5 --reorder 2% --duplicate 1% -- x");
        let path = busy.line().path;
        assert_eq!(path.loss_down, Loss::Bursty { rate: 0.1, burst: 5.0 });
        assert_eq!((path.reorder, path.duplicate, busy.families()), (0.02, 0.01, Families::DUAL));
        let slow = network("natlab run -6 --rate 1mbit --queue 10p -- x");
        assert_eq!(slow.families(), Families::V6);
        assert_eq!(
            slow.line().up.map(|rate| (rate.bits_per_s, rate.queue)),
            Some((1_000_000, Queue::Packets(10)))
        );
        for wrong in ["--loss 1% --burst 0", "--queue 10p", "-6 --dual", "--rate 5", "--internet ' '"] {
            let line = format!("natlab run {wrong} -- x");
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pair_is_split_at_three_dashes() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            split_pair(&words("a -x --- b -- c")).unwrap(),
            [&words("a -x")[..], &words("b -- c")[..]]
        );
        for wrong in ["a b", "--- b", "a ---", "a --- b --- c"] {
            assert!(split_pair(&words(wrong)).is_err(), "{wrong}");
        }
    }
}
