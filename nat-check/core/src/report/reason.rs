//! Why a finding has no value, or what to know about the one it has: a code for scripts and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The reason as a stable word. The sentence beside it may change, the word does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReasonCode {
    // The run.
    /// The user did not ask for it.
    NotAskedFor,
    /// The run ended before it was done.
    EndedEarly,
    /// No time was left for this server.
    NoTimeLeft,
    /// The operating system refused a socket, a packet or random numbers.
    SystemRefused,
    /// This host has no route to the server in this family.
    NoRoute,
    /// The machine was suspended during the measurement.
    Suspended,
    // Reaching a server.
    /// The server's name did not resolve.
    NameNotResolved,
    /// The server has no address in this family.
    ServerHasNoAddress,
    /// The server answered over no transport, or not over the one in question.
    ServerUnreachable,
    /// UDP does not pass, or the server does not serve it.
    UdpBlocked,
    /// TCP does not pass, or the server does not serve it.
    TcpBlocked,
    // What the server does.
    /// It names no alternate address (OTHER-ADDRESS).
    ServerHasNoAlternate,
    /// It names an alternate address that is of no use.
    ServerAlternateUnusable,
    /// One of its endpoints does not answer.
    ServerEndpointSilent,
    /// Nothing that is sent to its other port is answered: a firewall may let out other ports only.
    AlternatePortSilent,
    /// Nothing that is sent to its other address is answered: a firewall may not let it out.
    AlternateAddressSilent,
    /// It answers the request with an error.
    ServerRefuses,
    /// It ignores what the request asks for.
    ServerIgnores,
    /// It honours part of the request only.
    ServerHonoursPart,
    /// It confirms no receipt of requests, so that silence proves nothing.
    ServerGivesNoReceipts,
    /// It takes so long for each request that only what the verdict rests on was asked.
    ServerSlow,
    /// It does not connect back to clients.
    ServerHasNoTestSessions,
    /// It is not known whether it does what it was asked to.
    ServerNotProven,
    /// It leaves out an attribute that is needed.
    ServerOmitsAttribute,
    /// A NAT stands in front of it, so that it sees that one's addresses and not this host's.
    NatBeforeServer,
    /// It shows this host's own private address, which nobody in the Internet can see.
    PrivateAddressShown,
    /// It shows the external endpoint in a form that gateways can rewrite.
    AddressNotMasked,
    // Several servers.
    /// Two servers that are equally sure contradict each other.
    ServersDisagree,
    /// All servers have the same address.
    ServersShareAddress,
    /// All servers have the same port number.
    OnePortNumber,
    // Packets.
    /// More packets were lost than a conclusion allows.
    TooMuchLoss,
    /// Loss leaves some doubt about the value.
    LossLeavesDoubt,
    /// No answer came to what was asked.
    NoAnswer,
    /// Too few observations for a conclusion.
    TooFewSamples,
    /// A round trip takes so long that only what the verdict rests on was asked.
    LongRoundTrip,
    /// The measurement did not reach its end.
    Unfinished,
    /// Something answers over TCP sooner than the server does over UDP.
    HandshakeTooFast,
    /// Something on the way answers connections in the server's place.
    ConnectionsIntercepted,
    // What the NAT does.
    /// Nothing translates addresses here.
    NoTranslation,
    /// Nothing is filtered here.
    NoFilter,
    /// The mapping depends on the destination.
    MappingDependsOnDestination,
    /// The NAT behaves in one way first and in another later.
    NotDeterministic,
    /// RFC 4787 has no class for this behaviour.
    NoClass,
    /// Something may have been sent to the server's other address lately, and a filter may remember it.
    AlternateNotFresh,
    /// The filter knows hosts only, not their ports.
    FilterCountsHosts,
    /// A device on the way may not count hops, or count them anew.
    HopsNotCounted,
    /// The outermost filter is farther away than is looked.
    TooFarAway,
    /// One host cannot tell: it takes two.
    OneHostCannotTell,
    /// The NAT gives one host several external addresses.
    SeveralExternalAddresses,
    /// The NAT holds no more mappings for one host.
    MappingLimit,
    /// The NAT lost its state during the measurement.
    NatStateLost,
    /// The external address changed during the measurement.
    ExternalAddressChanged,
    /// Some sockets got another port than the policy says.
    PortsPartlyKept,
    /// A new mapping cannot be told from an old one.
    NewMappingLooksLikeOld,
    /// A peer's packet that arrives first changes the mapping.
    InboundFirstRemaps,
    /// The mapping depends on the destination for certain, but not on what of it is known.
    MappingKindUnknown,
    /// The mapping is not known, which this builds on.
    MappingUnknown,
    /// The filtering is not known, which this builds on.
    FilteringUnknown,
    // Opening ports at the gateway.
    /// The system does not say which gateway this host uses, or there is none.
    GatewayUnknown,
    /// The gateway refuses to open a port.
    MappingRefused,
    /// The gateway does not answer what it is asked, or not as its protocol wants.
    GatewayAnswerUnusable,
    /// Another NAT stands between the gateway and the Internet.
    BehindAnotherNat,
    /// The gateway says that the port is open, and nothing comes through it.
    GrantedWithoutEffect,
    /// What was opened can be reached without that, too.
    ReachableWithoutMapping,
    /// The gateway names no external address.
    NoExternalAddressNamed,
    /// Only the gateway itself says so.
    GatewaysWordOnly,
    /// The gateway lost the ports that it had opened during the run.
    GatewayLostMappings,
    /// The gateway tells no epoch, so that it cannot be seen whether it lost its mappings.
    NoEpochNamed,
    /// The second NAT is not the user's own, or there is none.
    SecondNatNotOwn,
    /// It is not sure that there is a second NAT of the user's own.
    SecondNatUnsure,
    // Proxies.
    /// The proxy is not reached.
    ProxyUnreachable,
    /// The proxy answers too late, not at all, or not in its protocol.
    ProxyAnswerUnusable,
    /// The proxy wants a user name and a password.
    ProxyWantsCredentials,
    /// The proxy refuses the user name or the password.
    ProxyRefusesCredentials,
    /// The proxy refuses what it is asked for.
    ProxyRefuses,
    /// The proxy does not reach the server.
    ProxyDoesNotReachServer,
    /// The protocol of the proxy has no words for it.
    NotInProxyProtocol,
    /// The proxy grants it, and nobody has tried from outside.
    GrantedNotTried,
    /// The server was given by address, so there is no name that the proxy could look up.
    NoNameToLookUp,
    /// It cannot be measured through a proxy.
    NotThroughProxy,
    /// The proxy names a relay that cannot be it, so its own address was used.
    RelayAddressUnusable,
    // Layers of NAT.
    /// The server is in a private network, so that what lies behind it is not seen.
    ServerNotInInternet,
    /// The system does not tell at which router packets die.
    SystemCannotTell,
    /// What was seen contradicts itself.
    EvidenceContradicts,
    /// A private address does not tell whose network it belongs to.
    PrivateAddressOnly,
    /// The routers on the way tell too little of themselves.
    RoutersSilent,
    /// The gateway names another public address than the server sees.
    AnotherPublicAddress,
    // IPv6.
    /// An interface identifier is so short that a router may have the same one.
    IdentifierTooShort,
    /// Strangers reach ports that have sent something, and no others.
    FilterOpensBySending,
    // Rooms.
    /// Only one of the two says that there is a path.
    OneSideSays,
    /// A member left before the pair was settled.
    MemberLeft,
    /// The two could not carry their attempt to its end.
    AttemptBroken,
    // Game consoles.
    /// The maker of the console does not say what decides it.
    VendorRuleUnknown,
    // A browser that measures.
    /// A browser cannot measure it.
    NotInABrowser,
    /// The browser offers no UDP.
    BrowserForbidsUdp,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

/// A code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// For scripts.
    pub code: ReasonCode,
    /// For people.
    pub text: String,
}

impl<T: Into<String>> From<(ReasonCode, T)> for Reason {
    fn from((code, text): (ReasonCode, T)) -> Self {
        Self { code, text: text.into() }
    }
}

impl Reason {
    /// The same code with the sentence changed.
    #[must_use]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Self {
        Self { text: change(self.text), ..self }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_one_kebab_case_word_and_unknown_ones_are_read() {
        let json = serde_json::to_value(ReasonCode::ServerHasNoAlternate).unwrap();
        assert_eq!(json, "server-has-no-alternate");
        assert_eq!(serde_json::from_value::<ReasonCode>(json).unwrap(), ReasonCode::ServerHasNoAlternate);
        assert_eq!(serde_json::from_str::<ReasonCode>("\"from-the-future\"").unwrap(), ReasonCode::Other);
    }
}
