//! Topologies as TOML files.
//!
//! ```toml
//! about = "A phone behind a carrier's NAT, a laptop at home"
//! ipv6 = false                     # optional: true = both families, "only" = IPv6 alone
//!
//! [[router]]
//! name = "carrier"
//! nat = "symmetric"
//! line = "delay=30ms loss=1% rate=20mbit queue=64kB"
//!
//! [[router]]
//! name = "phone"
//! nat = "linux"
//! behind = "carrier"
//!
//! [[host]]
//! name = "alice"
//! on = "phone"                     # or a list: ["phone", { router = "vpn", routes = ["198.51.100.0/24"] }]
//! run = "my-program --listen"      # optional
//!
//! [[internet]]
//! name = "turn"
//! run = "turnserver -n"
//!
//! [[at]]
//! after = "5s"
//! set = "phone restart"
//! ```

use serde::Deserialize;
use shared::nat::model::Stack;

use super::{Attachment, Families, Host, Router, Scheduled, Topology, line};
use crate::{LabError, network::shaper::LinkSpec, quantity::Time};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    #[serde(rename = "about")]
    _about: String,
    ipv6: Ipv6,
    seed: u64,
    router: Vec<FileRouter>,
    host: Vec<FileHost>,
    internet: Vec<FileInternet>,
    at: Vec<FileChange>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            _about: String::new(),
            ipv6: Ipv6::Wanted(false),
            seed: 1,
            router: Vec::new(),
            host: Vec::new(),
            internet: Vec::new(),
            at: Vec::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ipv6 {
    Wanted(bool),
    Word(String),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRouter {
    name: String,
    nat: Stack,
    behind: Option<String>,
    line: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileHost {
    name: String,
    on: On,
    run: Option<Command>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum On {
    One(String),
    Several(Vec<Interface>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Interface {
    Name(String),
    With { router: String, routes: Vec<String> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileInternet {
    name: String,
    run: Option<Command>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Command {
    Line(String),
    Words(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileChange {
    after: String,
    set: String,
}

pub(super) fn read(text: &str) -> Result<Topology, LabError> {
    let file: File = toml::from_str(text).map_err(|e| LabError::Words(e.to_string()))?;
    let mut topology = Topology::new().seed(file.seed).families(families(&file.ipv6)?);
    for router in file.router {
        let line = router.line.as_deref().map_or_else(|| Ok(LinkSpec::perfect()), line::parse)?;
        let FileRouter { name, nat, behind, .. } = router;
        topology.routers.push(Router { name, nat, behind, line });
    }
    for host in file.host {
        let on = match host.on {
            On::One(router) => vec![Interface::Name(router)],
            On::Several(interfaces) => interfaces,
        };
        let on = on.into_iter().map(attachment).collect::<Result<_, _>>()?;
        topology.hosts.push(Host { name: host.name, on, run: words(host.run)? });
    }
    for host in file.internet {
        let on = vec![Attachment { router: None, routes: Vec::new() }];
        topology.hosts.push(Host { name: host.name, on, run: words(host.run)? });
    }
    for change in file.at {
        let (after, order) = (change.after.parse::<Time>()?.0, change.set.parse()?);
        topology.schedule.push(Scheduled { after, order });
    }
    topology.check()?;
    Ok(topology)
}

fn families(ipv6: &Ipv6) -> Result<Families, LabError> {
    match ipv6 {
        Ipv6::Wanted(false) => Ok(Families::V4),
        Ipv6::Wanted(true) => Ok(Families::DUAL),
        Ipv6::Word(word) if word == "only" => Ok(Families::V6),
        Ipv6::Word(word) => Err(LabError::Words(format!("ipv6 = \"{word}\": write true, false or \"only\""))),
    }
}

fn attachment(interface: Interface) -> Result<Attachment, LabError> {
    let (router, routes) = match interface {
        Interface::Name(router) => (router, Vec::new()),
        Interface::With { router, routes } => (router, routes),
    };
    let routes =
        routes.iter().map(|route| route.parse()).collect::<Result<_, _>>().map_err(LabError::Words)?;
    Ok(Attachment { router: (router != "internet").then_some(router), routes })
}

fn words(command: Option<Command>) -> Result<Option<Vec<String>>, LabError> {
    match command {
        None => Ok(None),
        Some(Command::Words(words)) => Ok(Some(words)),
        Some(Command::Line(line)) => shell_words(&line).map(Some),
    }
}

/// The words of a command line: separated by spaces, with quotes and backslashes as in a shell, but nothing else of it.
pub fn shell_words(line: &str) -> Result<Vec<String>, LabError> {
    shlex::split(line).filter(|words| !words.is_empty()).ok_or_else(|| {
        LabError::Words(format!("`{line}` is no command: it is empty, or a quote is not closed"))
    })
}
