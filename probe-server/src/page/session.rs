//! One measurement of a browser, pure: datagrams, messages and time in, datagrams and messages out.
//!
//! The server is the browser's ICE peer (RFC 8445) in the controlled role. Its order matters:
//!
//! 1. *Contact*: the browser knows one endpoint in each family, and checks it. Those checks are not answered: a browser
//!    that is answered nominates a pair and stops to check others.
//! 2. *Proof*: a check of our own goes back, at most one for each that came and no longer than it. Only when the browser
//!    has answered, with the password that it gave over the WebSocket, is anything else sent to that address.
//! 3. *Filtering*: checks from all four endpoints to that socket, which has sent to one of them.
//! 4. *Mapping*: another connection, hence another socket, is told all four endpoints, and the server notes under which
//!    address it is seen at each. Then the first one is told the other three as well: another address there is the effect
//!    of packets that came in first. Further connections show how ports are chosen.
//!
//! One connection is answered from the beginning, so that the browser learns its external address there: its statistics
//! then say whether that is its own.

use std::{net::SocketAddr, time::Duration};

use ring::hmac;
use shared::{
    html::Language,
    stun::{
        Class, TransactionId, View,
        ice::{self, Credentials, MAX_CHECK},
    },
};

use super::{
    filter_test::FilterTest,
    message::{Base, CONNECTIONS, FromPage, HairpinState, LocalType, MAX_BASES, Pair, Step, ToPage},
    observed::{Connection, Observed, Path, Seen},
};
use crate::{last_heard::Unheard, topology::Endpoint};

/// Datagrams that one session sends at most.
const MAX_SENT: u32 = 150;
/// How long a session lasts at most.
pub(crate) const LONGEST: Duration = Duration::from_millis(9500);
/// When no check of a family has come by then, none is waited for any more.
const CONTACT_TIMEOUT: Duration = Duration::from_millis(2500);
/// The same where the other family has been measured already.
const OTHER_FAMILY_TIMEOUT: Duration = Duration::from_millis(700);
/// How long a browser that was heard may take to prove its address.
const PROOF_TIMEOUT: Duration = Duration::from_millis(2500);
/// How long is waited for what the mapping needs.
const MAPPING_TIMEOUT: Duration = Duration::from_millis(2500);
/// Rounds of the filter test over one family alone, and over each of two.
const ROUNDS: (u32, u32) = (22, 11);

/// The connection whose filter is tested.
const FILTERING: usize = 0;
/// The connection that shows the mapping.
const MAPPING: usize = 1;
/// The connection that is answered over the first family; the next one is over the second. Each knows one family only: a
/// browser that has an answer over one stops to check the other.
const ANSWERED: usize = 2;

/// A datagram that is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Transmit {
    pub family: usize,
    pub from: Endpoint,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

/// A datagram that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub family: usize,
    pub at: Endpoint,
    pub from: SocketAddr,
    pub bytes: &'a [u8],
    /// For how long nothing from this host has come to the server's other address.
    pub unheard: Unheard,
}

/// The page said what makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page said what makes no sense")]
pub(crate) struct Nonsense;

/// One measurement.
#[derive(Debug)]
pub(crate) struct Session {
    tag: u32,
    random: Random,
    tie_breaker: u64,
    /// The page's endpoints, as the browser reaches them, by family.
    endpoints: Vec<[Option<SocketAddr>; 4]>,
    own: Vec<Credentials>,
    stage: Stage,
    observed: Observed,
    sent: u32,
    language: Language,
    transmits: Vec<Transmit>,
    told: Vec<ToPage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Filtering,
    Mapping { since: Duration },
    Over,
}

impl Session {
    /// A session that begins at `now`. The tag tells it from all others of the server; everything that must not be guessed
    /// follows from the secret.
    pub(crate) fn new(
        tag: u32,
        secret: &[u8; 32],
        endpoints: Vec<[Option<SocketAddr>; 4]>,
        stun: Vec<String>,
        now: Duration,
    ) -> Self {
        let mut random = Random::new(secret);
        let own = (0..CONNECTIONS)
            .map(|number| Credentials { ufrag: format!("{tag:08x}{number}"), password: random.hex() })
            .collect();
        let tie_breaker = random.u64();
        // Without an alternate address there is nobody whom the browser has not contacted.
        let rounds =
            |ends: &[Option<SocketAddr>; 4]| if ends.iter().all(Option::is_some) { ROUNDS.0 } else { 0 };
        let paths = endpoints.iter().map(|ends| Path::new(*ends, FilterTest::new(rounds(ends)))).collect();
        let observed = Observed::new(paths, now);
        let told =
            vec![ToPage::Begin { connections: CONNECTIONS, stun }, ToPage::Step { step: Step::Contact }];
        let (stage, transmits) = (Stage::Filtering, Vec::new());
        Self {
            tag,
            random,
            tie_breaker,
            endpoints,
            own,
            stage,
            observed,
            sent: 0,
            language: Language::English,
            transmits,
            told,
        }
    }

