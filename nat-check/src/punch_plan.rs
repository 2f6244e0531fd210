//! `nat-check punch`: its command line, checked and completed.

use std::{fmt::Display, path::PathBuf, str::FromStr};

use shared::rendezvous::Code;

use crate::{
    args::PunchArgs,
    usage::{self, UsageError, Verbosity},
};
use nat_check_core::{
    proxy::ProxyUrl,
    punch::{PunchSetup, secure::UseTls},
    report::ProxyKind,
    resolve::{Query, Service},
    technique::Technique,
};

/// An attempt, ready to go.
#[derive(Clone, Debug)]
pub struct PunchPlan {
    /// The probe server that introduces.
    pub server: Query,
    /// How it is reached over TLS, if it has to be.
    pub tls: Option<TlsPlan>,
    /// The proxy that all goes through, if any.
    pub proxy: Option<ProxyUrl>,
    /// What is to be tried.
    pub setup: PunchSetup,
    /// Whether the link for a browser is shown as a QR code in any case.
    pub qr: bool,
    /// How the report is printed.
    pub format: PunchFormat,
    /// How much is told besides the report.
    pub verbosity: Verbosity,
}

/// How the report of a punch is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PunchFormat {
    /// For people.
    Table,
    /// For scripts.
    Json,
    /// One file for browsers.
    Html,
}

/// TLS to the rendezvous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPlan {
    /// Where it is looked for: by SRV if there is no port in it.
    pub at: Query,
    /// The port, if the user gave one.
    pub port: Option<u16>,
    /// The certificates to trust; none = those that the system trusts.
    pub ca: Option<PathBuf>,
}

/// The value of `--code` that stands for standard input.
pub const FROM_INPUT: &str = "-";

/// What a plan needs to know beside the command line.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// NAT_CHECK_SERVER, if it is set.
    pub server: Option<&'a str>,
    /// The code from standard input where `--code -` asks for that, else NAT_CHECK_CODE, if it is set.
    pub code: Option<&'a str>,
}

impl PunchPlan {
    /// Checks and completes the command line.
    ///
    /// # Errors
    /// The first value that makes no sense.
    pub fn new(args: &PunchArgs, around: Around<'_>) -> Result<Self, UsageError> {
        let code = args.code.as_deref().filter(|code| *code != FROM_INPUT).or(around.code);
        let link = code.and_then(Link::read);
        // A link says where it leads; the user may know better.
        let linked = link.as_ref().map(|link| link.server.as_str());
        let given = args.server.as_deref().or(linked).or(around.server.filter(|server| !server.is_empty()));
        let value = given.ok_or(UsageError::NoRendezvous)?;
        let server = usage::server(value)?;
        let tls_port = link.as_ref().and_then(|link| link.tls_port).filter(|_| args.server.is_none());
        let code = link.as_ref().map(|link| link.code).or(code);
        let code = code.map(|code| parsed::<Code>("code", code)).transpose()?;
        let tls = args.tls.or(tls_port.filter(|_| !args.no_tls).map(Some)).map(|port| {
            // A port of STUN is no port of TLS, but says that the user wants no SRV.
            let at = port.or(server.port().map(|_| Service::Stuns.default_port()));
            TlsPlan { at: server.at_port(at), port, ca: args.ca.clone() }
        });
        let techniques = match args.techniques.as_slice() {
            [] => Technique::ATTEMPTS.to_vec(),
            named => named.iter().map(|name| parsed("techniques", name)).collect::<Result<_, _>>()?,
        };
        let setup = PunchSetup {
            code,
            wait: usage::seconds("wait", args.wait, 0.0, 600.0)?,
            hold: usage::seconds("hold", args.hold, 0.0, 3600.0)?,
            techniques,
            seed: args.seed,
            tls: if args.no_tls { UseTls::Never } else { UseTls::IfOffered(server.host()) },
            ..PunchSetup::default()
        };
        let format = match args.format.as_str() {
            _ if args.json => PunchFormat::Json,
            "json" => PunchFormat::Json,
            "html" => PunchFormat::Html,
            _ => PunchFormat::Table,
        };
        let verbosity = Verbosity::new(args.quiet, args.verbose);
        let proxy = args.proxy.as_deref().map(relay).transpose()?;
        Ok(Self { server, tls, proxy, setup, qr: args.qr, format, verbosity })
    }

