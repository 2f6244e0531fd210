//! The natlab program from outside: exit codes, environment, and that nothing is left behind however it ends.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
#[path = "natlab_program/hosts.rs"]
mod hosts;
#[cfg(target_os = "linux")]
#[path = "natlab_program/pairs.rs"]
mod pairs;
#[cfg(target_os = "linux")]
#[path = "natlab_program/topologies.rs"]
mod topologies;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        io::{BufRead, BufReader, Read},
        process::{Command, ExitCode, Output, Stdio},
        sync::mpsc,
        thread,
        time::Duration,
    };

    use natlab::{
        Lab, LabError,
        harness::{self, trial},
        tun::TunSite,
    };
    use rustix::process::{Pid, Signal, kill_process};
    use shared::nat::model::{NatSpec, Stack};

    const PATIENCE: Duration = Duration::from_secs(30);

    pub(crate) fn main() -> ExitCode {
        harness::main(|| {
            let all: [(&str, fn()); 10] = [
                ("the_exit_code_is_the_commands", the_exit_code_is_the_commands),
                ("what_is_no_nat_is_named", what_is_no_nat_is_named),
                ("the_environment_says_where_things_are", the_environment_says_where_things_are),
                ("delay_and_loss_are_felt", delay_is_felt),
                ("a_pair_runs_behind_two_nats", a_pair_runs_behind_two_nats),
                ("two_laboratories_at_once", two_laboratories_at_once),
                ("nothing_is_left_when_it_ends", nothing_is_left_when_it_ends),
                ("nothing_is_left_when_it_is_killed", nothing_is_left_when_it_is_killed),
                ("nothing_is_left_after_ctrl_c", nothing_is_left_after_ctrl_c),
                ("nothing_is_left_after_a_panic", nothing_is_left_after_a_panic),
            ];
            let run = |test: fn()| {
                move || {
                    // Where not even this can be made, natlab cannot be tried.
                    Lab::tun(&[TunSite::new(Stack::from(NatSpec::default()))], 1)?;
                    test();
                    Ok::<(), LabError>(())
                }
            };
            let more =
                super::hosts::TESTS.into_iter().chain(super::pairs::TESTS).chain(super::topologies::TESTS);
            all.into_iter().chain(more).map(|(name, test)| trial(name, run(test))).collect()
        })
    }

    fn the_exit_code_is_the_commands() {
        assert_eq!(natlab("run -q -- true").code, 0);
        assert_eq!(natlab("run -q -- sh -c {exit 42}").code, 42);
        assert_eq!(natlab("run -q -- sh -c {kill -KILL $$}").code, 137);
        let missing = natlab("run -q -- no-such-program");
        assert_eq!(missing.code, 127, "{}", missing.stderr);
        assert!(missing.stderr.contains("no-such-program"));
    }

    fn what_is_no_nat_is_named() {
        for (line, named) in [
            ("run --nat bogus -- true", "bogus"),
            ("run --loss 120% -- true", "120%"),
            ("run --delay 5 -- true", "`5`"),
            ("run --nat open", "COMMAND"),
            ("pair --nat open --nat open -- true", "---"),
            ("pair --nat open -- true --- true", "--nat twice"),
        ] {
            let ran = natlab(line);
            assert_eq!(ran.code, 2, "{line}: {}", ran.stderr);
            assert!(ran.stderr.contains(named) && !ran.stderr.contains("panicked"), "{line}: {}", ran.stderr);
        }
        let list = natlab("list");
        assert!(list.code == 0 && list.stdout.contains("symmetric-sequential"), "{}", list.stdout);
    }

    fn the_environment_says_where_things_are() {
        let ran =
            natlab("run --nat symmetric -- sh -c {echo $NATLAB_SERVER $NATLAB_ADDRESS $NAT_CHECK_SERVER}");
        assert_eq!(ran.stdout, "198.51.100.10:3478 192.168.77.2 198.51.100.10:3478\n");
        assert!(ran.stderr.contains("198.51.100.11:3479"), "{}", ran.stderr);
    }

    fn delay_is_felt() {
        let line = format!("run -q --nat linux --delay 40ms --loss 2% -- {} --json", nat_check().display());
        let ran = natlab(&line);
        let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect(&ran.stderr);
        let rtt = report["ipv4"]["udp"]["rtt_s"].as_f64().expect("a round-trip time");
        assert!((0.080..2.0).contains(&rtt), "{rtt}");
        assert_eq!(report["ipv4"]["udp"]["mapping"]["value"], "endpoint-independent");
    }

    fn a_pair_runs_behind_two_nats() {
        let ran = natlab(
            "pair -q --nat linux --nat open -- sh -c {echo I am $NATLAB_HOST at $NATLAB_ADDRESS} \
             --- sh -c {echo I am $NATLAB_HOST at $NATLAB_ADDRESS; exit 3}",
        );
        let mut lines: Vec<_> = ran.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["a| I am a at 192.168.77.2", "b| I am b at 192.0.2.18"], "{}", ran.stderr);
        assert_eq!(ran.code, 3);
    }

    fn two_laboratories_at_once() {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                let line = format!("run -q --nat full-cone -- {} --json", nat_check().display());
                thread::spawn(move || natlab(&line))
            })
            .collect();
        for run in runs {
            let ran = run.join().expect("no panic");
            assert_eq!(
                (ran.code, ran.stdout.contains("\"full-cone\"")),
                (0, true),
                "{}{}",
                ran.stdout,
                ran.stderr
            );
        }
    }

    /// Two programs that would stay for ever, one of them an orphan.
    const STAY: &str = "sh -c {sleep 86400 & echo up; exec sleep 86400}";

    fn nothing_is_left_when_it_ends() {
        let mut stage = Stage::begin("run -q -- sh -c {sleep 86400 & echo up}");
        stage.child.wait().expect("an end");
        stage.everything_ends();
    }

    fn nothing_is_left_when_it_is_killed() {
        for signal in [Signal::KILL, Signal::TERM] {
            let stage = Stage::begin(&format!("run -q -- {STAY}"));
            kill_process(Pid::from_child(&stage.child), signal).expect("a signal");
            stage.everything_ends();
        }
    }

    /// The terminal sends the signal to all of the foreground: natlab and the command.
    fn nothing_is_left_after_ctrl_c() {
        let stage = Stage::begin(&format!("run -q -- {STAY}"));
        rustix::process::kill_process_group(Pid::from_child(&stage.child), Signal::INT).expect("a signal");
        stage.everything_ends();
    }

    /// The library: programs end with the value, also when that goes by a panic.
    fn nothing_is_left_after_a_panic() {
        let (sender, receiver) = mpsc::channel();
        let panicked = thread::spawn(move || {
            let lab = Lab::tun(&[TunSite::new(Stack::from(NatSpec::default()))], 1).expect("a laboratory");
            let command = lab.host(0).command("sh").args(["-c", "echo up; exec sleep 86400"]);
            let mut staying = command.piped().expect("a program");
            let mut output = BufReader::new(staying.stdout().expect("its output"));
            output.read_line(&mut String::new()).expect("a line");
            sender.send(output).expect("a receiver");
            panic!("this panic is part of the test");
        });
        assert!(panicked.join().is_err());
        ends(receiver.recv().expect("an output"));
    }

    /// natlab at work. All that runs in it holds its standard output open: when that ends, all has ended.
    pub(crate) struct Stage {
        pub(crate) child: std::process::Child,
        output: BufReader<std::process::ChildStdout>,
    }

    impl Stage {
        fn begin(line: &str) -> Self {
            Self::begin_with(line, "up\n")
        }

        /// The command's first line says that it is at work.
        pub(crate) fn begin_with(line: &str, says: &str) -> Self {
            use std::os::unix::process::CommandExt;
            let mut command = command(line);
            command.stdout(Stdio::piped()).process_group(0);
            let mut child = command.spawn().expect("natlab starts");
            let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
            let mut first = String::new();
            output.read_line(&mut first).expect("a line");
            assert_eq!(first, says);
            Self { child, output }
        }

        pub(crate) fn everything_ends(mut self) {
            ends(self.output);
            self.child.wait().expect("an end");
        }
    }

    fn ends(mut output: impl Read + Send + 'static) {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || sender.send(output.read_to_end(&mut Vec::new())));
        receiver.recv_timeout(PATIENCE).expect("everything ends in time").expect("the output is read");
    }

    pub(crate) fn nat_check() -> std::path::PathBuf {
        natlab::binaries::binary("nat-check").expect("nat-check is built")
    }

    pub(crate) struct Ran {
        pub(crate) code: i32,
        pub(crate) stdout: String,
        pub(crate) stderr: String,
    }

    pub(crate) fn natlab(line: &str) -> Ran {
        let Output { status, stdout, stderr } = command(line).output().expect("natlab starts");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: natlab::process::shell_code(status), stdout: text(stdout), stderr: text(stderr) }
    }

    /// natlab with the words of a line; braces hold a word that has spaces.
    pub(crate) fn command(line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_natlab"));
        for (number, part) in line.split(['{', '}']).enumerate() {
            match number % 2 {
                0 => command.args(part.split_whitespace()),
                _ => command.arg(part),
            };
        }
        command.stdin(Stdio::null());
        command
    }
}