    /// The session that a datagram is meant for: the first eight digits of our fragment, or of the transaction id.
    pub(crate) fn tag_of(view: &View<'_>) -> Option<u32> {
        match view.class() {
            Class::Request => u32::from_str_radix(ice::username(view)?.0.get(..8)?, 16).ok(),
            Class::Success => view.id().0[4..8].try_into().ok().map(u32::from_be_bytes),
            Class::Indication | Class::Error => None,
        }
    }

    /// Takes a message of the page.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(crate) fn message(&mut self, message: FromPage, now: Duration) -> Result<(), Nonsense> {
        match message {
            FromPage::Chinese => self.language = Language::Chinese,
            FromPage::Offer { connection, ufrag, password } => {
                let browser = Credentials { ufrag, password };
                let place = self.observed.connections.get_mut(connection).ok_or(Nonsense)?;
                if place.browser.is_some() || !browser.are_valid() {
                    return Err(Nonsense);
                }
                place.browser = Some(browser);
                if self.is_answered_at_once(connection) || self.stage != Stage::Filtering {
                    self.answer(connection);
                }
            }
            FromPage::Gathered { connection, bases } => {
                let place = self.observed.connections.get_mut(connection).ok_or(Nonsense)?;
                place.bases = bases.into_iter().take(MAX_BASES).collect::<Vec<Base>>();
                place.gathered = true;
            }
            FromPage::Ready => {
                self.observed.ready.get_or_insert(now);
            }
            FromPage::Pairs { pairs } => {
                for Pair { remote, local } in pairs {
                    let of =
                        |ends: &[Option<SocketAddr>; 4]| ends.iter().flatten().any(|at| at.ip() == remote);
                    let family = self.endpoints.iter().position(of).ok_or(Nonsense)?;
                    let is_translated = match local {
                        LocalType::Host => false,
                        LocalType::Prflx | LocalType::Srflx => true,
                        LocalType::Relay => continue,
                    };
                    self.observed.paths[family].translated.get_or_insert(is_translated);
                }
            }
            FromPage::Hairpin { state } => {
                // The browser may say that it is connected before it says that it tries.
                if !matches!(self.observed.hairpin, Some((HairpinState::Connected, _))) {
                    self.observed.hairpin = Some((state, now));
                }
            }
        }
        Ok(())
    }

    /// Takes a datagram. What is not authentic changes nothing and is answered with nothing.
    pub(crate) fn datagram(&mut self, received: Received<'_>, now: Duration) {
        let Ok(view) = View::parse(received.bytes) else { return };
        match view.class() {
            Class::Request => self.request(&view, received, now),
            Class::Success => self.response(&view, received, now),
            Class::Indication | Class::Error => {}
        }
    }

    fn request(&mut self, view: &View<'_>, received: Received<'_>, now: Duration) {
        let Received { family, at, from, bytes, unheard } = received;
        let Some((ours, theirs)) = ice::username(view) else { return };
        let Some(number) = self.own.iter().position(|own| own.ufrag == ours) else { return };
        let Some(browser) = self.observed.connections[number].browser.clone() else { return };
        let password = self.own[number].password.clone();
        if browser.ufrag != theirs || !ice::is_authentic(view, &password) {
            return;
        }
        let Some(priority) = ice::priority(view) else { return };
        let seen = Seen { from, tag: priority & 0x00ff_ffff, at: now };
        self.observed.connections[number].see(family, at, seen);
        if number == FILTERING && at == Endpoint::Primary {
            let path = &mut self.observed.paths[family];
            let client = *path.client.get_or_insert((seen, unheard));
            let is_same = client.0.from == from && client.0.tag == seen.tag;
            if is_same && !path.filter.is_proven() {
                self.check(family, Endpoint::Primary, from, &browser, bytes.len(), now);
            }
        }
        if number == ANSWERED + family && at == Endpoint::Primary {
            let mut buffer = [0; MAX_CHECK];
            let written = ice::write_response(&mut buffer, &view.id(), from, &password);
            if let Ok(length) = written
                && length <= bytes.len()
            {
                self.transmit(Transmit { family, from: at, to: from, bytes: buffer[..length].to_vec() });
            }
        }
    }

    fn response(&mut self, view: &View<'_>, received: Received<'_>, now: Duration) {
        let Some(browser) = &self.observed.connections[FILTERING].browser else { return };
        if !ice::is_authentic(view, &browser.password) {
            return;
        }
        let Some(path) = self.observed.paths.get_mut(received.family) else { return };
        // Only the address that the check was sent to can prove itself. Later answers may come through another mapping.
        let is_client = path.client.is_some_and(|(seen, _)| seen.from == received.from);
        if path.filter.is_proven() || is_client {
            path.filter.answered(view.id(), now);
        }
    }

    /// Does what is due.
    pub(crate) fn advance(&mut self, now: Duration) {
        if self.stage == Stage::Filtering {
            self.filter_rounds(now);
            if self.is_filtering_over(now) {
                self.begin_mapping(now);
            }
        }
        if let Stage::Mapping { since } = self.stage
            && (now >= since + MAPPING_TIMEOUT || self.observed.is_complete(now))
        {
            self.stage = Stage::Over;
        }
        if now >= self.observed.started + LONGEST {
            self.stage = Stage::Over;
        }
        if self.stage == Stage::Over {
            self.observed.ended = now;
        }
    }

    /// When [`Session::advance`] is to be called again, if nothing comes before.
    pub(crate) fn deadline(&self, now: Duration) -> Duration {
        let due: Vec<Duration> = match self.stage {
            Stage::Filtering => {
                let rounds = self.observed.paths.iter().filter_map(|path| path.filter.deadline());
                let contact = [OTHER_FAMILY_TIMEOUT, CONTACT_TIMEOUT]
                    .into_iter()
                    .filter_map(|timeout| Some(self.observed.ready? + timeout));
                let proof =
                    self.observed.paths.iter().filter_map(|path| Some(path.client?.0.at + PROOF_TIMEOUT));
                contact.chain(proof).chain(rounds).collect()
            }
            Stage::Mapping { since } => {
                [since + MAPPING_TIMEOUT].into_iter().chain(self.observed.hairpin_deadline()).collect()
            }
            Stage::Over => Vec::new(),
        };
        // What was due before has been done, or cannot be.
        let next = due.into_iter().filter(|at| *at > now).min();
        next.unwrap_or(Duration::MAX).min(self.observed.started + LONGEST)
    }

    /// What is to be sent now.
    pub(crate) fn transmits(&mut self) -> Vec<Transmit> {
        std::mem::take(&mut self.transmits)
    }

    /// What is to be told to the page now.
    pub(crate) fn told(&mut self) -> Vec<ToPage> {
        std::mem::take(&mut self.told)
    }

    /// The language of the reader.
    pub(crate) const fn language(&self) -> Language {
        self.language
    }

    /// What was observed, when the measurement is over.
    pub(crate) fn outcome(&self) -> Option<&Observed> {
        (self.stage == Stage::Over).then_some(&self.observed)
    }

    fn filter_rounds(&mut self, now: Duration) {
        let heard = self.observed.paths.iter().filter(|path| path.client.is_some()).count();
        for family in 0..self.observed.paths.len() {
            let path = &mut self.observed.paths[family];
            if heard > 1 {
                path.filter.limit(ROUNDS.1);
            }
            let Some((client, _)) = path.client else { continue };
            let Some(browser) = self.observed.connections[FILTERING].browser.clone() else { return };
            let Some(round) = path.filter.round(now) else { continue };
            if !path.told {
                path.told = true;
                self.told.push(ToPage::Step { step: Step::Filtering });
            }
            for from in round {
                self.check(family, from, client.from, &browser, usize::MAX, now);
            }
        }
    }

    /// Whether each family has been tested, or has not been heard of for long enough.
    fn is_filtering_over(&self, now: Duration) -> bool {
        let any_over = self.observed.paths.iter().any(|path| path.filter.is_over(now));
        let timeout = if any_over { OTHER_FAMILY_TIMEOUT } else { CONTACT_TIMEOUT };
        // A busy browser may take long to begin.
        let late = self.observed.ready.is_some_and(|ready| now >= ready + timeout);
        let is_over = |path: &Path| match path.client {
            Some(_) if path.filter.is_proven() => path.filter.is_over(now),
            Some((seen, _)) => now >= seen.at + PROOF_TIMEOUT,
            None => late,
        };
        self.observed.connections[FILTERING].browser.is_some() && self.observed.paths.iter().all(is_over)
    }

    fn begin_mapping(&mut self, now: Duration) {
        for path in &mut self.observed.paths {
            path.found = path.filter.is_proven().then(|| path.filter.conclude(now));
        }
        // Without a family that was heard there is nothing more to be learnt from checks; the hairpin connections may
        // still tell whether UDP passes at all.
        self.stage = Stage::Mapping { since: now };
        self.observed.mapping_since = Some(now);
        self.told.push(ToPage::Step { step: Step::Mapping });
        for connection in 0..CONNECTIONS {
            let has_come = self.observed.connections[connection].browser.is_some();
            if has_come && !self.is_answered_at_once(connection) {
                self.answer(connection);
            }
        }
        let candidates = self.candidates(&Endpoint::ALL[1..], None);
        self.told.push(ToPage::Candidates { connection: FILTERING, candidates });
    }

    fn answer(&mut self, connection: usize) {
        let endpoints = if connection == MAPPING { &Endpoint::ALL[..] } else { &Endpoint::ALL[..1] };
        let family = connection.checked_sub(ANSWERED).filter(|family| *family < self.endpoints.len());
        let candidates = self.candidates(endpoints, family);
        let fingerprint: Vec<String> =
            (0..4).flat_map(|_| self.random.u64().to_be_bytes()).map(|byte| format!("{byte:02X}")).collect();
        let Credentials { ufrag, password } = self.own[connection].clone();
        let fingerprint = fingerprint.join(":");
        self.told.push(ToPage::Answer { connection, ufrag, password, fingerprint, candidates });
    }

    /// Whether the page gets the server's side of this connection as soon as it offers it.
    fn is_answered_at_once(&self, connection: usize) -> bool {
        connection == FILTERING || (ANSWERED..ANSWERED + self.endpoints.len()).contains(&connection)
    }

    /// The lines of candidates at these endpoints, of one family or of all (RFC 8839 section 5.1).
    fn candidates(&self, endpoints: &[Endpoint], family: Option<usize>) -> Vec<String> {
        let chosen =
            self.endpoints.iter().enumerate().filter(|(number, _)| family.is_none_or(|it| it == *number));
        let all = chosen.flat_map(|(_, ends)| endpoints.iter().filter_map(|at| ends[at.index()]));
        (1..)
            .zip(all)
            .map(|(number, at): (u32, SocketAddr)| {
                let priority = 2_122_260_223 - number;
                format!("candidate:{number} 1 udp {priority} {} {} typ host", at.ip(), at.port())
            })
            .collect()
    }

    /// Sends a check, if it is no longer than `most` bytes.
    fn check(
        &mut self,
        family: usize,
        from: Endpoint,
        to: SocketAddr,
        browser: &Credentials,
        most: usize,
        now: Duration,
    ) {
        let id = self.random.id(self.tag);
        let mut buffer = [0; MAX_CHECK];
        let own = &self.own[FILTERING].ufrag;
        // As for a peer-reflexive candidate (RFC 8445 section 7.1.1).
        let priority = (110 << 24) | 0x00ff_fffe;
        let written = ice::write_check(&mut buffer, &id, own, browser, priority, self.tie_breaker);
        let Ok(length) = written else { return };
        if length <= most && self.transmit(Transmit { family, from, to, bytes: buffer[..length].to_vec() }) {
            self.observed.paths[family].filter.sent(id, from, now);
        }
    }

    fn transmit(&mut self, transmit: Transmit) -> bool {
        let may = self.sent < MAX_SENT;
        if may {
            self.sent += 1;
            self.transmits.push(transmit);
        }
        may
    }
}

