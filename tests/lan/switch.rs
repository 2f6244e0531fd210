//! A switch with a gateway and hosts at its ports: a bridge of the kernel, in a namespace of its own.

use std::time::Duration;

use natlab::{
    LabError,
    binaries::binary,
    netns::Namespace,
    process::{Output, Running},
};
use serde_json::Value;

/// Far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The network. Its gateway is the bridge's own address, 192.168.77.1.
pub(crate) struct Switch {
    hosts: Vec<Namespace>,
    switch: Namespace,
}

impl Switch {
    /// So many hosts, 192.168.77.2 and so on, and settings of the bridge; those behind a semicolon are made after the others.
    pub(crate) fn new(hosts: usize, settings: &str) -> Result<Self, LabError> {
        let switch = Namespace::new("switch")?;
        let (first, others) = settings.split_once(';').unwrap_or((settings, ""));
        let others = others.split(';').filter(|it| !it.is_empty());
        let others: String = others.map(|it| format!("link set lan type bridge {it}\n")).collect();
        switch.ip(&format!(
            "link add lan type bridge {first}\n{others}link set lan up\naddr add 192.168.77.1/24 dev lan\n"
        ))?;
        let hosts = (0..hosts).map(|number| {
            let host = Namespace::new(format!("lan host {number}"))?;
            switch.ip(&format!(
                "link add port{number} type veth peer name eth0 netns {}\nlink set port{number} master lan up\n",
                host.path().display()
            ))?;
            host.ip(&format!(
                "link set eth0 up\naddr add 192.168.77.{}/24 dev eth0\nroute add default via 192.168.77.1\n",
                number + 2
            ))?;
            Ok(host)
        });
        let hosts: Vec<Namespace> = hosts.collect::<Result<_, LabError>>()?;
        hosts.iter().try_for_each(Namespace::settle)?;
        Ok(Self { hosts, switch })
    }

    pub(crate) fn host(&self, number: usize) -> &Namespace {
        &self.hosts[number]
    }

    /// Rules of the switch.
    pub(crate) fn with_rules(self, rules: &str) -> Result<Self, LabError> {
        self.switch.nft(rules)?;
        Ok(self)
    }

    /// A setting of a port: `isolated on`.
    pub(crate) fn with_port(self, number: usize, setting: &str) -> Result<Self, LabError> {
        let port = format!("port{number}");
        let words = ["link", "set", "dev", &port].into_iter().chain(setting.split_whitespace());
        let output = self.switch.command("bridge").args(words).output(PATIENCE)?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        Ok(self)
    }

    /// Starts `nat-check lan` on a host.
    pub(crate) fn start(&self, host: usize, arguments: &[&str]) -> Result<Running, LabError> {
        self.hosts[host].command(binary("nat-check")?).args(["lan", "--json"]).args(arguments).start()
    }

    /// Runs it on all hosts at the same time, each of which waits for the others; what each says of the network.
    pub(crate) fn all(&self, arguments: &[&str]) -> Result<Vec<Value>, LabError> {
        let arguments = [&["--wait", "60"], arguments].concat();
        let running: Result<Vec<_>, LabError> =
            (0..self.hosts.len()).map(|host| self.start(host, &arguments)).collect();
        running?.into_iter().map(|it| lan(&it.finish(PATIENCE)?)).collect()
    }
}

/// The report of a run.
pub(crate) fn report(output: &Output) -> Result<Value, LabError> {
    if std::env::var_os("SHOW_REPORTS").is_some() {
        println!("{}", output.stdout);
    }
    let read = serde_json::from_str(&output.stdout);
    read.map_err(|error| LabError::Words(format!("{error}: {}", output.stderr)))
}

/// What a run that ended well says of the network.
pub(crate) fn lan(output: &Output) -> Result<Value, LabError> {
    assert_eq!(output.code, 0, "{}", output.stderr);
    report(output).map(|report| report["lan"].clone())
}
