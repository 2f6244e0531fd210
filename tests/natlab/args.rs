//! The command line of natlab.

use clap::{Args, Parser, Subcommand};
use lab::quantity::{Share, Time};
use nat_check_core::net::sim::{Loss, PathSpec};
use shared::nat::model::Stack;

/// Runs programs as hosts behind a NAT of your choice, with a small Internet outside.
#[derive(Debug, Parser)]
#[command(name = "natlab", version, about, long_about = LONG, arg_required_else_help = true, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) action: Action,
}

const LONG: &str = "\
Runs programs as hosts behind a NAT of your choice, with a small Internet outside.

Each host is a network namespace whose only way out leads through a user-space NAT; nothing else of this machine is \
touched, and everything is gone when the command ends. On the Internet are a probe server (STUN with two addresses) \
and an echo service (UDP and TCP port 7); their addresses are in the command's environment.";

const AFTER: &str = "\
A NAT is a name (see `natlab list`), settings (mapping=apd,filtering=ad,ports=sequential), a name with settings
(linux,stream=60), or several in a row joined by +, the innermost first (linux+symmetric).

Environment of the commands:
  NATLAB_SERVER, NATLAB_SERVER6   the probe server over IPv4 and IPv6; NAT_CHECK_SERVER is the first of them
  NATLAB_SERVER_ALTERNATE         its other address
  NATLAB_ECHO, NATLAB_ECHO6       the echo service, over UDP and TCP
  NATLAB_HOST, NATLAB_ADDRESS     which host this is (a or b), and its own address
  NATLAB_NAT                      the settings of the NAT in front of it

Examples:
  natlab run --nat symmetric -- nat-check
  natlab run --nat full-cone --delay 40ms --loss 5% -- ./my-p2p-program --stun 198.51.100.10
  natlab pair --nat linux --nat linux-random -- ./peer --listen --- ./peer --dial
  natlab shell --nat port-restricted-cone

Needs root, or a system that lets users make user namespaces and open /dev/net/tun.";

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Runs a command as a host behind a NAT; the exit code is the command's
    Run {
        /// The NAT in front of the host
        #[arg(long, default_value = "port-restricted-cone", value_parser = nat)]
        nat: Stack,
        #[command(flatten)]
        network: Network,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Runs two commands, each as a host behind a NAT of its own
    Pair {
        /// The NAT in front of the first host; given again, in front of the second
        #[arg(long, required = true, num_args = 1, action = clap::ArgAction::Append, value_parser = nat)]
        nat: Vec<Stack>,
        #[command(flatten)]
        network: Network,
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
    },
    /// Lists the NATs that have names, and all settings
    List,
}

/// What lies between the hosts and the Internet.
#[derive(Clone, Debug, Args)]
pub(crate) struct Network {
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
    /// Chooses the random ports and losses; the same seed, the same choices
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Do not say on standard error what was set up
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl Network {
    pub(crate) fn line(&self) -> PathSpec {
        let loss = match (self.loss.0, self.burst) {
            (0.0, _) => Loss::None,
            (rate, None) => Loss::Independent(rate),
            (rate, Some(burst)) => Loss::Bursty { rate, burst },
        };
        let Self { delay, jitter, reorder, duplicate, .. } = self;
        let (reorder, duplicate) = (reorder.0, duplicate.0);
        let line = PathSpec { delay: delay.0, jitter: jitter.0, reorder, duplicate, ..PathSpec::default() };
        line.with_loss(loss)
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
        let line = |words: &str| {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            let Action::Run { network, .. } = cli.action else { panic!("it is a run") };
            network.line()
        };
        let plain = line("natlab run -- x");
        assert_eq!((plain.loss_up, plain.reorder, plain.duplicate), (Loss::None, 0.0, 0.0));
        let busy = line("natlab run --loss 10% --burst 5 --reorder 2% --duplicate 1% -- x");
        assert_eq!(busy.loss_down, Loss::Bursty { rate: 0.1, burst: 5.0 });
        assert_eq!((busy.reorder, busy.duplicate), (0.02, 0.01));
        assert!(Cli::try_parse_from(["natlab", "run", "--loss", "1%", "--burst", "0", "--", "x"]).is_err());
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
