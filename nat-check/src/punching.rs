//! `nat-check punch` as a program: looks the server up, tells a person what happens, prints the report.

use std::{
    io::{BufRead, IsTerminal, Read},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, anyhow};
use nat_check::{
    args::PunchArgs,
    punch_plan::{Around, FROM_INPUT, PunchFormat, PunchPlan},
    qr,
    render::{html, punch::table},
    terminal::{Terminal, style, tell},
    usage::{UsageError, Verbosity},
};
use nat_check_core::{
    net::{Net, os::OsNet},
    progress::{Progress, Silent},
    proxy::{Proxy, ProxyNet},
    punch::{
        Audience, Note, PunchSetup, interrupted, punch,
        report::{PunchDocument, PunchOutcome},
        secure::{Secure, Trust, UseTls},
    },
    resolve::{Resolver, Service},
    selection::Families,
    target::Target,
};

use crate::{
    SUCCESS, UNMET,
    interruption::Interruption,
    output::{complain, log_to_stderr, print},
    proxies,
};

/// Punches and gives the exit code: 0 direct, 1 failed, 130 or 143 interrupted.
///
/// # Errors
/// A command line that makes no sense, no server, no peer, or a report that cannot be written.
pub(crate) fn run(args: &PunchArgs) -> anyhow::Result<u8> {
    let server = std::env::var("NAT_CHECK_SERVER").ok();
    let code = match args.code.as_deref() {
        Some(FROM_INPUT) => Some(line_of_input().context("--code -")?),
        Some(_) => None,
        None => std::env::var("NAT_CHECK_CODE").ok().filter(|code| !code.is_empty()),
    };
    let plan = PunchPlan::new(args, Around { server: server.as_deref(), code: code.as_deref() })?;
    log_to_stderr(plan.verbosity);
    let interruption = Interruption::watch();
    let mut document = attempt(&plan, &interruption)?;
    let interrupted = interruption.end();
    document.partial |= interrupted.is_some();
    let text = match plan.format {
        PunchFormat::Table => table(&document, &style(plan.verbosity >= Verbosity::Evidence)),
        PunchFormat::Json => {
            format!("{}\n", serde_json::to_string_pretty(&document).context("the report as JSON")?)
        }
        PunchFormat::Html => html::punch(&document),
    };
    print(&text)?;
    if let Some(code) = interrupted {
        complain("interrupted: the report is partial");
        return Ok(code);
    }
    Ok(match document.punch.outcome {
        PunchOutcome::Direct => SUCCESS,
        PunchOutcome::Failed | PunchOutcome::Unknown => UNMET,
    })
}

