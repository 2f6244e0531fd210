//! `nat-check room` as a program: looks the server up, tells a person what happens, prints the matrix.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use nat_check::{
    args::RoomArgs,
    render::room::table,
    room_plan::RoomPlan,
    terminal::{Terminal, style, tell},
    usage::Verbosity,
};
use nat_check_core::{
    net::os::OsNet,
    progress::{Progress, Silent},
    punch::room::{
        RoomAudience, RoomNote, RoomSetup, interrupted,
        report::{PairOutcome, RoomDocument},
        room,
    },
};

use tokio::time::Instant;

use crate::{
    SUCCESS, UNMET,
    interruption::Interruption,
    output::{complain, log_to_stderr, print},
    punching::look_up,
};

/// Takes part in a room and gives the exit code: 0 all pairs are direct, 1 not all, 130 or 143 interrupted.
///
/// # Errors
/// A command line that makes no sense, no server, nobody else, or a report that cannot be written.
pub(crate) fn run(args: &RoomArgs) -> anyhow::Result<u8> {
    let server = std::env::var("NAT_CHECK_SERVER").ok();
    let plan = RoomPlan::new(args, server.as_deref())?;
    log_to_stderr(plan.punch.verbosity);
    let interruption = Interruption::watch();
    let mut document = take_part(&plan, &interruption)?;
    let interrupted = interruption.end();
    document.partial |= interrupted.is_some();
    let text = match plan.is_json() {
        true => format!("{}\n", serde_json::to_string_pretty(&document).context("the report as JSON")?),
        false => table(&document, &style(false)),
    };
    print(&text)?;
    if let Some(code) = interrupted {
        complain("interrupted: the report is partial");
        return Ok(code);
    }
    let mut outcomes = document.room.pairs.iter().map(|pair| pair.outcome);
    let is_complete = !document.partial && outcomes.all(|outcome| outcome == PairOutcome::Direct);
    Ok(if is_complete { SUCCESS } else { UNMET })
}

#[tokio::main(flavor = "current_thread")]
async fn take_part(plan: &RoomPlan, interruption: &Interruption) -> anyhow::Result<RoomDocument> {
    let (punch, target) = tokio::select! {
        biased;
        () = interruption.happens() => return Ok(interrupted()),
        found = look_up(&plan.punch) => found?,
    };
    let setup = RoomSetup { punch, ..plan.setup.clone() };
    let verbosity = plan.punch.verbosity;
    let terminal = (verbosity > Verbosity::Quiet).then(|| Terminal::new(verbosity > Verbosity::Normal));
    let progress: &dyn Progress = terminal.as_ref().map_or(&Silent, |terminal| terminal);
    let teller = Teller { plan, terminal: terminal.as_ref(), told: Mutex::new(None) };
    Ok(room(&setup, Arc::new(OsNet), &target, progress, &teller, interruption.flag()).await?)
}

/// Tells what happens on standard error.
struct Teller<'a> {
    plan: &'a RoomPlan,
    /// None = nothing is told but what others need.
    terminal: Option<&'a Terminal>,
    /// How far it was when that was told last, and when.
    told: Mutex<Option<((usize, usize), Instant)>>,
}

/// Between two lines that say how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

impl RoomAudience for Teller<'_> {
    fn note(&self, note: RoomNote<'_>) {
        let line = match note {
            // Nothing works without it, however quiet.
            RoomNote::Entered { room, you } => {
                let invitation = self.plan.invitation(room);
                let line =
                    format!("room: {room}\nThis is member {you}. On the other machines run: {invitation}");
                return self.terminal.map_or_else(|| tell(&line), |terminal| terminal.say(&line));
            }
            RoomNote::Warning(warning) => format!("Note before it starts: {warning}."),
            RoomNote::Progress { members: 0 | 1, .. } => return,
            RoomNote::Progress { members, settled, pairs } => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                let (now, far) = (Instant::now(), (members, settled));
                let is_soon = |((before, _), at)| before == members && now < at + PROGRESS_INTERVAL;
                if told.is_some_and(|told| told.0 == far || is_soon(told)) {
                    return;
                }
                *told = Some((far, now));
                format!("{members} members, {settled} of {pairs} pairs settled.")
            }
        };
        if let Some(terminal) = self.terminal {
            terminal.say(&line);
        }
    }
}
