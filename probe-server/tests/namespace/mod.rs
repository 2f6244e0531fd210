//! Network namespaces of a test's own, made with the tools of util-linux and iproute2; nothing outside of them is touched.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    env,
    fs::File,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use shared::stun::{Class, TransactionId, View, Writer, attr};

/// Set in the copy of a test that runs inside its namespace.
const INSIDE: &str = "PROBE_SERVER_TEST_INSIDE";

/// Runs the test of this name, which calls this, once more in a namespace, if there are these programs.
pub(crate) fn in_a_namespace(test: &str, programs: &[&str], inside: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        run("ip link set lo up");
        return inside();
    }
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "--"]);
        unshare
    };
    let succeeds = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let missing = if succeeds(unshare().arg("true")) {
        programs.iter().copied().find(|program| !succeeds(Command::new(program).arg("--version")))
    } else {
        Some("network namespaces")
    };
    if let Some(missing) = missing {
        assert!(env::var("LAB").as_deref() != Ok("required"), "here is no {missing}");
        println!("SKIPPED {test}: here is no {missing}");
        return;
    }
    let mut again = unshare();
    again.arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
    assert!(again.status().unwrap().success());
}

/// One command in this namespace; words are separated by blanks.
pub(crate) fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}");
}

/// Loads rules for nftables.
pub(crate) fn nft(rules: &str) {
    assert!(Command::new("nft").arg(rules).status().unwrap().success(), "{rules}");
}

/// A further host, with a namespace of its own.
pub(crate) struct Host {
    holder: Child,
}

impl Host {
    pub(crate) fn new() -> Self {
        let mut unshare = Command::new("unshare");
        let holder = unshare.args(["--net", "sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
        let host = Self { holder };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        // The namespace is there when it is another one than ours.
        while std::fs::read_link(host.path()).is_ok_and(|its| its == own) {
            thread::yield_now();
        }
        host.run("ip link set lo up");
        host
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A program on this host.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg("--").arg(program);
        command
    }

    pub(crate) fn run(&self, command: &str) {
        let mut words = command.split(' ');
        assert!(self.command(words.next().unwrap()).args(words).status().unwrap().success(), "{command}");
    }

    /// Loads rules for nftables on this host.
    pub(crate) fn nft(&self, rules: &str) {
        assert!(self.command("nft").arg(rules).status().unwrap().success(), "{rules}");
    }

    /// A link between this test's namespace and the host.
    pub(crate) fn connect(&self, here: &str, there: &str) {
        run(&format!("ip link add {here} type veth peer name {there} netns {}", self.holder.id()));
        run(&format!("ip link set {here} up"));
        self.run(&format!("ip link set {there} up"));
    }

    /// Does something from this host.
    pub(crate) fn run_inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        let inside = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.holder.kill();
        _ = self.holder.wait();
    }
}

/// What came back for a request: where from, RESPONSE-ORIGIN, OTHER-ADDRESS.
pub(crate) type Answer = (SocketAddr, Option<SocketAddr>, Option<SocketAddr>);

/// Asks once with these flags of CHANGE-REQUEST; nothing if nothing came in time.
pub(crate) fn ask(server: &str, change: u32, patience: Duration) -> Option<Answer> {
    let server: SocketAddr = server.parse().unwrap();
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(1));
    let mut request = [0; 32];
    let mut writer = Writer::new(&mut request, Class::Request, &id);
    if change != 0 {
        writer.u32(attr::CHANGE_REQUEST, change);
    }
    let length = writer.len();
    socket.send_to(&request[..length], server).unwrap();
    let mut answer = [0; 512];
    let (length, from) = socket.recv_from(&mut answer).ok()?;
    let view = View::parse(&answer[..length]).unwrap();
    assert_eq!(view.id(), id);
    Some((from, view.address(attr::RESPONSE_ORIGIN), view.address(attr::OTHER_ADDRESS)))
}
