//! The client, fuzzed: whatever a peer says to it in an attempt, whatever a name server answers, and whatever hosts of the local network
//! send.

use nat_check_core::{lan, punch, resolve};

/// The first bit chooses: messages of the peer that come through the server, or its datagrams in a round.
pub(crate) fn punch(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    if choice & 1 == 0 {
        return punch::fuzz::messages(bytes);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(punch::fuzz::datagrams(bytes));
}

/// The first bit chooses: an answer of a name server, or a server as a user gives it.
pub(crate) fn srv(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice & 1 {
        0 => resolve::fuzz::answers(bytes),
        _ => resolve::fuzz::queries(bytes),
    }
}

/// Hosts of the local network, which may send anything in anybody's name.
pub(crate) fn lan(bytes: &[u8]) {
    lan::fuzz::beacons(bytes);
}
