//! The pure function at the heart of the server: one datagram in, up to two answers out (RFC 8489 section 6.3,
//! RFC 5780 section 6, RFC 3489 section 8).
//!
//! No clock, socket, log or allocation, and no state: what a client is told depends on its datagram, and on how long it
//! has not been heard elsewhere, which the caller says. What cannot be done is refused with an error answer; it is never done half, from the wrong endpoint.

use std::net::SocketAddr;

use shared::stun::{BINDING, Class, Dialect, HEADER, TransactionId, View, Writer, attr};

use crate::{
    drop_reason::DropReason,
    last_heard::Unheard,
    source_filter::{may_answer_to, screen_source},
    topology::{Endpoint, Topology},
};

/// The longest request that is read, in bytes; room for PADDING beyond one MTU.
pub const MAX_REQUEST: usize = 2048;
/// The longest PADDING that is sent back, in bytes, however much came.
pub const MAX_PADDING: usize = 1500;
/// More attributes than this in one request are no honest request.
const MAX_ATTRIBUTES: usize = 16;
/// What the IP and UDP headers of a second answer cost; a request for a receipt pays for them, too.
pub const SECOND_ANSWER: usize = 28;
/// The longest receipt: as long as the longest answer without PADDING (IPv6, FINGERPRINT).
const MAX_RECEIPT: usize = 124;

/// How many bytes an answer may be longer than its request: what the four mandatory addresses need beyond a
/// bare header. It is the same for every kind of request, since all that makes answers longer (PADDING,
/// FINGERPRINT, a receipt) must come in the request.
#[must_use]
pub const fn budget(request: usize, from: SocketAddr) -> usize {
    request
        + match from {
            SocketAddr::V4(_) => 48,
            SocketAddr::V6(_) => 96,
        }
}

/// How a request was answered; the answers themselves are in [`Answers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Success, from the endpoint that was asked to the source of the request.
    Success,
    /// Success, from another endpoint or to another port.
    Changed,
    /// Error 400: a request that contradicts itself, or asks for what is never done.
    BadRequest,
    /// Error 420: an attribute that must be understood and is not.
    UnknownAttribute,
}

impl Outcome {
    /// All outcomes; `ALL[o.index()] == o`.
    pub const ALL: [Self; 4] = [Self::Success, Self::Changed, Self::BadRequest, Self::UnknownAttribute];

    /// Position in [`Outcome::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name under which it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Changed => "changed",
            Self::BadRequest => "bad-request",
            Self::UnknownAttribute => "unknown-attribute",
        }
    }
}

/// One datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Answer<const N: usize> {
    /// The endpoint it leaves from.
    pub from: Endpoint,
    /// Where it goes.
    pub to: SocketAddr,
    length: usize,
    buffer: [u8; N],
}

/// Room for the answers to one datagram, to be used again and again.
#[derive(Clone, Debug)]
pub struct Answers {
    answer: Answer<1680>,
    receipt: Answer<MAX_RECEIPT>,
}

impl Answers {
    /// Empty.
    #[must_use]
    pub const fn new() -> Self {
        Self { answer: Answer::new(), receipt: Answer::new() }
    }

    /// The answers, in the order in which they are to be sent: endpoint it leaves from, destination, bytes.
    pub fn iter(&self) -> impl Iterator<Item = (Endpoint, SocketAddr, &[u8])> {
        let receipt = &self.receipt;
        std::iter::once((self.answer.from, self.answer.to, self.answer.bytes()))
            .chain(std::iter::once((receipt.from, receipt.to, receipt.bytes())))
            .filter(|(_, _, bytes)| !bytes.is_empty())
    }

    /// The bytes of all answers together.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.answer.length + self.receipt.length
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the answers.
    pub const fn clear(&mut self) {
        self.answer.length = 0;
        self.receipt.length = 0;
    }
}

impl Default for Answers {
    fn default() -> Self {
        Self::new()
    }
}

