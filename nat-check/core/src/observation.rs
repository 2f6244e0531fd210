//! The observation log: every request that was sent and what came of it. Probes write it, conclusions are drawn from it alone.

pub mod call;
pub mod idle;
pub mod ipv6;
#[cfg(feature = "port-mapping")]
pub mod layers;
#[cfg(test)]
pub(crate) mod made;
pub mod port_mapping;
pub mod tcp;

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use shared::stun::{Class, Dialect, TransactionId, View, attr};

use crate::{
    mapping_limit::MappingLimit, printable::printable, rate_limit::RateLimit,
    server_endpoints::ServerEndpoint,
};
use port_mapping::PortMappingLog;
use tcp::TcpLog;

/// A socket of this run, numbered in the order of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub usize);

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// An ordinary response, from where it was asked. Control requests and mapping requests are of this kind.
    Binding,
    /// A response from another endpoint of the server (CHANGE-REQUEST, RFC 5780 section 7.2), sent to A1:P1.
    ChangeRequest(ServerEndpoint),
    /// A response to another port of the requester (RESPONSE-PORT, RFC 5780 section 7.5).
    ResponsePort {
        /// The port.
        port: u16,
        /// Whether the value is written with its padding counted, as some servers want it: 4 bytes, not 2.
        long: bool,
    },
    /// A response to the external port of another socket of this host, to see whether its mapping is still there
    /// (RESPONSE-PORT again).
    ResponsePortOf {
        /// The socket.
        socket: SocketId,
        /// Its external port.
        port: u16,
        /// Whether the value is written with its padding counted.
        long: bool,
    },
    /// A response from another endpoint of the server to an external port that a gateway was asked to open
    /// (CHANGE-REQUEST and RESPONSE-PORT).
    ToMappedPort {
        /// The external port.
        port: u16,
        /// Where the response is to come from.
        from: ServerEndpoint,
    },
    /// No response: the datagram opens filters on its way and dies after so many hops.
    LimitedTtl {
        /// Its time to live.
        hops: u8,
    },
    /// No response of the server: the datagram is for another socket of this host (RFC 4787 section 6).
    Hairpin,
}

/// What a request was sent for: the measurement that it belongs to, and its part in it. Each measurement makes its own,
/// so a new one needs no entry in a common list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Purpose {
    /// The measurement's name in the registry.
    pub measurement: &'static str,
    /// The part in it; empty for the main one.
    pub role: &'static str,
}

impl Purpose {
    /// The main part of a measurement.
    #[must_use]
    pub const fn main(measurement: &'static str) -> Self {
        Self { measurement, role: "" }
    }

    /// Another part of it.
    #[must_use]
    pub const fn role(self, role: &'static str) -> Self {
        Self { role, ..self }
    }
}

/// One request, sent exactly once and under an id of its own, so that each copy's fate is known.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// What it was sent for.
    pub purpose: Purpose,
    /// The socket that it left from.
    pub socket: SocketId,
    /// Where it was sent to.
    pub to: SocketAddr,
    /// What it asked for.
    pub kind: RequestKind,
    /// Requests with the same number travelled together: they vouch for one another.
    pub round: u32,
    /// The dialect that it was asked in.
    pub dialect: Dialect,
    /// Whether it asked for a receipt.
    pub wants_receipt: bool,
    /// When it was sent, since the start of the run.
    pub sent: Duration,
    /// What came back, in order of arrival.
    pub responses: Vec<Response>,
    /// Whether the operating system refused to send it.
    pub unsent: bool,
    /// The server's word that it saw the request and answered from elsewhere.
    pub receipt: Option<Duration>,
    /// The server's word in that receipt: for so long nobody at this external address has sent to its other address.
    pub alternate_unheard: Option<Duration>,
}

/// One datagram that came back under a transaction's id.
#[derive(Clone, Debug)]
pub struct Response {
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
    pub mapped: Option<SocketAddr>,
    /// XOR-MAPPED-ADDRESS.
    pub xor_mapped: Option<SocketAddr>,
    /// RESPONSE-ORIGIN, or SOURCE-ADDRESS of RFC 3489.
    pub origin: Option<SocketAddr>,
    /// OTHER-ADDRESS, or CHANGED-ADDRESS of RFC 3489.
    pub other: Option<SocketAddr>,
}

impl Response {
    /// The external endpoint that the server saw: the XORed form where there is one, as meddling boxes cannot
    /// recognise it. Where answers are compared with one another, [`ObservationLog::external`] knows more.
    #[must_use]
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.xor_mapped.or(self.mapped)
    }
}

impl Transaction {
    /// The success answers.
    pub fn successes(&self) -> impl Iterator<Item = &Response> {
        self.responses.iter().filter(|a| a.class == Class::Success)
    }

    /// The first success answer from `source`.
    #[must_use]
    pub fn answer_from(&self, source: SocketAddr) -> Option<&Response> {
        self.successes().find(|a| a.from == source)
    }

    /// The first success answer from the endpoint that was asked.
    #[must_use]
    pub fn direct(&self) -> Option<&Response> {
        self.answer_from(self.to)
    }

