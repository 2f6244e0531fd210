//! What is to be done: the command line checked, completed and turned into values.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use shared::nat::model::Stack;

use crate::{
    args::Args,
    render::{self, Format},
    require::Requirement,
    server_list::{self, Columns},
    usage::{self, UsageError, Verbosity},
};
use nat_check_core::{
    check::Setup,
    proxy::{Environment, ProxyUrl, ProxyUrlError},
    randomness::Randomness,
    resolve::Query,
    selection::{Families, Selection},
};

/// A run, ready to go.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which network is measured.
    pub network: Network,
    /// Public servers that are asked besides, a few packets each.
    pub public: Vec<Query>,
    /// Which IP families are tested.
    pub families: Families,
    /// The local address to send from; port 0 means a random one for every test.
    pub bind: Option<SocketAddr>,
    /// Which tests run.
    pub tests: Selection,
    /// The longest idle time of a TCP connection that is looked at; none = it is not asked for.
    pub tcp_idle: Option<Duration>,
    /// Whether the gateway is asked to open ports.
    pub port_mapping: bool,
    /// Whether both NATs of the user's own double NAT are opened as well.
    pub chain: bool,
    /// Whether the requirements of the RFCs are held against what is found.
    pub checklist: bool,
    /// Proxies that are measured, each with the variable of the environment that names it.
    pub proxies: Vec<(ProxyUrl, Option<&'static str>)>,
    /// The longest idle time of the lifetime measurement; none = it is not asked for.
    pub lifetime: Option<Duration>,
    /// Time for everything else.
    pub timeout: Duration,
    /// Seed of choices such as the order of servers.
    pub seed: u64,
    /// How the report is printed.
    pub format: &'static Format,
    /// What the report must say.
    pub requires: Vec<Requirement>,
    /// How much is told besides the report.
    pub verbosity: Verbosity,
}

/// Where the probe server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Network {
    /// Out there: one or more servers, in the order in which they are asked.
    Servers(Vec<Query>),
    /// Embedded, on loopback.
    Local,
    /// Behind a simulated NAT of this description.
    Simulated(String),
}

/// What a plan needs to know beside the command line.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// NAT_CHECK_SERVER, if it is set.
    pub server: Option<&'a str>,
    /// The names of the tests that exist.
    pub tests: &'a [&'a str],
    /// The seed, where none is given.
    pub seed: u64,
    /// The proxies of the environment.
    pub proxies: &'a Environment,
}

impl Plan {
    /// Checks and completes the command line.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(args: Args, around: Surroundings<'_>) -> Result<Self, UsageError> {
        let bind = args.bind.as_deref().map(parse_bind).transpose()?;
        let families = families(&args, bind)?;
        let seed = args.seed.unwrap_or(around.seed);
        let requires: Vec<Requirement> =
            args.requires.iter().map(|given| requirement(given)).collect::<Result<_, _>>()?;
        Ok(Self {
            network: network(&args, around.server, families, bind)?,
            public: public(&args, families, seed)?,
            families,
            bind,
            tests: selection(&args, around.tests)?,
            lifetime: match args.lifetime {
                None if args.only.iter().any(|name| name == "lifetime") => Some(DEFAULT_LIFETIME),
                asked => asked.map(|s| usage::seconds("lifetime", s, 5.0, LONGEST_S)).transpose()?,
            },
            tcp_idle: match args.tcp_idle {
                None if args.only.iter().any(|name| name == "tcp-idle") => Some(DEFAULT_TCP_IDLE),
                asked => asked.map(|s| usage::seconds("tcp-idle", s, 5.0, LONGEST_TCP_IDLE_S)).transpose()?,
            },
            port_mapping: args.port_mapping
                || args.all
                || args.chain
                || args.only.iter().any(|name| name == "port-mapping"),
            chain: args.chain,
            checklist: args.checklist || args.all || requires.iter().any(Requirement::is_of_the_checklist),
            proxies: proxies(&args.proxies, around.proxies)?,
            timeout: usage::seconds("timeout", args.timeout.unwrap_or(DEFAULT_TIMEOUT_S), 0.1, LONGEST_S)?,
            seed,
            format: render::by_name(if args.json { "json" } else { &args.format }),
            requires,
            verbosity: Verbosity::new(args.quiet, args.verbose),
        })
    }

    /// What the library is asked to do.
    #[must_use]
    pub fn setup(&self, started_at: SystemTime) -> Setup {
        Setup {
            families: self.families,
            bind: self.bind,
            tests: self.tests.clone(),
            timeout: self.timeout,
            lifetime: self.lifetime,
            tcp_idle: self.tcp_idle,
            port_mapping: self.port_mapping,
            chain: self.chain,
            checklist: self.checklist,
            // They are looked up first.
            proxies: Vec::new(),
            // On a real network nobody may predict ids; the seed is for choices.
            randomness: match self.network {
                Network::Simulated(_) => Randomness::Seeded(self.seed),
                Network::Servers(_) | Network::Local => Randomness::System,
            },
            started_at: Some(started_at),
        }
    }
}

