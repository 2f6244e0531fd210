//! Connections to a port that anybody in the Internet can reach: few are listened to at a time, so that strangers take neither
//! files nor memory of this host, nor the place of the server's.

use std::{collections::VecDeque, io};

use tokio::task::{AbortHandle, JoinSet};

use crate::net::{Listener, Stream};

/// Connections that may be listened to at a time. A further one takes the place of the oldest: what the server has to say comes
/// with the end of its handshake, so only who is silent is still here when so many have come after.
pub(super) const MOST: usize = 32;

/// Takes connections, and has each greeted, until no more can be taken.
pub(super) async fn take_each<F>(listener: &dyn Listener, greet: impl Fn(Box<dyn Stream>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut greetings = JoinSet::new();
    let mut in_order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = greetings.join_next() => in_order.retain(|greeting| !greeting.is_finished()),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if in_order.len() >= MOST {
                        in_order.pop_front().iter().for_each(AbortHandle::abort);
                    }
                    in_order.push_back(greetings.spawn(greet(stream)));
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => break,
            }
        }
    }
    while greetings.join_next().await.is_some() {}
}

/// Whether only the connection that was to be taken has ended: some systems tell the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}
