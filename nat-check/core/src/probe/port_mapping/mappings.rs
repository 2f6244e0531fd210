//! Opening and closing the ports under test. What may be open is kept in the session from before it is asked for until it is
//! known to be gone, so that every way out of a run can close it.

use std::{sync::Arc, time::Duration};

use shared::{
    port_mapping::{Protocol, Transport},
    ports::is_reflector,
};
use tokio::{task::JoinSet, time::timeout};

use super::Trial;
use crate::{
    observation::{
        SocketId,
        port_mapping::{AskedMapping, Deletion, Opened},
    },
    port_mapping::{MappingError, Wish, is_conflict},
    session::{OpenMapping, Session},
};

/// How long a mapping lives that nobody closes: the shortest that gateways should grant (RFC 6887 section 15).
const LIFETIME: Duration = Duration::from_secs(120);
/// How often UPnP is asked for a port that somebody else has not.
const TRIES: usize = 3;
/// External ports that are asked for.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// How long closing may take where the run is ended from outside: UPnP takes two questions, each over a connection.
const LAST_WORDS: Duration = Duration::from_secs(4);

/// Asks for a mapping and enters what comes of it.
pub(super) async fn open(
    trial: &Trial,
    transport: Transport,
    internal: u16,
    socket: Option<SocketId>,
) -> Option<Opened> {
    let Trial { session, client, number } = trial;
    trial.note(|attempt| {
        attempt.mappings.push(AskedMapping { transport, internal, socket, answer: None, deletion: None });
    });
    let mut answer = Err(MappingError::NoAnswer);
    for _ in 0..TRIES {
        let wish = Wish {
            transport,
            internal,
            external: if session.local_ip().is_ipv4() { another_port(session, internal) } else { internal },
            lifetime: LIFETIME,
            nonce: session.nonce()?,
        };
        let mapping = OpenMapping { attempt: *number, client: client.clone(), wish, is_granted: false };
        session.open_mappings(|open| open.push(mapping));
        answer = client.map(&wish).await;
        match &answer {
            Err(MappingError::Refused(code)) => {
                forget(session, *number, transport);
                if client.protocol() != Protocol::Upnp || !is_conflict(code) {
                    break;
                }
            }
            // A request whose answer got lost may have been obeyed.
            Ok(_) | Err(_) => break,
        }
    }
    let granted = answer.as_ref().ok().copied();
    if let Some(granted) = granted {
        // What is closed is what was granted, which may be another port than was asked for.
        session.open_mappings(|open| {
            let of_it = |it: &&mut OpenMapping| it.attempt == *number && it.wish.transport == transport;
            if let Some(it) = open.iter_mut().find(of_it) {
                (it.wish.external, it.is_granted) = (granted.external, true);
            }
        });
    }
    let opened = granted.map(|granted| Opened { external: granted.external, lifetime: granted.lifetime });
    trial.note(|attempt| {
        if let Some(address) = granted.and_then(|granted| granted.external_address) {
            attempt.external_address = Some(address);
        }
        if let Some(mapping) = attempt.mappings.iter_mut().find(|mapping| mapping.transport == transport) {
            mapping.answer = Some(match (opened, answer) {
                (Some(opened), _) => Ok(opened),
                (None, Err(error)) => Err(error.to_string()),
                (None, Ok(_)) => return,
            });
        }
    });
    if granted.is_none() {
        close(trial, transport).await;
    }
    opened
}

/// Ends the mapping of this transport, if it may be there, and enters what comes of it.
pub(super) async fn close(trial: &Trial, transport: Transport) {
    let mapping = trial.session.open_mappings(|open| {
        open.iter().find(|it| it.attempt == trial.number && it.wish.transport == transport).cloned()
    });
    let Some(mapping) = mapping else { return };
    let deletion = end(&mapping).await;
    if matches!(deletion, Deletion::Confirmed { listed: None | Some(false) }) {
        forget(&trial.session, trial.number, transport);
    }
    trial.note_deletion(transport, deletion);
}

/// Ends whatever is open still: the run was ended from outside, or a step broke off.
pub(crate) async fn close_all(session: &Arc<Session>) {
    let open = session.open_mappings(std::mem::take);
    let mut ending = JoinSet::new();
    for mapping in open {
        ending.spawn(async move {
            let deletion = end(&mapping).await;
            (mapping, deletion)
        });
    }
    let all = async {
        while let Some(ended) = ending.join_next().await {
            let Ok((mapping, deletion)) = ended else { continue };
            session.note_port_mapping(|log| {
                let mappings = log.attempts.get_mut(mapping.attempt).map(|attempt| &mut attempt.mappings);
                let of_it = |it: &&mut AskedMapping| it.transport == mapping.wish.transport;
                if let Some(it) = mappings.and_then(|mappings| mappings.iter_mut().find(of_it)) {
                    it.deletion = Some(deletion);
                }
            });
        }
    };
    // What takes longer ends by itself.
    _ = timeout(LAST_WORDS, all).await;
}

async fn end(mapping: &OpenMapping) -> Deletion {
    let OpenMapping { client, wish, is_granted, .. } = mapping;
    let ended = if *is_granted { client.unmap(wish).await } else { client.unmap_if_made(wish).await };
    match ended {
        Ok(()) => Deletion::Confirmed { listed: mapping.client.is_listed(&mapping.wish).await },
        Err(error) => Deletion::Failed(error.to_string()),
    }
}

fn forget(session: &Session, attempt: usize, transport: Transport) {
    session.open_mappings(|open| {
        open.retain(|it| it.attempt != attempt || it.wish.transport != transport);
    });
}

/// An external port that is not the internal one, so that what leaves from there shows whether it uses the mapping.
fn another_port(session: &Session, internal: u16) -> u16 {
    loop {
        let port = session.choice(PORTS);
        if port != internal && !is_reflector(port) {
            return port;
        }
    }
}