/// Twice what a run over a path of 700 ms takes.
const DEFAULT_TIMEOUT_S: f64 = 15.0;
/// Longer than all but the most patient home routers keep a mapping.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(180);
/// What a server holds a connection for unless it says otherwise.
const DEFAULT_TCP_IDLE: Duration = Duration::from_secs(900);
/// More than a day is a typing error.
const LONGEST_TCP_IDLE_S: f64 = 86_400.0;
/// More than an hour is a typing error.
const LONGEST_S: f64 = 3600.0;

fn network(
    args: &Args,
    from_environment: Option<&str>,
    families: Families,
    bind: Option<SocketAddr>,
) -> Result<Network, UsageError> {
    if args.local {
        return Ok(Network::Local);
    }
    if let Some(nat) = &args.simulate {
        nat.parse::<Stack>().map_err(|error| UsageError::value("simulate", nat, error))?;
        return Ok(Network::Simulated(nat.clone()));
    }
    let environment: Vec<String> =
        from_environment.filter(|server| !server.is_empty()).map(str::to_owned).into_iter().collect();
    let given = match (&args.servers, &args.public) {
        (none, None) if none.is_empty() => &environment,
        (given, _) => given,
    };
    if given.is_empty() && args.public.is_none() {
        return Err(UsageError::NoServer);
    }
    let mut servers: Vec<Query> = Vec::with_capacity(given.len());
    for value in given {
        for query in listed(value)? {
            if let Some(ip) = query.literal() {
                let means = bind.map(|bind| format!("--bind {} means", bind.ip()));
                contained("server", query.given(), ip, families, means.as_deref())?;
            }
            if !servers.contains(&query) {
                servers.push(query);
            }
        }
    }
    Ok(Network::Servers(servers))
}

/// One server, or those of the file behind an `@`.
fn listed(value: &str) -> Result<Vec<Query>, UsageError> {
    let Some(file) = value.strip_prefix('@') else { return Ok(vec![usage::server(value)?]) };
    let servers = server_list::read(file.as_ref()).and_then(|text| server_list::parse(&text, Columns::One));
    servers.map_err(|reason| UsageError::value("server", value, reason))
}

/// Some of the public servers, if they are asked for.
fn public(args: &Args, families: Families, seed: u64) -> Result<Vec<Query>, UsageError> {
    let Some(list) = &args.public else { return Ok(Vec::new()) };
    let (name, text) = match list {
        None => (String::from("(built in)"), Ok(server_list::PUBLIC.to_owned())),
        Some(file) => (file.display().to_string(), server_list::read(file)),
    };
    let servers = text.and_then(|text| server_list::parse(&text, Columns::Remarks));
    let mut servers = servers.map_err(|reason| UsageError::value("public", name, reason))?;
    servers.retain(|server| server.literal().is_none_or(|ip| families.contain(ip)));
    Ok(server_list::choose(servers, &mut fastrand::Rng::with_seed(seed)))
}