/// Answers the datagram that came to endpoint `at` from `from`, which has not been heard at the other address for so
/// long.
///
/// # Errors
/// The reason when there is no answer; `out` is empty then.
#[inline]
pub fn respond(
    topology: &Topology,
    at: Endpoint,
    from: SocketAddr,
    unheard: Unheard,
    datagram: &[u8],
    out: &mut Answers,
) -> Result<Outcome, DropReason> {
    out.clear();
    screen_source(topology, from)?;
    answer(Exchange { topology, at, from, unheard, stream: false }, datagram, out)
}

/// Answers one message of a stream (TCP, TLS). The answer goes back on the same stream, so CHANGE-REQUEST and
/// RESPONSE-PORT are refused (RFC 5780 sections 7.2 and 7.5); the one answer is the first in `out`.
///
/// # Errors
/// As [`respond`].
pub fn respond_stream(
    topology: &Topology,
    at: Endpoint,
    from: SocketAddr,
    message: &[u8],
    out: &mut Answers,
) -> Result<Outcome, DropReason> {
    out.clear();
    answer(Exchange { topology, at, from, unheard: Unheard::default(), stream: true }, message, out)
}

/// Who asked, where, and over what.
#[derive(Clone, Copy)]
struct Exchange<'a> {
    topology: &'a Topology,
    at: Endpoint,
    from: SocketAddr,
    unheard: Unheard,
    stream: bool,
}

/// What a request asks for.
#[derive(Default)]
struct Wishes<'a> {
    change: Option<&'a [u8]>,
    response_port: Option<&'a [u8]>,
    padding: Option<usize>,
    fingerprint: Option<(usize, &'a [u8])>,
    receipt: bool,
    unknown: [u16; MAX_ATTRIBUTES],
    unknowns: usize,
}

/// Which way the answer goes.
struct Route {
    from: Endpoint,
    to: SocketAddr,
}

#[inline]
fn answer(exchange: Exchange<'_>, datagram: &[u8], out: &mut Answers) -> Result<Outcome, DropReason> {
    if datagram.len() > MAX_REQUEST {
        return Err(DropReason::Long);
    }
    let request = View::parse(datagram)?;
    match request.class() {
        Class::Request => {}
        Class::Indication => return Err(DropReason::Indication),
        Class::Success | Class::Error => return Err(DropReason::Response),
    }
    if request.method() != BINDING {
        return Err(DropReason::Method);
    }
    let dialect = request.dialect();
    let wishes = read_wishes(&request, dialect)?;
    if let Some((offset, value)) = wishes.fingerprint
        && (offset + 8 != datagram.len()
            || value != shared::stun::fingerprint(&datagram[..offset]).to_be_bytes())
    {
        return Err(DropReason::Fingerprint);
    }

    let outcome = match route(&exchange, dialect, &wishes) {
        Ok(route) => {
            let is_plain = route.from == exchange.at && route.to == exchange.from;
            let outcome = if is_plain { Outcome::Success } else { Outcome::Changed };
            write_success(&exchange, &request, dialect, &wishes, &route, out)?;
            outcome
        }
        Err(refusal) => {
            write_error(&exchange, &request, dialect, &wishes, &refusal, out);
            refusal.outcome()
        }
    };
    debug_assert!(out.len() <= budget(datagram.len(), exchange.from));
    Ok(outcome)
}

/// Collects the attributes that matter, in one pass. The first of a kind counts, and nothing that stands behind a
/// message integrity but another one and FINGERPRINT (RFC 8489 sections 14, 14.5).
#[inline]
fn read_wishes<'a>(request: &View<'a>, dialect: Dialect) -> Result<Wishes<'a>, DropReason> {
    let mut wishes = Wishes::default();
    let modern = dialect == Dialect::Modern;
    let mut sealed = false;
    for (i, attribute) in request.attributes().enumerate() {
        if i == MAX_ATTRIBUTES {
            return Err(DropReason::TooManyAttributes);
        }
        match attribute.number {
            attr::FINGERPRINT if modern => {
                wishes.fingerprint.get_or_insert((attribute.offset, attribute.value));
            }
            _ if sealed => {}
            attr::CHANGE_REQUEST => {
                wishes.change.get_or_insert(attribute.value);
            }
            attr::RESPONSE_PORT if modern => {
                wishes.response_port.get_or_insert(attribute.value);
            }
            attr::PADDING if modern => {
                wishes.padding.get_or_insert(attribute.value.len());
            }
            attr::RECEIPT if modern => wishes.receipt = true,
            attr::MESSAGE_INTEGRITY | attr::MESSAGE_INTEGRITY_SHA256 if modern => sealed = true,
            number if number >= attr::COMPREHENSION_OPTIONAL || is_known(number, dialect) => {}
            number => {
                if !wishes.unknown[..wishes.unknowns].contains(&number) {
                    wishes.unknown[wishes.unknowns] = number;
                    wishes.unknowns += 1;
                }
            }
        }
    }
    Ok(wishes)
}

