//! The ledger: every request that was sent and what came of it. Probes write it, conclusions are drawn from it alone.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use shared::stun::{Class, Dialect, TransactionId, View, attr};

use crate::pace::RateLimit;

/// Which of a probe server's four endpoints: by IP and by port, primary or alternate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// At the alternate IP address.
    pub other_ip: bool,
    /// At the alternate port.
    pub other_port: bool,
}

impl Place {
    /// The endpoint that was asked first, A1:P1.
    pub const PRIMARY: Self = Self { other_ip: false, other_port: false };
    /// A1:P2.
    pub const PORT: Self = Self { other_ip: false, other_port: true };
    /// A2:P1.
    pub const IP: Self = Self { other_ip: true, other_port: false };
    /// A2:P2.
    pub const BOTH: Self = Self { other_ip: true, other_port: true };
    /// All four, in the order of the mapping test.
    pub const ALL: [Self; 4] = [Self::PRIMARY, Self::PORT, Self::IP, Self::BOTH];

    /// The flags that ask A1:P1 to answer from here (RFC 5780 section 7.2).
    #[must_use]
    pub fn change_flags(self) -> u32 {
        u32::from(self.other_ip) * attr::CHANGE_IP + u32::from(self.other_port) * attr::CHANGE_PORT
    }

    /// What it is to a person.
    #[must_use]
    pub fn described(self) -> &'static str {
        match (self.other_ip, self.other_port) {
            (false, false) => "the endpoint that was asked",
            (false, true) => "its other port",
            (true, false) => "its other IP address",
            (true, true) => "its other IP address and port",
        }
    }

    /// A short name for evidence: A1:P1 and so on.
    #[must_use]
    pub fn name(self) -> &'static str {
        match (self.other_ip, self.other_port) {
            (false, false) => "A1:P1",
            (false, true) => "A1:P2",
            (true, false) => "A2:P1",
            (true, true) => "A2:P2",
        }
    }
}

/// A socket of this run, numbered in the order of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub usize);

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An ordinary answer, from where it was asked. Controls and mapping requests are of this kind.
    Plain,
    /// An answer from another endpoint of the server (CHANGE-REQUEST), sent to A1:P1.
    From(Place),
    /// An answer to another port of the requester (RESPONSE-PORT), in the 4-byte form or the 2-byte one.
    ToPort {
        /// The port.
        port: u16,
        /// Whether the value is written with its padding counted, as some servers want it.
        long: bool,
    },
    /// An answer to the external port of another socket of ours, to see whether its mapping is still there
    /// (RESPONSE-PORT again).
    Reach {
        /// The socket.
        socket: SocketId,
        /// Its external port.
        port: u16,
        /// Whether the value is written with its padding counted.
        long: bool,
    },
    /// Nothing of the server: the datagram opens the way for its answers and dies after so many hops.
    Open {
        /// Its time to live.
        hops: u8,
    },
    /// Nothing of the server: the datagram is for another socket of this host (hairpinning).
    Loop,
}

/// One request, sent exactly once and under an id of its own, so that each copy's fate is known.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The measurement that it belongs to.
    pub purpose: &'static str,
    /// The socket that it left from.
    pub socket: SocketId,
    /// Where it was sent to.
    pub to: SocketAddr,
    /// What it asked for.
    pub ask: Ask,
    /// Requests with the same number travelled together: they vouch for one another.
    pub round: u32,
    /// The dialect that it was asked in.
    pub dialect: Dialect,
    /// Whether it asked for a receipt.
    pub wants_receipt: bool,
    /// When it was sent, since the start of the run.
    pub sent: Duration,
    /// What came back, in order of arrival.
    pub answers: Vec<Answer>,
    /// Whether the operating system refused to send it.
    pub unsent: bool,
    /// The server's word that it saw the request and answered from elsewhere.
    pub receipt: Option<Duration>,
}