    /// The number of the first error answer from the endpoint that was asked.
    #[must_use]
    pub fn error_code(&self) -> Option<u16> {
        self.responses.iter().filter(|a| a.from == self.to).find_map(|a| a.error)
    }

    /// The first sign of life from the server: an answer of any kind, or a receipt.
    #[must_use]
    pub fn first_reaction(&self) -> Option<Duration> {
        self.responses.iter().map(|a| a.at).chain(self.receipt).min()
    }

    /// Whether a control came back: one that asks for an ordinary answer, or one that asks for a receipt.
    #[must_use]
    pub fn returned(&self) -> bool {
        match self.kind {
            RequestKind::Binding => self.responses.iter().any(|a| a.from == self.to),
            _ => self.receipt.is_some(),
        }
    }
}

/// Datagrams that belong to no transaction, by what is wrong with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unmatched {
    /// Not STUN.
    pub not_stun: u32,
    /// STUN, but under an id that was never sent.
    pub unknown_id: u32,
}

/// A socket's name in evidence.
#[derive(Clone, Copy, Debug)]
pub struct LocalSocket {
    /// Its local endpoint, with the address that packets to the server leave from.
    pub local: SocketAddr,
}

/// Everything that was observed of one server over one family.
#[derive(Clone, Debug)]
pub struct ObservationLog {
    /// The endpoint that was asked first, A1:P1.
    pub server: SocketAddr,
    /// What was sent until then has had its time; without end until the run is over.
    pub timed_out_before: Duration,
    /// The measurements that ran.
    pub tests: Vec<&'static str>,
    /// Whether the run was ended before all was done.
    pub ended_early: bool,
    /// What the operating system refused.
    pub socket_error: Option<String>,
    /// The requests, in order of sending.
    pub transactions: Vec<Transaction>,
    /// The sockets, by [`SocketId`].
    pub sockets: Vec<LocalSocket>,
    /// What else came in.
    pub unmatched: Unmatched,
    /// How long a TCP handshake with the server took; tried only when UDP answers late or not at all.
    pub handshake: Option<Duration>,
    /// When that handshake was done.
    pub connected: Option<Duration>,
    /// What was observed over TCP.
    pub tcp: TcpLog,
    /// What was observed of the gateway, and of ports that it was asked to open.
    pub port_mapping: PortMappingLog,
    /// What was observed of IPv6 beside the usual.
    pub ipv6: ipv6::Ipv6Log,
    /// What was observed of the routers on the way.
    #[cfg(feature = "port-mapping")]
    pub layers: layers::LayersLog,
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
    /// The limit of the rate that the session has suspected and slowed down for.
    pub rate_limit: Option<RateLimit>,
    judged: bool,
    index: HashMap<TransactionId, usize>,
}