/// The proxies that are asked for, each once; an empty word stands for those of the environment.
fn proxies(
    given: &[String],
    environment: &Environment,
) -> Result<Vec<(ProxyUrl, Option<&'static str>)>, UsageError> {
    // The value may hold a password.
    let wrong = |text: &str, why: ProxyUrlError| UsageError::value("proxy", ProxyUrl::redacted(text), why);
    let mut proxies: Vec<(ProxyUrl, Option<&'static str>)> = Vec::new();
    for text in given {
        let named = match text.as_str() {
            "" if environment.found.is_empty() => {
                let why = "no URL, and the environment names no proxy (ALL_PROXY, HTTPS_PROXY, http_proxy)";
                return Err(UsageError::value("proxy", "", why));
            }
            "" => {
                let named = environment.found.iter().map(|found| {
                    let url = found.url.clone().map_err(|why| wrong(found.variable, why))?;
                    Ok((url, Some(found.variable)))
                });
                let (usable, unusable): (Vec<_>, Vec<_>) = named.partition(Result::is_ok);
                // The report tells of the others.
                let chosen = if usable.is_empty() { unusable } else { usable };
                chosen.into_iter().collect::<Result<Vec<_>, UsageError>>()?
            }
            text => vec![(ProxyUrl::parse(text).map_err(|why| wrong(text, why))?, None)],
        };
        for proxy in named {
            if !proxies.iter().any(|(url, _)| *url == proxy.0) {
                proxies.push(proxy);
            }
        }
    }
    Ok(proxies)
}

/// The families that are asked for; a local address to send from decides.
fn families(args: &Args, bind: Option<SocketAddr>) -> Result<Families, UsageError> {
    let wanted = Families { v4: !args.ipv6, v6: !args.ipv4 };
    let Some(bind) = bind else { return Ok(wanted) };
    contained("bind", bind.ip(), bind.ip(), wanted, None)?;
    Ok(Families { v4: bind.is_ipv4(), v6: bind.is_ipv6() })
}

/// That an address is of a family that is asked for.
fn contained(
    flag: &'static str,
    value: impl std::fmt::Display,
    ip: IpAddr,
    families: Families,
    because: Option<&str>,
) -> Result<(), UsageError> {
    if families.contain(ip) {
        return Ok(());
    }
    let is = if ip.is_ipv4() { 4 } else { 6 };
    let wanted = if families.v4 { 4 } else { 6 };
    let because = because.unwrap_or("the only family asked for is");
    Err(UsageError::value(flag, value, format!("an IPv{is} address, but {because} IPv{wanted}")))
}

fn parse_bind(value: &str) -> Result<SocketAddr, UsageError> {
    let bare = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(value);
    let ip = bare.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 0));
    ip.or_else(|_| value.parse()).map_err(|_| {
        let reason = "not an IP address, nor IP:PORT (an IPv6 address with a port is written [IP]:PORT)";
        UsageError::value("bind", value, reason)
    })
}

fn selection(args: &Args, known: &[&str]) -> Result<Selection, UsageError> {
    let (flag, names) = if args.only.is_empty() { ("skip", &args.skip) } else { ("only", &args.only) };
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => {
            Err(UsageError::value(flag, name, format!("no such test; there are: {}", known.join(", "))))
        }
        None if names.is_empty() => Ok(Selection::Default),
        None if flag == "only" => {
            // Whose the second NAT is has to be known.
            let layers = (args.chain && !names.iter().any(|name| name == "layers")).then(|| "layers".into());
            Ok(Selection::Only(names.iter().cloned().chain(layers).collect()))
        }
        None => Ok(Selection::Except(names.clone())),
    }
}