/// One datagram that came back under a trial's id.
#[derive(Clone, Debug)]
pub struct Answer {
    /// When it came, since the start of the run.
    pub at: Duration,
    /// Who sent it.
    pub from: SocketAddr,
    /// The socket that it came in on.
    pub on: SocketId,
    /// Success or an error; a request means that our own datagram came back (hairpinning).
    pub class: Class,
    /// The number in ERROR-CODE.
    pub error: Option<u16>,
    /// MAPPED-ADDRESS.
    pub plain: Option<SocketAddr>,
    /// XOR-MAPPED-ADDRESS.
    pub masked: Option<SocketAddr>,
    /// RESPONSE-ORIGIN, or SOURCE-ADDRESS in the classic dialect.
    pub origin: Option<SocketAddr>,
    /// OTHER-ADDRESS, or CHANGED-ADDRESS in the classic dialect.
    pub other: Option<SocketAddr>,
}

impl Answer {
    /// The external endpoint that the server saw: the masked form where there is one, as meddling boxes cannot
    /// recognise it. Where answers are compared with one another, [`Ledger::external`] knows more.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.masked.or(self.plain)
    }
}

impl Trial {
    /// The success answers.
    pub fn successes(&self) -> impl Iterator<Item = &Answer> {
        self.answers.iter().filter(|a| a.class == Class::Success)
    }

    /// The first success answer from `source`.
    #[must_use]
    pub fn answer_from(&self, source: SocketAddr) -> Option<&Answer> {
        self.successes().find(|a| a.from == source)
    }

    /// The first success answer from the endpoint that was asked.
    #[must_use]
    pub fn direct(&self) -> Option<&Answer> {
        self.answer_from(self.to)
    }

    /// The number of the first error answer from the endpoint that was asked.
    #[must_use]
    pub fn refused(&self) -> Option<u16> {
        self.answers.iter().filter(|a| a.from == self.to).find_map(|a| a.error)
    }

    /// The first sign of life from the server: an answer of any kind, or a receipt.
    #[must_use]
    pub fn first_reaction(&self) -> Option<Duration> {
        self.answers.iter().map(|a| a.at).chain(self.receipt).min()
    }

    /// Whether a control came back: one that asks for an ordinary answer, or one that asks for a receipt.
    #[must_use]
    pub fn returned(&self) -> bool {
        match self.ask {
            Ask::Plain => self.answers.iter().any(|a| a.from == self.to),
            _ => self.receipt.is_some(),
        }
    }
}

/// Datagrams that belong to no trial, by what is wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// Not STUN.
    pub garbage: u32,
    /// STUN, but under an id that was never sent.
    pub foreign: u32,
}

/// A socket's name in evidence.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Its local endpoint, with the address that packets to the server leave from.
    pub local: SocketAddr,
}

/// Everything that was observed of one server over one family.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// The endpoint that was asked first, A1:P1.
    pub server: SocketAddr,
    /// What was sent until then has had its time; without end until the run is over.
    pub ripe: Duration,
    /// The measurements that ran.
    pub tests: Vec<&'static str>,
    /// Whether the run was ended before all was done.
    pub cut_short: bool,
    /// What the operating system refused.
    pub trouble: Option<String>,
    /// The requests, in order of sending.
    pub trials: Vec<Trial>,
    /// The sockets, by [`SocketId`].
    pub sockets: Vec<Opened>,
    /// What else came in.
    pub strays: Strays,
    /// How long a TCP handshake with the server took; tried only when UDP answers late or not at all.
    pub handshake: Option<Duration>,
    /// SOFTWARE of the first answer that had one.
    pub software: Option<String>,
    /// What the strict reader objects to in the first answer.
    pub objection: Option<String>,
    /// The longest idle time that the lifetime measurement was to look at; none = it was not asked for.
    pub lifetime: Option<Duration>,
    /// How long the machine was asleep during the run.
    pub slept: Duration,
    /// When the run ended; zero before.
    pub ended: Duration,
    judged: bool,
    index: HashMap<TransactionId, usize>,
}