/// Attributes that must be understood, and are, though a request that carries them gets nothing more for it.
/// RESPONSE-ADDRESS belongs to the classic dialect, where it is ignored: it would aim answers at third parties.
const fn is_known(number: u16, dialect: Dialect) -> bool {
    match dialect {
        Dialect::Classic => number >= attr::MAPPED_ADDRESS && number <= attr::REFLECTED_FROM,
        Dialect::Modern => matches!(
            number,
            attr::MAPPED_ADDRESS
                | attr::USERNAME
                | attr::ERROR_CODE
                | attr::UNKNOWN_ATTRIBUTES
                | attr::REALM
                | attr::NONCE
                | attr::XOR_MAPPED_ADDRESS
                | 0x001D
                | 0x001E
        ),
    }
}

/// Why a request is refused.
enum Refusal {
    BadRequest,
    Unknown,
    UnknownChange,
}

impl Refusal {
    const fn outcome(&self) -> Outcome {
        match self {
            Self::BadRequest => Outcome::BadRequest,
            Self::Unknown | Self::UnknownChange => Outcome::UnknownAttribute,
        }
    }
}

/// Decides where the answer leaves from and where it goes, or why there is none.
#[inline]
fn route(exchange: &Exchange<'_>, dialect: Dialect, wishes: &Wishes<'_>) -> Result<Route, Refusal> {
    if wishes.unknowns > 0 {
        return Err(Refusal::Unknown);
    }
    let mut route = Route { from: exchange.at, to: exchange.from };
    if exchange.stream && (wishes.change.is_some() || wishes.response_port.is_some()) {
        return Err(Refusal::BadRequest);
    }
    if let Some(value) = wishes.change {
        let flags = u32::from_be_bytes(value.try_into().map_err(|_| Refusal::BadRequest)?);
        // Classic clients send the attribute with every request, also when they want nothing changed.
        let asks = dialect == Dialect::Modern || flags & (attr::CHANGE_IP | attr::CHANGE_PORT) != 0;
        if asks && !exchange.topology.has_alternate() {
            return Err(Refusal::UnknownChange);
        }
        route.from = exchange.at.change(flags & attr::CHANGE_IP != 0, flags & attr::CHANGE_PORT != 0);
    }
    if let Some(value) = wishes.response_port {
        let port = match *value {
            [high, low] | [high, low, _, _] => u16::from_be_bytes([high, low]),
            _ => return Err(Refusal::BadRequest),
        };
        if wishes.padding.is_some() || !may_answer_to(exchange.topology, port) {
            return Err(Refusal::BadRequest);
        }
        route.to.set_port(port);
    }
    Ok(route)
}

#[inline]
fn write_success(
    exchange: &Exchange<'_>,
    request: &View<'_>,
    dialect: Dialect,
    wishes: &Wishes<'_>,
    route: &Route,
    out: &mut Answers,
) -> Result<(), DropReason> {
    let id = request.id();
    let origin = exchange.topology.advertised(route.from).ok_or(DropReason::NoEndpoint)?;
    let other = exchange.topology.advertised(exchange.at.other());
    out.answer.write(route.from, route.to, &id, Class::Success, |writer| match dialect {
        Dialect::Modern => {
            writer.address(attr::MAPPED_ADDRESS, exchange.from);
            writer.xor_address(attr::XOR_MAPPED_ADDRESS, exchange.from);
            writer.address(attr::RESPONSE_ORIGIN, origin);
            if let Some(other) = other {
                writer.address(attr::OTHER_ADDRESS, other);
            }
            if let Some(length) = wishes.padding {
                writer.zeros(attr::PADDING, length.min(MAX_PADDING));
            }
            if wishes.fingerprint.is_some() {
                writer.fingerprint();
            }
        }
        Dialect::Classic => {
            writer.address(attr::MAPPED_ADDRESS, exchange.from);
            writer.address(attr::SOURCE_ADDRESS, origin);
            if let Some(other) = other {
                writer.address(attr::CHANGED_ADDRESS, other);
            }
        }
    });

    let moved = route.from != exchange.at || route.to != exchange.from;
    if wishes.receipt && moved {
        write_receipt(exchange, &id, origin, request.bytes().len(), out);
    }
    Ok(())
}