impl ObservationLog {
    /// An empty one.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            timed_out_before: Duration::MAX,
            tests: Vec::new(),
            ended_early: false,
            socket_error: None,
            transactions: Vec::new(),
            sockets: Vec::new(),
            unmatched: Unmatched::default(),
            handshake: None,
            connected: None,
            tcp: TcpLog::default(),
            port_mapping: PortMappingLog::default(),
            ipv6: ipv6::Ipv6Log::default(),
            #[cfg(feature = "port-mapping")]
            layers: layers::LayersLog::default(),
            software: None,
            objection: None,
            lifetime: None,
            slept: Duration::ZERO,
            ended: Duration::ZERO,
            rate_limit: None,
            judged: false,
            index: HashMap::new(),
        }
    }

    /// Enters a request that is about to be sent.
    pub fn sent(&mut self, id: TransactionId, transaction: Transaction) {
        self.index.insert(id, self.transactions.len());
        self.transactions.push(transaction);
    }

    /// Enters a datagram that came in. Gives the transaction that it belongs to, if any.
    pub fn received(
        &mut self,
        datagram: &[u8],
        from: SocketAddr,
        on: SocketId,
        at: Duration,
    ) -> Option<&Transaction> {
        let Ok(view) = View::parse(datagram) else {
            self.unmatched.not_stun += 1;
            return None;
        };
        let Some(transaction) = self.index.get(&view.id()).and_then(|&at| self.transactions.get_mut(at))
        else {
            self.unmatched.unknown_id += 1;
            return None;
        };
        let looped = matches!(transaction.kind, RequestKind::Hairpin);
        let class = view.class();
        if looped != matches!(class, Class::Request) || class == Class::Indication {
            self.unmatched.unknown_id += 1;
            return None;
        }
        if from == transaction.to && transaction.wants_receipt && view.address(attr::RECEIPT).is_some() {
            transaction.receipt.get_or_insert(at);
            let unheard = view.u32(attr::ALTERNATE_UNHEARD).map(|s| Duration::from_secs(s.into()));
            transaction.alternate_unheard = transaction.alternate_unheard.or(unheard);
            return Some(transaction);
        }
        if transaction.responses.len() == MOST_RESPONSES {
            return Some(transaction);
        }
        transaction.responses.push(Response {
            at,
            from,
            on,
            class,
            error: (class == Class::Error).then(|| view.error().map_or(0, |e| e.0)),
            mapped: view.address(attr::MAPPED_ADDRESS),
            xor_mapped: view.xor_mapped(),
            origin: view.response_origin(),
            other: view.other_address(),
        });
        if class == Class::Success && !self.judged {
            self.judged = true;
            #[cfg(feature = "strict")]
            {
                self.objection = shared::stun::strict::objection(datagram);
            }
        }
        if self.software.is_none()
            && let Some(text) = view.find(attr::SOFTWARE)
        {
            self.software = Some(printable(String::from_utf8_lossy(text).trim_end_matches('\0')));
        }
        Some(transaction)
    }

    /// The external endpoint that the first answer to a Binding request of this socket to `to` shows.
    #[must_use]
    pub fn mapped(&self, socket: SocketId, to: SocketAddr) -> Option<SocketAddr> {
        self.transactions
            .iter()
            .filter(|t| t.kind == RequestKind::Binding && t.socket == socket && t.to == to)
            .find_map(|t| self.external(t.direct()?))
    }

    /// The external endpoint that an answer shows. Where any answer of the run was XORed (XOR-MAPPED-ADDRESS), only those count: the
    /// others, which classic requests get, may have been rewritten on the way.
    #[must_use]
    pub fn external(&self, answer: &Response) -> Option<SocketAddr> {
        answer.xor_mapped.or_else(|| answer.mapped.filter(|_| !self.has_xor_mapped()))
    }

    /// Whether any answer of the run showed the external endpoint XORed, as meddling boxes cannot recognise it.
    #[must_use]
    pub fn has_xor_mapped(&self) -> bool {
        self.transactions.iter().flat_map(Transaction::successes).any(|a| a.xor_mapped.is_some())
    }

    /// The transactions of exactly this purpose: those of the same measurement in another role are left out.
    pub fn of(&self, purpose: Purpose) -> impl Iterator<Item = &Transaction> {
        self.transactions.iter().filter(move |t| t.purpose == purpose)
    }

    /// All transactions of a measurement, whatever their role in it.
    pub fn of_measurement(&self, name: &'static str) -> impl Iterator<Item = &Transaction> {
        self.transactions.iter().filter(move |t| t.purpose.measurement == name)
    }

    /// Whether the server gives receipts.
    #[must_use]
    pub fn gives_receipts(&self) -> bool {
        self.transactions.iter().any(|t| t.receipt.is_some())
    }

    /// The dialect that the server answers in: modern if it ever did so.
    #[must_use]
    pub fn dialect(&self) -> Option<Dialect> {
        let spoken = |dialect| {
            let mut transactions =
                self.transactions.iter().filter(|t| t.dialect == dialect && t.kind != RequestKind::Hairpin);
            transactions.any(|t| t.successes().next().is_some()).then_some(dialect)
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
        let asked = self.transactions.iter().filter(|t| t.kind != RequestKind::Hairpin);
        asked.filter_map(|t| Some(t.first_reaction()? - t.sent)).min()
    }

    /// Whether some endpoint of the server ever answered when it was asked itself.
    #[must_use]
    pub fn is_alive(&self, endpoint: SocketAddr) -> bool {
        self.transactions
            .iter()
            .any(|t| t.to == endpoint && t.kind == RequestKind::Binding && t.direct().is_some())
    }

    /// When the first request left that came to something, if nothing at all passed for long before: a line that had yet
    /// to wake up tells nothing of its loss. Zero for all others.
    fn awake_from(&self) -> Duration {
        let first = self.transactions.iter().find(|t| t.first_reaction().is_some()).map(|t| t.sent);
        let begun = self.transactions.first().map_or(Duration::ZERO, |t| t.sent);
        first.filter(|&first| first >= begun + DARK).unwrap_or_default()
    }

    /// The controls on the way to the primary endpoint that have had their time: those whose fate tells the loss.
    pub fn controls(&self, until: Duration) -> impl Iterator<Item = &Transaction> + Clone {
        let receipts = self.gives_receipts();
        let dialect = self.dialect();
        let limit = RateLimit::stands(self, until);
        let awake = self.awake_from();
        let mappings = MappingLimit::seen(self, until);
        self.transactions.iter().filter(move |t| {
            let control = t.kind == RequestKind::Binding || (receipts && t.wants_receipt);
            // Before the dialect was known, some were in one that the server does not speak.
            let spoken = dialect.is_none_or(|d| d == t.dialect);
            let limited = limit.is_some_and(|l| t.sent >= l.from && t.sent <= l.slowed);
            let mapped = mappings.as_ref().is_none_or(|limit| !limit.concerns(t.socket));
            control
                && spoken
                && mapped
                && !limited
                && t.sent >= awake
                && !t.unsent
                && t.to == self.server
                && t.sent <= until
        })
    }
}

/// Silence of this length at the beginning is a line that sleeps: bursts of loss are shorter.
const DARK: Duration = Duration::from_secs(1);
/// More answers to one request tell nothing more.
const MOST_RESPONSES: usize = 8;