/// Numbers that nobody can guess who does not know the secret.
#[derive(Debug)]
struct Random {
    key: hmac::Key,
    drawn: u64,
}

impl Random {
    fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), drawn: 0 }
    }

    fn bytes(&mut self) -> [u8; 16] {
        self.drawn += 1;
        let tag = hmac::sign(&self.key, &self.drawn.to_be_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&tag.as_ref()[..16]);
        bytes
    }

    fn u64(&mut self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.bytes();
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    fn hex(&mut self) -> String {
        self.bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn id(&mut self, tag: u32) -> TransactionId {
        let mut random = [0; 12];
        random[..4].copy_from_slice(&tag.to_be_bytes());
        random[4..].copy_from_slice(&self.u64().to_be_bytes());
        TransactionId::modern_from(random)
    }
}

/// Where each connection stands in the list.
pub(super) const ROLES: (usize, usize, usize) = (FILTERING, MAPPING, ANSWERED);

impl Connection {
    fn see(&mut self, family: usize, at: Endpoint, seen: Seen) {
        let Some(places) = self.seen.get_mut(family) else { return };
        // One base only: two interfaces or families of a host are not mixed.
        if places.iter().flatten().all(|other| other.tag == seen.tag) {
            places[at.index()].get_or_insert(seen);
        }
    }
}