/// The second answer, from the endpoint that was asked, as far as the request pays for it. Losses can depend on the size
/// of a packet, so it is as long as the answer that it stands for, if that is paid for, too.
#[inline]
fn write_receipt(
    exchange: &Exchange<'_>,
    id: &TransactionId,
    origin: SocketAddr,
    request: usize,
    out: &mut Answers,
) {
    let paid = request.saturating_sub(out.answer.length + SECOND_ANSWER);
    let whole = paid.min(out.answer.length).min(MAX_RECEIPT);
    out.receipt.write(exchange.at, exchange.from, id, Class::Success, |writer| {
        writer.address(attr::RECEIPT, origin);
        if exchange.topology.has_alternate() && writer.len() + 8 <= whole {
            writer.u32(attr::ALTERNATE_UNHEARD, exchange.unheard.0);
        }
        if writer.len() + 4 <= whole {
            writer.zeros(attr::FILLER, whole - writer.len() - 4);
        }
    });
    if out.receipt.length > paid {
        out.receipt.length = 0;
    }
}

/// Errors leave from the endpoint that was asked, go to the true source, and carry no text.
fn write_error(
    exchange: &Exchange<'_>,
    request: &View<'_>,
    dialect: Dialect,
    wishes: &Wishes<'_>,
    refusal: &Refusal,
    out: &mut Answers,
) {
    let mut unknown = [0; MAX_ATTRIBUTES + 1];
    let listed = match refusal {
        Refusal::BadRequest => 0,
        Refusal::UnknownChange => {
            unknown[0] = attr::CHANGE_REQUEST;
            1
        }
        Refusal::Unknown => {
            unknown[..wishes.unknowns].copy_from_slice(&wishes.unknown[..wishes.unknowns]);
            wishes.unknowns
        }
    };
    // The classic dialect knows no padding: an odd list repeats an entry (RFC 3489 section 11.2.10).
    let listed = match dialect {
        Dialect::Classic if listed % 2 == 1 => {
            unknown[listed] = unknown[0];
            listed + 1
        }
        Dialect::Classic | Dialect::Modern => listed,
    };
    out.answer.write(exchange.at, exchange.from, &request.id(), Class::Error, |writer| {
        writer.error(if listed == 0 { 400 } else { 420 });
        if listed > 0 {
            writer.unknown_attributes(&unknown[..listed]);
        }
        if wishes.fingerprint.is_some() {
            writer.fingerprint();
        }
    });
}

impl<const N: usize> Answer<N> {
    const fn new() -> Self {
        let nowhere = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);
        Self { from: Endpoint::Primary, to: nowhere, length: 0, buffer: [0; N] }
    }

    /// The bytes to be sent; empty where there is no answer.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    #[inline]
    fn write(
        &mut self,
        from: Endpoint,
        to: SocketAddr,
        id: &TransactionId,
        class: Class,
        fill: impl FnOnce(&mut Writer<'_>),
    ) {
        const { assert!(N >= HEADER) };
        (self.from, self.to) = (from, to);
        let mut writer = Writer::new(&mut self.buffer, class, id);
        fill(&mut writer);
        let written = writer.finish();
        debug_assert!(written.is_ok(), "the buffer holds the longest answer");
        self.length = written.unwrap_or(0);
    }
}

#[cfg(test)]
pub(crate) mod tests;