/// The first line of standard input, as far as it can be a code.
fn line_of_input() -> std::io::Result<String> {
    let mut line = String::new();
    std::io::stdin().lock().take(LONGEST_CODE).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Longer than any code, in bytes.
const LONGEST_CODE: u64 = 128;

#[tokio::main(flavor = "current_thread")]
async fn attempt(plan: &PunchPlan, interruption: &Interruption) -> anyhow::Result<PunchDocument> {
    let (setup, target) = tokio::select! {
        biased;
        () = interruption.happens() => return Ok(interrupted(&plan.setup)),
        found = look_up(plan) => found?,
    };
    let terminal =
        (plan.verbosity > Verbosity::Quiet).then(|| Terminal::new(plan.verbosity > Verbosity::Normal));
    let progress: &dyn Progress = terminal.as_ref().map_or(&Silent, |terminal| terminal);
    let teller = Teller {
        invitation: plan.invitation(),
        qr_columns: qr_columns(plan),
        terminal: terminal.as_ref(),
        // A line that is written anew every second would fill a log.
        waiting: Mutex::new(if std::io::stderr().is_terminal() { None } else { Some(Duration::MAX) }),
    };
    let net = network(plan).await?;
    Ok(punch(&setup, net, &target, progress, &teller, interruption.flag()).await?)
}

/// The network of this machine, or what is behind the proxy.
async fn network(plan: &PunchPlan) -> anyhow::Result<Arc<dyn Net>> {
    let Some(url) = &plan.proxy else { return Ok(Arc::new(OsNet)) };
    let at = proxies::find(url, Families { v4: true, v6: true })
        .await
        .map_err(|why| anyhow!("--proxy {url}: {why}"))?;
    let proxy = Proxy { kind: url.kind(), at, credentials: url.credentials().cloned(), local: None };
    Ok(Arc::new(ProxyNet::new(proxy, Arc::new(OsNet))))
}

/// How wide a QR code may be: as the terminal, where there is one or the user asks for it.
fn qr_columns(plan: &PunchPlan) -> Option<usize> {
    let is_seen = std::io::stderr().is_terminal() && plan.verbosity > Verbosity::Quiet;
    (plan.qr || is_seen).then(|| style(false).width.into())
}

/// Where the server is, and how it is reached over TLS.
pub(crate) async fn look_up(plan: &PunchPlan) -> anyhow::Result<(PunchSetup, Target)> {
    let mut rng = fastrand::Rng::with_seed(plan.setup.seed.unwrap_or_else(|| fastrand::u64(..)));
    let families = Families { v4: true, v6: true };
    let mut setup = plan.setup.clone();
    let trust = |ca: &Option<PathBuf>| ca.as_deref().map_or_else(Trust::system, Trust::file);
    let trust = plan.tls.as_ref().map(|tls| trust(&tls.ca)).transpose().map_err(UsageError::from)?;
    let resolver = Resolver::system();
    let target = resolver.resolve(&plan.server, families, &mut rng).await?;
    if let Some((tls, trust)) = plan.tls.as_ref().zip(trust) {
        let at = resolver.find(Service::Stuns, &tls.at, families, &mut rng).await?;
        let secure = Secure::new(&tls.at.host(), at, trust).map_err(UsageError::from)?;
        setup.tls = UseTls::Always(secure);
    }
    Ok((setup, target))
}

/// Tells what happens on standard error.
struct Teller<'a> {
    /// What the other machine has to run, up to the code.
    invitation: String,
    /// How wide a QR code may be; none = it is not shown.
    qr_columns: Option<usize>,
    /// None = nothing is told but what the peer needs.
    terminal: Option<&'a Terminal>,
    /// When it was told last how long the peer is waited for, where that needs lines.
    waiting: Mutex<Option<Duration>>,
}

/// Between two lines that say that nobody has come yet.
const REMINDER_INTERVAL: Duration = Duration::from_secs(10);

impl Audience for Teller<'_> {
    fn note(&self, note: Note<'_>) {
        let line = match note {
            // Nothing works without it, however quiet.
            Note::Code(code) => {
                let line =
                    format!("code: {code}\nOn the other machine run: {} --code {code}", self.invitation);
                return self.terminal.map_or_else(|| tell(&line), |terminal| terminal.say(&line));
            }
            Note::Link(link) => {
                let drawn = self.qr_columns.and_then(|columns| qr::code(link, columns));
                let drawn = drawn.map_or(String::new(), |drawn| format!("\n{drawn}"));
                let line = format!("Or open in a browser: {link}{drawn}");
                return self.terminal.map_or_else(|| tell(&line), |terminal| terminal.say(&line));
            }
            Note::Waiting { left } => {
                let mut told = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                if !told.is_some_and(|told| told.saturating_sub(left) >= REMINDER_INTERVAL) {
                    return;
                }
                *told = Some(left);
                format!("Waiting for the peer, {:.0} s left.", left.as_secs_f64())
            }
            Note::Met => "The peer is here.".to_owned(),
            Note::Predicted(predicted) => {
                let chance =
                    predicted.probability.map_or("unknown".into(), |p| format!("{:.1} %", p * 100.0));
                let assumed = if predicted.assumed { ", assumed" } else { "" };
                format!("Predicted: chance of a direct path {chance}{assumed}: {}.", predicted.why)
            }
            Note::Round { number, of, technique, about } => {
                format!("Round {number} of at most {of}: {technique}: {about}.")
            }
            Note::Warning(warning) => format!("Note before it starts: {warning}."),
            Note::Through(technique) => format!("Connected using {technique}; keeping the path open."),
        };
        if let Some(terminal) = self.terminal {
            terminal.say(&line);
        }
    }
}