impl Ledger {
    /// An empty one.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            ripe: Duration::MAX,
            tests: Vec::new(),
            cut_short: false,
            trouble: None,
            trials: Vec::new(),
            sockets: Vec::new(),
            strays: Strays::default(),
            handshake: None,
            software: None,
            objection: None,
            lifetime: None,
            slept: Duration::ZERO,
            ended: Duration::ZERO,
            judged: false,
            index: HashMap::new(),
        }
    }

    /// Enters a request that is about to be sent.
    pub fn sent(&mut self, id: TransactionId, trial: Trial) {
        self.index.insert(id, self.trials.len());
        self.trials.push(trial);
    }

    /// Enters a datagram that came in. Gives the trial that it belongs to, if any.
    pub fn received(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        on: SocketId,
        at: Duration,
    ) -> Option<&Trial> {
        let Ok(view) = View::parse(datagram) else {
            self.strays.garbage += 1;
            return None;
        };
        let Some(trial) = self.index.get(&view.id()).and_then(|&at| self.trials.get_mut(at)) else {
            self.strays.foreign += 1;
            return None;
        };
        let looped = matches!(trial.ask, Ask::Loop);
        let class = view.class();
        if looped != matches!(class, Class::Request) || class == Class::Indication {
            self.strays.foreign += 1;
            return None;
        }
        if from == trial.to && trial.wants_receipt && view.address(attr::RECEIPT).is_some() {
            trial.receipt.get_or_insert(at);
            return Some(trial);
        }
        if trial.answers.len() == MOST_ANSWERS {
            return Some(trial);
        }
        let classic = view.dialect() == Dialect::Classic;
        trial.answers.push(Answer {
            at,
            from,
            on,
            class,
            error: (class == Class::Error).then(|| view.error().map_or(0, |e| e.0)),
            plain: view.address(attr::MAPPED_ADDRESS),
            masked: view
                .xor_address(attr::XOR_MAPPED_ADDRESS)
                .or_else(|| view.xor_address(attr::XOR_MAPPED_ADDRESS_OLD)),
            origin: view.address(if classic { attr::SOURCE_ADDRESS } else { attr::RESPONSE_ORIGIN }),
            other: view.address(if classic { attr::CHANGED_ADDRESS } else { attr::OTHER_ADDRESS }),
        });
        if class == Class::Success && !self.judged {
            self.judged = true;
            self.objection = shared::stun::strict::objection(datagram);
        }
        if self.software.is_none()
            && let Some(text) = view.find(attr::SOFTWARE)
        {
            self.software = Some(String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect());
        }
        Some(trial)
    }

    /// The external endpoint that the first answer to a plain request of this socket to `to` shows.
    #[must_use]
    pub fn mapped(&self, socket: SocketId, to: SocketAddr) -> Option<SocketAddr> {
        self.trials
            .iter()
            .filter(|t| t.ask == Ask::Plain && t.socket == socket && t.to == to)
            .find_map(|t| self.external(t.direct()?))
    }

    /// The external endpoint that an answer shows. Where any answer of the run was masked, only masked ones count: the
    /// others, which classic requests get, may have been rewritten on the way.
    #[must_use]
    pub fn external(&self, answer: &Answer) -> Option<SocketAddr> {
        answer.masked.or_else(|| answer.plain.filter(|_| !self.is_masked()))
    }

    /// Whether any answer of the run showed the external endpoint masked, as meddling boxes cannot recognise it.
    #[must_use]
    pub fn is_masked(&self) -> bool {
        self.trials.iter().flat_map(Trial::successes).any(|a| a.masked.is_some())
    }

    /// The trials of one measurement.
    pub fn of(&self, purpose: &'static str) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(move |t| t.purpose == purpose)
    }

    /// Whether the server gives receipts.
    #[must_use]
    pub fn gives_receipts(&self) -> bool {
        self.trials.iter().any(|t| t.receipt.is_some())
    }

    /// The dialect that the server answers in: modern if it ever did so.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        let spoken = |dialect| {
            let mut trials = self.trials.iter().filter(|t| t.dialect == dialect && t.ask != Ask::Loop);
            trials.any(|t| t.successes().next().is_some()).then_some(dialect)
        };
        spoken(Dialect::Modern).or_else(|| spoken(Dialect::Classic))
    }

    /// The local endpoint of a socket.
    #[must_use]
    pub fn local(&self, socket: SocketId) -> Option<SocketAddr> {
        self.sockets.get(socket.0).map(|s| s.local)
    }

    /// The shortest time from a request to the server's reaction.
    #[must_use]
    pub fn quickest(&self) -> Option<Duration> {
        let asked = self.trials.iter().filter(|t| t.ask != Ask::Loop);
        asked.filter_map(|t| Some(t.first_reaction()? - t.sent)).min()
    }

    /// Whether some endpoint of the server ever answered when it was asked itself.
    #[must_use]
    pub fn is_alive(&self, endpoint: SocketAddr) -> bool {
        self.trials.iter().any(|t| t.to == endpoint && t.ask == Ask::Plain && t.direct().is_some())
    }

    /// The controls on the way to the primary endpoint that have had their time: those whose fate tells the loss.
    pub fn controls(&self, until: Duration) -> impl Iterator<Item = &Trial> + Clone {
        let receipts = self.gives_receipts();
        let dialect = self.dialect();
        let limit = RateLimit::seen(self, until);
        self.trials.iter().filter(move |t| {
            let control = t.ask == Ask::Plain || (receipts && t.wants_receipt);
            // Before the dialect was known, some were in one that the server does not speak.
            let spoken = dialect.is_none_or(|d| d == t.dialect);
            let limited = limit.is_some_and(|l| t.sent >= l.from && t.sent <= l.cooled);
            control && spoken && !limited && !t.unsent && t.to == self.server && t.sent <= until
        })
    }
}

