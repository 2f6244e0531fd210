//! Which keys of the configuration a reload cannot change.

use crate::config::Config;

/// The names of the keys that differ and need a restart.
pub(super) fn needed_for(old: &Config, new: &Config) -> Vec<&'static str> {
    let primary = |config: &Config| config.families.iter().map(|f| f.primary).collect::<Vec<_>>();
    let alternate = |config: &Config| config.families.iter().map(|f| f.alternate).collect::<Vec<_>>();
    let tls = |config: &Config| config.tls.as_ref().map_or((0, 0), |tls| tls.ports);
    let page = |config: &Config| config.page.as_ref().map_or((0, 0), |page| page.ports);
    let (mine, its) = (old.rendezvous.unwrap_or_default(), new.rendezvous.unwrap_or_default());
    let (my_tests, its_tests) =
        (old.test_sessions.unwrap_or_default(), new.test_sessions.unwrap_or_default());
    [
        ("primary", primary(old) != primary(new)),
        ("alternate", alternate(old) != alternate(new)),
        ("advertise", old.families != new.families && old.advertise != new.advertise),
        ("port", old.ports.0 != new.ports.0),
        ("alternate-port", old.ports.1 != new.ports.1),
        ("bogon-sources", old.bogon_sources != new.bogon_sources),
        ("unused-before", old.unused_before != new.unused_before),
        ("workers", old.workers != new.workers),
        ("batch", old.batch != new.batch),
        ("no-tcp", old.tcp != new.tcp),
        ("tls-port", tls(old).0 != tls(new).0),
        ("tls-alternate-port", tls(old).1 != tls(new).1),
        ("no-rendezvous", old.rendezvous.is_some() != new.rendezvous.is_some()),
        ("max-sessions", mine.sessions != its.sessions),
        ("max-sessions-per-host", mine.per_host != its.per_host),
        ("max-sessions-per-net", mine.per_net != its.per_net),
        ("max-rooms", mine.rooms != its.rooms),
        ("no-test-sessions", old.test_sessions.is_some() != new.test_sessions.is_some()),
        ("max-test-sessions", my_tests.sessions != its_tests.sessions),
        ("test-hold", my_tests.hold != its_tests.hold),
        ("no-page", old.page.is_some() != new.page.is_some()),
        ("page-port", page(old).0 != page(new).0),
        ("page-alternate-port", page(old).1 != page(new).1),
        ("check", old.check != new.check),
        ("admin", old.admin != new.admin),
        ("drain", old.drain != new.drain),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}