    /// What the other machine has to be told before the code: how it finds the server.
    #[must_use]
    pub fn invitation(&self) -> String {
        self.invitation_to("punch")
    }

    /// The same for this command.
    pub(crate) fn invitation_to(&self, command: &str) -> String {
        let mut line = format!("nat-check {command} --server {}", self.server.given());
        if let Some(tls) = &self.tls {
            line += " --tls";
            line += &tls.port.map_or(String::new(), |port| format!("={port}"));
            line += &tls.ca.as_ref().map_or(String::new(), |file| format!(" --ca {}", quoted(file)));
        } else if matches!(self.setup.tls, UseTls::Never) {
            line += " --no-tls";
        }
        line
    }
}

/// A proxy that may relay datagrams.
fn relay(text: &str) -> Result<ProxyUrl, UsageError> {
    // The value may hold a password.
    let wrong = |why: &dyn Display| UsageError::value("proxy", ProxyUrl::redacted(text), why);
    let url = ProxyUrl::parse(text).map_err(|why| wrong(&why))?;
    match url.kind() {
        ProxyKind::Socks5 => Ok(url),
        _ => Err(wrong(&"only SOCKS5 relays datagrams")),
    }
}

/// The link of a server's page to a session: it says where the server is.
struct Link<'a> {
    /// Name or address, with the port of the rendezvous where TLS is not asked for.
    server: String,
    tls_port: Option<u16>,
    code: &'a str,
}

impl<'a> Link<'a> {
    /// Reads `https://probe.example.org:5349/p/CODE`, and the same over http.
    fn read(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (authority, code) = rest.split_once("/p/")?;
        let code = code.split(['?', '#']).next().unwrap_or(code).trim_end_matches('/');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
            _ => (authority, None),
        };
        match scheme {
            "https" => Some(Self { server: host.into(), tls_port: Some(port.unwrap_or(HTTPS)), code }),
            "http" => Some(Self { server: authority.into(), tls_port: None, code }),
            _ => None,
        }
    }
}

/// The port of https where a link names none.
const HTTPS: u16 = 443;

