//! Whether the server's other address was a stranger to the NAT. A filter that remembers for a whole host whom it has
//! sent to lets in what looks like a stranger, if an earlier run or another program has sent there lately.

use std::time::Duration;

use super::PURPOSE;
use crate::{
    observation::ObservationLog,
    probe::mapping::external_addresses,
    report::{Reason, ReasonCode},
};

/// No filter is known that remembers for longer (RFC 4787 REQ-5 asks for two minutes, the usual advice is five).
const LONG_ENOUGH: Duration = Duration::from_secs(600);

/// Why what was let in proves nothing: nobody vouches for it that nothing was sent to the other address lately. The
/// server's word for it (ALTERNATE-UNHEARD) counts for one external address.
pub(super) fn doubt(log: &ObservationLog) -> Option<Reason> {
    let unheard = log.of(PURPOSE).filter_map(|t| t.alternate_unheard).max();
    if external_addresses(log).len() < 2 && unheard >= Some(LONG_ENOUGH) {
        return None;
    }
    let known = match unheard {
        Some(time) => format!("the server can tell that for {} s only", time.as_secs()),
        None => "the server cannot tell".into(),
    };
    let text = format!(
        "it is not known that nobody here has sent to the server's other address lately ({known}), and some filters \
         remember that for the whole host: ask a server that this host has not talked to for ten minutes"
    );
    Some((ReasonCode::AlternateNotFresh, text).into())
}
