//! What the fuzzer holds the parts against that take a user's or a name server's word: servers as they are given, and
//! answers with SRV records.

use hickory_resolver::proto::{op::Message, rr::RData};

use super::{MAX_TARGETS, Query, candidates, in_order, records};

/// What is read as a server can be written again to the same.
pub fn queries(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(query) = Query::parse(text) else { return };
    let host = query.host();
    assert!(!host.is_empty() && !host.ends_with('.'), "{host}");
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let text = query.port().map_or(host.clone(), |port| format!("{host}:{port}"));
    let again = Query::parse(&text);
    assert_eq!(again.map(|again| (again.host(), again.port())), Ok((query.host(), query.port())), "{text}");
}

/// Whatever a name server answers, SRV records come in the order of their priorities, each once, and few of them are
/// followed, none to nowhere. The first byte is the seed of what chance decides.
pub fn answers(bytes: &[u8]) {
    let Some((seed, bytes)) = bytes.split_first() else { return };
    let Ok(message) = Message::from_vec(bytes) else { return };
    let mut rng = fastrand::Rng::with_seed((*seed).into());
    let services = records(&message.answers);
    assert!(services.len() == message.answers.iter().filter(|r| matches!(r.data, RData::SRV(_))).count());
    let ordered = in_order(services.clone(), &mut rng);
    assert!(ordered.is_sorted_by_key(|record| record.priority), "{ordered:?}");
    let sorted = |mut all: Vec<_>| {
        all.sort();
        all
    };
    let text = |all: &[_]| sorted(all.iter().map(|record| format!("{record:?}")).collect());
    assert_eq!(text(&ordered), text(&services));
    let followed = candidates(&message.answers, &mut rng);
    assert!(followed.len() <= MAX_TARGETS);
    assert!(followed.iter().all(|(name, port)| *port != 0 && name != "."), "{followed:?}");
}
