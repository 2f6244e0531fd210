//! What can be wrong with a probe server, as data: every fault rewrites requests before the server reads them, answers
//! after it wrote them, or where they leave from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use shared::stun::{Attribute, View, Writer, attr};

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing reaches or leaves the alternate address.
    AlternateDead,
    /// Nothing reaches or leaves the alternate port.
    AlternatePortDead,
    /// OTHER-ADDRESS has the IP of the endpoint that was asked.
    OtherSameIp,
    /// OTHER-ADDRESS is a private address.
    OtherPrivate,
    /// OTHER-ADDRESS is 0.0.0.0.
    OtherUnspecified,
    /// CHANGE-REQUEST is ignored: the answer comes from the endpoint that was asked, and says so.
    ChangeIgnored,
    /// CHANGE-REQUEST is ignored, and RESPONSE-ORIGIN tells that it was not.
    ChangeFaked,
    /// Requests to change anything get no answer.
    ChangeDropped,
    /// Requests to change the address get no answer.
    ChangeIpDropped,
    /// Requests to change both address and port get no answer.
    ChangeBothDropped,
    /// The port is changed on request, the address never.
    ChangeIpIgnored,
    /// This share of what leaves the alternate address gets lost.
    AlternateLossy(f64),
    /// CHANGE-REQUEST gets error 420, though OTHER-ADDRESS is told.
    ChangeRefused,
    /// RESPONSE-ORIGIN names an address that has nothing to do with the server.
    OriginLies,
    /// There is one address only, and the server says so.
    SingleAddress,
    /// As Vovida's stund: SOURCE-ADDRESS and CHANGED-ADDRESS of RFC 3489 in every answer, XOR-MAPPED-ADDRESS XORed with
    /// the transaction id where there is no cookie, no receipts.
    Stund,
    /// A NAT stands in front of it, as a container's proxy or a load balancer does: it sees one private address, and what
    /// it sends from another endpoint than the one that was asked goes nowhere.
    BehindNat,
    /// Requests with the magic cookie get no answer.
    ClassicOnly,
    /// Requests without the magic cookie get no answer.
    ModernOnly,
    /// Answers take this many seconds longer.
    Slow(f64),
    /// Each request takes this many seconds to serve, one after another; those that wait are 256 at the most.
    OneByOne(f64),
    /// So many answers a second for each source address; a burst of as many passes.
    RateLimit(f64),
    /// After so many answers within ten seconds a source address hears nothing for ten seconds.
    Lockout(u32),
    /// Each answer follows a datagram that is no STUN, and one with a foreign transaction id.
    Garbage,
    /// Each answer comes twice.
    Duplicate,
    /// RESPONSE-PORT is ignored: the answer goes to the source.
    ResponsePortIgnored,
    /// RESPONSE-PORT gets error 420.
    ResponsePortRefused,
    /// RESPONSE-PORT is read in its 2-byte form only, else answered with 400.
    #[serde(rename = "response-port-2-only")]
    ResponsePort2Only,
    /// RESPONSE-PORT is read in its 4-byte form only, else answered with 400.
    #[serde(rename = "response-port-4-only")]
    ResponsePort4Only,
    /// Answers carry MAPPED-ADDRESS, but not its masked form.
    NoXor,
    /// It shows everybody the same external endpoint, which is nobody's.
    MappedConstant,
    /// A public proxy stands in front of it: it sees that one's address, and ports of its choice.
    MappedByProxy,
    /// Answers carry neither RESPONSE-ORIGIN nor its classic form.
    NoOrigin,
    /// The receipt of our own servers is unknown here.
    NoReceipt,
    /// UDP gets no answer; TCP does.
    UdpDead,
    /// TCP connections are refused.
    TcpClosed,
}

