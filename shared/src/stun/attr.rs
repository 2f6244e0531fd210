//! STUN attribute numbers, their names, and the flag bits of CHANGE-REQUEST (RFC 8489, RFC 5780, RFC 3489).

/// Attributes below this number must be understood by the receiver (RFC 8489 section 14).
pub const COMPREHENSION_OPTIONAL: u16 = 0x8000;

/// CHANGE-REQUEST flag: answer from the other IP address (RFC 5780 section 7.2).
pub const CHANGE_IP: u32 = 0x4;
/// CHANGE-REQUEST flag: answer from the other port.
pub const CHANGE_PORT: u32 = 0x2;

macro_rules! attributes {
    ($($(#[$doc:meta])* $name:ident = $value:literal $text:literal;)*) => {
        $($(#[$doc])* pub const $name: u16 = $value;)*

        /// The standard's name of an attribute number, if it is one that this crate knows.
        #[must_use]
        pub fn name(number: u16) -> Option<&'static str> {
            match number {
                $($value => Some($text),)*
                _ => None,
            }
        }
    };
}

attributes! {
    /// The requester's address as seen, in clear (RFC 8489 section 14.1).
    MAPPED_ADDRESS = 0x0001 "MAPPED-ADDRESS";
    /// Where to answer, instead of the source (RFC 3489): never honoured, it aims at third parties.
    RESPONSE_ADDRESS = 0x0002 "RESPONSE-ADDRESS";
    /// Which address and port to answer from (RFC 5780 section 7.2).
    CHANGE_REQUEST = 0x0003 "CHANGE-REQUEST";
    /// Where a classic answer was sent from (RFC 3489 section 11.2.5).
    SOURCE_ADDRESS = 0x0004 "SOURCE-ADDRESS";
    /// The alternate address in a classic answer (RFC 3489 section 11.2.3).
    CHANGED_ADDRESS = 0x0005 "CHANGED-ADDRESS";
    /// User name (RFC 8489 section 14.3).
    USERNAME = 0x0006 "USERNAME";
    /// Message integrity, SHA-1 (RFC 8489 section 14.5).
    MESSAGE_INTEGRITY = 0x0008 "MESSAGE-INTEGRITY";
    /// Class and number of an error (RFC 8489 section 14.8).
    ERROR_CODE = 0x0009 "ERROR-CODE";
    /// The attributes that a 420 answer objects to (RFC 8489 section 14.13).
    UNKNOWN_ATTRIBUTES = 0x000A "UNKNOWN-ATTRIBUTES";
    /// Who asked, when RESPONSE-ADDRESS was honoured (RFC 3489 section 11.2.11).
    REFLECTED_FROM = 0x000B "REFLECTED-FROM";
    /// Realm (RFC 8489 section 14.9).
    REALM = 0x0014 "REALM";
    /// Nonce (RFC 8489 section 14.10).
    NONCE = 0x0015 "NONCE";
    /// Message integrity, SHA-256 (RFC 8489 section 14.6).
    MESSAGE_INTEGRITY_SHA256 = 0x001C "MESSAGE-INTEGRITY-SHA256";
    /// The requester's address as seen, masked against meddling boxes (RFC 8489 section 14.2).
    XOR_MAPPED_ADDRESS = 0x0020 "XOR-MAPPED-ADDRESS";
    /// Which pair of candidates a check is for, and how much it is preferred (RFC 8445 section 7.1.1).
    PRIORITY = 0x0024 "PRIORITY";
    /// The controlling side nominates this pair (RFC 8445 section 7.1.2).
    USE_CANDIDATE = 0x0025 "USE-CANDIDATE";
    /// Free bytes that make a message longer (RFC 5780 section 7.6).
    PADDING = 0x0026 "PADDING";
    /// The port to answer to (RFC 5780 section 7.5).
    RESPONSE_PORT = 0x0027 "RESPONSE-PORT";
    /// XOR-MAPPED-ADDRESS as servers sent it before RFC 5389.
    XOR_MAPPED_ADDRESS_OLD = 0x8020 "XOR-MAPPED-ADDRESS (before RFC 5389)";
    /// Name of the software (RFC 8489 section 14.14).
    SOFTWARE = 0x8022 "SOFTWARE";
    /// Another server to ask (RFC 8489 section 14.15).
    ALTERNATE_SERVER = 0x8023 "ALTERNATE-SERVER";
    /// Check sum over the message (RFC 8489 section 14.7).
    FINGERPRINT = 0x8028 "FINGERPRINT";
    /// The sender takes the controlled role, with its tie-breaker (RFC 8445 section 7.1.3).
    ICE_CONTROLLED = 0x8029 "ICE-CONTROLLED";
    /// The sender takes the controlling role, with its tie-breaker (RFC 8445 section 7.1.3).
    ICE_CONTROLLING = 0x802A "ICE-CONTROLLING";
    /// Where the answer was sent from (RFC 5780 section 7.3).
    RESPONSE_ORIGIN = 0x802B "RESPONSE-ORIGIN";
    /// The alternate address (RFC 5780 section 7.4).
    OTHER_ADDRESS = 0x802C "OTHER-ADDRESS";
    /// Ours, comprehension-optional. In a request: filler bytes that pay for a longer or second answer, so that
    /// the server never sends more than it received.
    FILLER = 0xD5C0 "FILLER";
    /// Ours, comprehension-optional. In a request (empty): "tell me, from the address I asked, that you saw this
    /// and where the answer left from". In the answer to that: the address the tested answer was sent from,
    /// in MAPPED-ADDRESS format.
    RECEIPT = 0xD5C1 "RECEIPT";
    /// Ours, comprehension-optional. Beside RECEIPT in an answer: for so many seconds no datagram from the requester's IP
    /// address (IPv6: its /64) has come to any endpoint at the server's other IP address; never longer than the server
    /// has run.
    ALTERNATE_UNHEARD = 0xD5C2 "ALTERNATE-UNHEARD";
    /// Ours, comprehension-optional. In a request: the 16 bytes of a test session's token, which prove to the server that
    /// the session's client has the external port that the request comes from.
    TOKEN = 0xD5C4 "TOKEN";
}