/// More answers to one request tell nothing more.
const MOST_ANSWERS: usize = 8;

/// Ledgers made by hand, for the tests of conclusions.
#[cfg(test)]
pub(crate) mod made {
    use super::*;

    pub(crate) const SERVER: &str = "198.51.100.10:3478";
    pub(crate) const OTHER: &str = "198.51.100.11:3479";

    pub(crate) fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    pub(crate) fn endpoint(place: Place) -> SocketAddr {
        let ip = if place.other_ip { at(OTHER) } else { at(SERVER) }.ip();
        let port = if place.other_port { at(OTHER) } else { at(SERVER) }.port();
        SocketAddr::new(ip, port)
    }

    pub(crate) fn ledger() -> Ledger {
        Ledger::new(at(SERVER))
    }

    pub(crate) fn socket(ledger: &mut Ledger, local: &str) -> SocketId {
        ledger.sockets.push(Opened { local: at(local) });
        SocketId(ledger.sockets.len() - 1)
    }

    /// A request that nothing has come of.
    pub(crate) fn trial(purpose: &'static str, socket: SocketId, to: SocketAddr, ask: Ask) -> Trial {
        Trial {
            purpose,
            socket,
            to,
            ask,
            round: 0,
            dialect: Dialect::Modern,
            wants_receipt: matches!(ask, Ask::From(_)),
            sent: Duration::ZERO,
            answers: Vec::new(),
            unsent: false,
            receipt: None,
        }
    }

    /// An answer from `from` that shows `mapped`.
    pub(crate) fn answer(on: SocketId, from: SocketAddr, mapped: &str) -> Answer {
        Answer {
            at: Duration::from_millis(10),
            from,
            on,
            class: Class::Success,
            error: None,
            plain: Some(at(mapped)),
            masked: Some(at(mapped)),
            origin: Some(from),
            other: Some(at(OTHER)),
        }
    }

    /// A plain request to `place`, answered.
    pub(crate) fn answered(purpose: &'static str, socket: SocketId, place: Place, mapped: &str) -> Trial {
        let mut trial = trial(purpose, socket, endpoint(place), Ask::Plain);
        trial.answers.push(answer(socket, endpoint(place), mapped));
        trial
    }
}