fn requirement(value: &str) -> Result<Requirement, UsageError> {
    Requirement::parse(value).map_err(|reason| UsageError::value("require", value, reason))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const TESTS: &[&str] = &["mapping", "filtering", "lifetime"];
    const NO_PROXIES: &Environment = &Environment::EMPTY;

    fn around(server: Option<&str>) -> Surroundings<'_> {
        Surroundings { server, tests: TESTS, seed: 7, proxies: NO_PROXIES }
    }

    fn plan(line: &str) -> Result<Plan, UsageError> {
        let argv = std::iter::once("nat-check").chain(line.split_whitespace());
        Plan::new(Args::try_parse_from(argv).unwrap(), around(None))
    }

    fn message(line: &str) -> String {
        plan(line).unwrap_err().to_string()
    }

    #[test]
    fn a_plan_is_complete() {
        let plan = plan("--server probe.example.org --only mapping --json --seed 5 -v").unwrap();
        assert_eq!(plan.network, Network::Servers(vec![Query::parse("probe.example.org").unwrap()]));
        assert_eq!(plan.families, Families { v4: true, v6: true });
        assert_eq!(plan.tests, Selection::Only(vec!["mapping".into()]));
        assert_eq!(plan.format.name, "json");
        assert_eq!((plan.seed, plan.verbosity), (5, Verbosity::Evidence));
        assert_eq!(plan.timeout, Duration::from_secs(15));
        assert_eq!(plan.lifetime, None);
    }

    #[test]
    fn both_nats_are_opened_where_whose_they_are_is_looked_at() {
        let chain = plan("--server probe.example.org --chain --only mapping").unwrap();
        assert_eq!((chain.port_mapping, chain.chain), (true, true));
        assert_eq!(chain.tests, Selection::Only(vec!["mapping".into(), "layers".into()]));
        let all = plan("--server probe.example.org --all").unwrap();
        assert_eq!((all.port_mapping, all.chain), (true, false));
    }

    #[test]
    fn every_message_names_the_value() {
        for (line, wanted) in [
            ("", "--server HOST"),
            ("", "--public"),
            ("", "--local"),
            ("", "--simulate"),
            ("--server @/nonexistent", "--server @/nonexistent: No such file"),
            ("--public=/nonexistent", "--public /nonexistent: No such file"),
            ("--server example.org:99999", "99999"),
            ("--server 192.0.2.1 -6", "192.0.2.1: an IPv4 address, but the only family asked for is IPv6"),
            ("--server 2001:db8::1 -4", "2001:db8::1: an IPv6 address"),
            ("--server 127.0.0.1 --bind ::1", "127.0.0.1: an IPv4 address, but --bind ::1 means IPv6"),
            ("--local --bind 10.0.0", "--bind 10.0.0"),
            ("--local -6 --bind 127.0.0.1", "127.0.0.1: an IPv4 address"),
            ("--simulate cone", "unknown NAT `cone`; known are open, firewall"),
            ("--local --timeout 0", "--timeout 0"),
            ("--local --timeout nan", "--timeout NaN"),
            ("--local --lifetime=1", "--lifetime 1"),
            ("--local --only mapping,bogus", "--only bogus: no such test; there are: mapping, filtering"),
            ("--local --skip bogus", "--skip bogus"),
            ("--local --require mapping", "--require mapping"),
        ] {
            let message = message(line);
            assert!(message.contains(wanted), "{line:?} gives {message:?}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn public_servers_are_asked_beside_those_that_are_named_and_instead_of_the_environment() {
        let with = |line: &str| {
            let argv = std::iter::once("nat-check").chain(line.split_whitespace());
            let around = around(Some("env.example"));
            Plan::new(Args::try_parse_from(argv).unwrap(), around).unwrap()
        };
        let public = with("--public");
        assert_eq!((public.network, public.public.len()), (Network::Servers(Vec::new()), 5));
        let both = with("--public --server a.example");
        assert_eq!(both.network, Network::Servers(vec![Query::parse("a.example").unwrap()]));
        assert_eq!(both.public, with("--public").public, "the seed decides");
        assert_ne!(both.public, with("--public --seed 8").public);
        assert!(with("--server a.example").public.is_empty());
    }

    #[test]
    fn a_list_may_stand_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "a.example # ours\n192.0.2.1:5\n").unwrap();
        let line = format!("--server @{} --server a.example", file.path().display());
        let Network::Servers(servers) = plan(&line).unwrap().network else { panic!() };
        assert_eq!(servers.iter().map(Query::given).collect::<Vec<_>>(), ["a.example", "192.0.2.1:5"]);
        std::fs::write(&file, "a.example\nb.example:x\n").unwrap();
        assert!(message(&line).ends_with(": line 2: `x` is not a port (1 to 65535)"), "{}", message(&line));
        std::fs::write(&file, "192.0.2.1\n").unwrap();
        assert!(message(&format!("{line} -6")).contains("192.0.2.1: an IPv4 address"));
    }

    #[test]
    fn the_environment_stands_in_but_never_contradicts() {
        let with = |line: &str, server| {
            let argv = std::iter::once("nat-check").chain(line.split_whitespace());
            let args = Args::try_parse_from(argv).unwrap();
            Plan::new(args, around(server)).map(|plan| plan.network)
        };
        let query = |s| Query::parse(s).unwrap();
        assert_eq!(with("", Some("a.example")).unwrap(), Network::Servers(vec![query("a.example")]));
        assert_eq!(
            with("-s b.example", Some("a.example")).unwrap(),
            Network::Servers(vec![query("b.example")])
        );
        assert_eq!(with("--local", Some("a.example")).unwrap(), Network::Local);
        assert_eq!(with("", Some("")).unwrap_err(), UsageError::NoServer);
    }

    #[test]
    fn a_local_address_decides_the_family() {
        let bound = plan("--local --bind 127.0.0.1:4000").unwrap();
        assert_eq!(bound.families, Families { v4: true, v6: false });
        assert_eq!(bound.bind, Some("127.0.0.1:4000".parse().unwrap()));
        assert_eq!(plan("--local --bind ::1").unwrap().bind, Some("[::1]:0".parse().unwrap()));
        assert_eq!(plan("--local --bind [::1]:5").unwrap().bind, Some("[::1]:5".parse().unwrap()));
    }

    #[test]
    fn proxies_are_given_or_those_of_the_environment_and_no_message_shows_a_password() {
        let environment = Environment::read(|name| {
            (name == "ALL_PROXY").then(|| "socks5://somebody:s3cret@192.0.2.1:1080".to_owned())
        });
        let with = |words: &[&str]| {
            let given: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            proxies(&given, &environment)
                .map(|found| found.into_iter().map(|(url, by)| (url.to_string(), by)).collect())
        };
        let named: Vec<_> = with(&["", "http://p:3128", "http://p:3128"]).unwrap();
        let wanted = [("socks5://192.0.2.1:1080", Some("ALL_PROXY")), ("http://p:3128", None)];
        assert_eq!(named, wanted.map(|(url, by)| (url.to_owned(), by)));
        let message = with(&["ftp://somebody:s3cret@host"]).unwrap_err().to_string();
        assert_eq!(
            message,
            "--proxy ftp://...@host: a proxy is one of socks5://, socks5h://, socks4://, socks4a:// and http://"
        );
        assert!(proxies(&[String::new()], NO_PROXIES).is_err());
    }

    #[test]
    fn a_variable_that_names_no_proxy_keeps_none_from_being_used() {
        let all = |http: &'static str| {
            Environment::read(move |name| match name {
                "ALL_PROXY" => Some("ftp://192.0.2.1".to_owned()),
                "http_proxy" => Some(http.to_owned()),
                _ => None,
            })
        };
        let used = proxies(&[String::new()], &all("http://192.0.2.2:3128")).unwrap();
        assert_eq!(used.iter().map(|(_, by)| *by).collect::<Vec<_>>(), [Some("http_proxy")]);
        let message = proxies(&[String::new()], &all("ftp://192.0.2.2")).unwrap_err().to_string();
        assert!(message.starts_with("--proxy ALL_PROXY: "), "{message}");
    }
}
