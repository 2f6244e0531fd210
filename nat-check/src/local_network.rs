//! `nat-check lan` as a program: measures, tells who is heard, prints the report.

use anyhow::Context;
use nat_check::{
    args::LanArgs,
    lan_plan::LanPlan,
    render::lan::table,
    terminal::{Terminal, style},
    usage::Verbosity,
};
use nat_check_core::lan::{LanError, LanNote, lan, report::LanDocument};

use crate::{
    SUCCESS,
    interruption::Interruption,
    output::{complain, log_to_stderr, print},
};

/// Looks at the local network and gives the exit code: 0, or 130 or 143 interrupted.
///
/// # Errors
/// A command line that makes no sense, no network, or a report that cannot be written.
pub(crate) fn run(args: &LanArgs) -> anyhow::Result<u8> {
    let plan = LanPlan::new(args)?;
    log_to_stderr(plan.verbosity);
    let interruption = Interruption::watch();
    let mut document = measure(&plan, &interruption)?;
    let interrupted = interruption.end();
    document.partial |= interrupted.is_some();
    let text = match plan.json {
        true => format!("{}\n", serde_json::to_string_pretty(&document).context("the report as JSON")?),
        false => table(&document, &style(plan.verbosity >= Verbosity::Evidence)),
    };
    print(&text)?;
    if let Some(code) = interrupted {
        complain("interrupted: the report is partial");
        return Ok(code);
    }
    Ok(SUCCESS)
}

#[tokio::main(flavor = "current_thread")]
async fn measure(plan: &LanPlan, interruption: &Interruption) -> Result<LanDocument, LanError> {
    let terminal = (plan.verbosity > Verbosity::Quiet).then(|| Terminal::new(false));
    let tell = |note: LanNote| {
        if let (LanNote::Neighbour(address), Some(terminal)) = (note, &terminal) {
            terminal.say(&format!("{address} is there and hears this host."));
        }
    };
    lan(&plan.setup, &tell, interruption.flag()).await
}