/// A message again, with each attribute kept (`Some`), dropped (`None`) or given another address.
pub(super) fn rewritten(message: &[u8], mut edit: impl FnMut(Attribute<'_>) -> Edit) -> Option<Vec<u8>> {
    let view = View::parse(message).ok()?;
    let mut buffer = vec![0; message.len() + 64];
    let mut writer = Writer::new(&mut buffer, view.class(), &view.id());
    for attribute in view.attributes() {
        match edit(attribute) {
            _ if attribute.number == attr::FINGERPRINT => {
                writer.fingerprint();
            }
            Edit::Keep => {
                writer.bytes(attribute.number, attribute.value);
            }
            Edit::Drop => {}
            Edit::Address(address) => {
                writer.address(attribute.number, address);
            }
            Edit::XorAddress(change) => {
                if let Some(seen) = view.xor_address(attribute.number) {
                    writer.xor_address(attribute.number, change(seen));
                }
            }
            Edit::Number(number) => {
                writer.bytes(number, attribute.value);
            }
            Edit::AlsoXoredWithId => {
                writer.bytes(attribute.number, attribute.value);
                let mut value = attribute.value.to_vec();
                let id = view.id().0;
                // The port is XORed with the first half of what the address is XORed with.
                value.iter_mut().skip(2).zip(id[..2].iter().chain(&id)).for_each(|(byte, key)| *byte ^= key);
                writer.bytes(attr::XOR_MAPPED_ADDRESS, &value);
            }
        }
    }
    let length = writer.finish().ok()?;
    buffer.truncate(length);
    Some(buffer)
}

/// What becomes of an attribute.
pub(super) enum Edit {
    Keep,
    Drop,
    Address(SocketAddr),
    /// The XORed address, changed.
    XorAddress(fn(SocketAddr) -> SocketAddr),
    /// Another number, the same value.
    Number(u16),
    /// As it is, and once more as an old server XORs it.
    AlsoXoredWithId,
}

impl Fault {
    /// What it does to an attribute of a request.
    pub(super) fn on_request(self, number: u16) -> Edit {
        match (self, number) {
            (Self::ChangeIgnored | Self::ChangeFaked, attr::CHANGE_REQUEST)
            | (Self::ResponsePortIgnored, attr::RESPONSE_PORT)
            | (Self::NoReceipt | Self::Stund, attr::RECEIPT) => Edit::Drop,
            _ => Edit::Keep,
        }
    }

    /// What it does to an attribute of an answer. `asked` is where the request came to, `wanted` the endpoint that
    /// it wanted its answer from, `classic` whether it is in the classic dialect.
    pub(super) fn on_answer(self, number: u16, asked: SocketAddr, wanted: SocketAddr, classic: bool) -> Edit {
        let other = number == attr::OTHER_ADDRESS || number == attr::CHANGED_ADDRESS;
        let origin = number == attr::RESPONSE_ORIGIN || number == attr::SOURCE_ADDRESS;
        let port = asked.port() ^ 1;
        match self {
            Self::OtherSameIp if other => Edit::Address(SocketAddr::new(asked.ip(), port)),
            Self::OtherPrivate if other => {
                Edit::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)), port))
            }
            Self::OtherUnspecified if other => {
                Edit::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
            }
            Self::OriginLies if origin => {
                Edit::Address(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99)), 3478))
            }
            Self::ChangeFaked if origin => Edit::Address(wanted),
            Self::Stund => match number {
                attr::RESPONSE_ORIGIN => Edit::Number(attr::SOURCE_ADDRESS),
                attr::OTHER_ADDRESS => Edit::Number(attr::CHANGED_ADDRESS),
                attr::MAPPED_ADDRESS if classic => Edit::AlsoXoredWithId,
                _ => Edit::Keep,
            },
            Self::MappedConstant | Self::MappedByProxy if number == attr::MAPPED_ADDRESS => Edit::Drop,
            Self::MappedConstant if number == attr::XOR_MAPPED_ADDRESS => {
                Edit::XorAddress(|_| (Ipv4Addr::new(192, 0, 2, 77), 7777).into())
            }
            Self::MappedByProxy if number == attr::XOR_MAPPED_ADDRESS => Edit::XorAddress(|seen| {
                (Ipv4Addr::new(192, 0, 2, 50), seen.port().wrapping_mul(31) | 1024).into()
            }),
            Self::NoXor if number == attr::XOR_MAPPED_ADDRESS => Edit::Drop,
            Self::NoOrigin if origin => Edit::Drop,
            _ => Edit::Keep,
        }
    }

    /// The error with which it refuses a request, and the attribute that it objects to.
    pub(super) fn refuses(self, request: &View<'_>) -> Option<(u16, Option<u16>)> {
        let length = |number| request.find(number).map(<[u8]>::len);
        match self {
            Self::ChangeRefused if request.u32(attr::CHANGE_REQUEST).is_some_and(|flags| flags != 0) => {
                Some((420, Some(attr::CHANGE_REQUEST)))
            }
            Self::ResponsePortRefused if length(attr::RESPONSE_PORT).is_some() => {
                Some((420, Some(attr::RESPONSE_PORT)))
            }
            Self::ResponsePort2Only if length(attr::RESPONSE_PORT).is_some_and(|n| n != 2) => {
                Some((400, None))
            }
            Self::ResponsePort4Only if length(attr::RESPONSE_PORT).is_some_and(|n| n != 4) => {
                Some((400, None))
            }
            _ => None,
        }
    }
}
