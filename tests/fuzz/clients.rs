//! The client, fuzzed: whatever a peer says to it in an attempt, and whatever a name server answers.

use nat_check_core::{punch, resolve};

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