/// A path as a shell takes it.
fn quoted(path: &std::path::Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/._-+,:@%".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn parsed<T: FromStr<Err: Display>>(flag: &'static str, value: &str) -> Result<T, UsageError> {
    value.parse().map_err(|error| UsageError::value(flag, value, error))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn plan(argv: &[&str]) -> Result<PunchPlan, UsageError> {
        let argv = [&["nat-check", "punch"], argv].concat();
        let Some(Command::Punch(args)) = Args::try_parse_from(argv).unwrap().command else {
            panic!("no punch")
        };
        PunchPlan::new(&args, Around { server: None, code: None })
    }

    #[test]
    fn what_is_given_is_taken_and_what_is_wrong_is_named() {
        let given = [
            "--server",
            "probe.example",
            "--code",
            "TABO kiru lama dosu",
            "--techniques",
            "lan,tcp",
            "--wait=5",
        ];
        let made = plan(&given).unwrap();
        assert_eq!(made.setup.code.unwrap().to_string(), Code::EXAMPLE);
        assert_eq!(made.setup.techniques, [Technique::Lan, Technique::Tcp]);
        assert_eq!(made.setup.wait, Duration::from_secs(5));
        let wrong = |argv: &[&str]| plan(argv).unwrap_err().to_string();
        assert!(wrong(&[]).contains("--server"));
        assert!(wrong(&["--server", "x", "--code", "abc"]).contains("`abc`"));
        assert!(wrong(&["--server", "x", "--techniques", "magic"]).contains("`magic`"));
        assert!(wrong(&["--server", "x", "--hold", "1e9"]).contains("--hold"));
        assert!(wrong(&["--server", "x", "--wait=-1"]).contains("--wait"));
    }

    #[test]
    fn the_code_need_not_stand_on_the_command_line() {
        let made = |argv: &[&str], code| {
            let argv = [&["nat-check", "punch", "--server", "x"], argv].concat();
            let Some(Command::Punch(args)) = Args::try_parse_from(argv).unwrap().command else {
                panic!("no punch")
            };
            PunchPlan::new(&args, Around { server: None, code }).map(|plan| plan.setup.code)
        };
        let example: Code = Code::EXAMPLE.parse().unwrap();
        assert_eq!(made(&["--code", "-"], Some(Code::EXAMPLE)).unwrap(), Some(example), "standard input");
        assert_eq!(made(&[], Some(Code::EXAMPLE)).unwrap(), Some(example), "the environment");
        assert_eq!(made(&["--code", Code::EXAMPLE], None).unwrap(), Some(example));
        assert_eq!(made(&[], None).unwrap(), None);
        assert!(made(&["--code", "-"], Some("")).is_err(), "an empty line is no code");
    }

    #[test]
    fn a_link_says_where_the_server_is() {
        let of = |link: &str| plan(&["--code", link]).unwrap();
        let made = of("https://probe.example:5349/p/tabo-kiru-lama-dosu");
        assert_eq!(made.setup.code.unwrap().to_string(), Code::EXAMPLE);
        assert_eq!(
            (made.server.given(), made.tls.as_ref().unwrap().at.port()),
            ("probe.example", Some(5349))
        );
        assert_eq!(
            of("https://probe.example/p/tabo-kiru-lama-dosu?auto=1").tls.unwrap().at.port(),
            Some(443)
        );
        let made = of("http://[2001:db8::1]:3478/p/tabo-kiru-lama-dosu/");
        assert_eq!((made.server.given(), made.tls), ("[2001:db8::1]:3478", None));
        let made = plan(&["--server", "x", "--code", "https://y/p/tabo-kiru-lama-dosu"]).unwrap();
        assert_eq!((made.server.given(), made.tls), ("x", None), "the user knows better");
        assert!(plan(&["--code", "https://y/p/nonsense"]).is_err());
        assert!(plan(&["--code", "ftp://y/p/tabo-kiru-lama-dosu"]).is_err());
    }

    #[test]
    fn tls_has_a_port_of_its_own_and_the_invitation_says_it_all() {
        let made = |line: &str| plan(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let at = |line: &str| made(line).tls.unwrap().at.port();
        assert_eq!(made("--server probe.example").tls, None);
        assert_eq!(at("--server probe.example --tls"), None, "SRV decides");
        assert_eq!(at("--server probe.example:3479 --tls"), Some(5349));
        assert_eq!(at("--server probe.example --tls=444"), Some(444));
        assert_eq!(at("--server probe.example:3479 --tls=444"), Some(444));
        let told = |line: &str| made(line).invitation();
        assert_eq!(told("--server probe.example"), "nat-check punch --server probe.example");
        assert_eq!(told("--server x --no-tls"), "nat-check punch --server x --no-tls");
        assert!(matches!(made("--server x:5").setup.tls, UseTls::IfOffered(host) if host == "x"));
        assert_eq!(
            told("--server probe.example:3479 --tls=444 --ca /etc/my/ca.pem"),
            "nat-check punch --server probe.example:3479 --tls=444 --ca /etc/my/ca.pem"
        );
        assert_eq!(quoted(std::path::Path::new("my ca's.pem")), r"'my ca'\''s.pem'");
        let argv = ["nat-check", "punch", "--server", "x", "--ca", "f"];
        assert!(Args::try_parse_from(argv).is_err(), "--ca without --tls");
    }
}
