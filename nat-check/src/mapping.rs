//! `nat-check map`: keeps a port open at the gateway, has it tested from outside, says so, and closes it at the end.

use std::{net::SocketAddr, sync::Arc};

use nat_check::{
    args::MapArgs,
    map_plan::MapPlan,
    render::map,
    usage::{UsageError, Verbosity},
};
use nat_check_core::{
    net::{Net, os::OsNet},
    port_mapping::keep::{Event, KeepError, Kept, keep},
    resolve::{Query, ResolveError, Resolver},
    selection::Families,
};

use crate::{
    FAILED, SUCCESS,
    interruption::Interruption,
    output::{complain, log_to_stderr, print},
};

/// Keeps the port open and gives the exit code: 0 the time is over, 1 it was not opened, 130 or 143 interrupted.
///
/// # Errors
/// A command line that makes no sense, or a server whose name does not resolve.
pub(crate) fn run(args: &MapArgs) -> anyhow::Result<u8> {
    let server = std::env::var("NAT_CHECK_SERVER").ok();
    let plan = MapPlan::new(args, server.as_deref())?;
    log_to_stderr(plan.verbosity);
    let interruption = Interruption::watch();
    let ended = held(&plan, &interruption)?;
    if let Some(code) = interruption.end() {
        return Ok(code);
    }
    match ended {
        Ok(()) => Ok(SUCCESS),
        Err(error) => {
            complain(&error.to_string());
            Ok(FAILED)
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn held(plan: &MapPlan, interruption: &Interruption) -> Result<Result<(), KeepError>, anyhow::Error> {
    let server = match &plan.server {
        None => None,
        Some(query) => tokio::select! {
            biased;
            () = interruption.happens() => return Ok(Ok(())),
            found = look_up(query, plan.kept.over_ipv6) => found?,
        },
    };
    let kept = Kept { server, ..plan.kept.clone() };
    if server.is_none() && plan.verbosity > Verbosity::Quiet {
        complain(
            "no probe server is given (--server), so it is not tested whether the port is reached from outside",
        );
    }
    let net: Arc<dyn Net> = Arc::new(OsNet);
    let tell = |event: Event<'_>| {
        // Whoever closes the pipe wants the port to stay open all the same.
        let line = if plan.json { map::json(kept.port, &event) } else { map::sentence(kept.port, &event) };
        _ = print(&format!("{line}\n"));
    };
    Ok(keep(&net, &kept, &tell, interruption.flag()).await)
}

/// The server's address over this family.
async fn look_up(query: &Query, over_ipv6: bool) -> Result<Option<SocketAddr>, anyhow::Error> {
    let families = Families { v4: !over_ipv6, v6: over_ipv6 };
    let found: Result<_, ResolveError> =
        Resolver::system().resolve(query, families, &mut fastrand::Rng::with_seed(fastrand::u64(..))).await;
    let found = found?;
    let (address, lacks) = match over_ipv6 {
        true => (found.v6, "it has no IPv6 address"),
        false => (found.v4, "it has no IPv4 address"),
    };
    match address {
        Some(address) => Ok(Some(address)),
        None => Err(UsageError::value("server", query.given(), lacks).into()),
    }
}
