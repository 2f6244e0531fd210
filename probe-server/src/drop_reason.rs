//! Why a datagram gets no answer: every reason has a name and a counter.

use shared::stun::ParseError;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal;)*) => {
        /// Why a datagram gets no answer.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DropReason {
            $($(#[$doc])* $variant,)*
        }

        impl DropReason {
            /// All reasons; `ALL[r.index()] == r`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name under which it is counted.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Position in [`DropReason::ALL`].
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

reasons! {
    /// The source port is 0: no answer could arrive.
    SourcePortZero "source-port-zero";
    /// The source is no unicast address of another host: unspecified, multicast, broadcast, or IPv4 in IPv6.
    SourceAddress "source-address";
    /// The source is of a range that the public Internet does not carry, and the server is there for the Internet alone.
    BogonSource "bogon-source";
    /// The source is one of the server's own endpoints.
    OwnEndpoint "own-endpoint";
    /// The source port is one of the server's own ports: two servers must never talk to each other.
    OwnPort "own-port";
    /// The source port belongs to a service that is known to answer anything with more.
    ReflectorPort "reflector-port";
    /// Shorter than a header.
    Short "short";
    /// Longer than any request that is served.
    Long "long";
    /// Another protocol.
    NotStun "not-stun";
    /// The length field does not fit.
    Length "length";
    /// An attribute reaches over the end.
    Attribute "attribute";
    /// More attributes than any honest request has.
    TooManyAttributes "too-many-attributes";
    /// A success or error response: never answered.
    Response "response";
    /// An indication: asks for no answer.
    Indication "indication";
    /// Another method than Binding.
    Method "method";
    /// FINGERPRINT is there and wrong, or not the last attribute.
    Fingerprint "fingerprint";
    /// The endpoint that was asked does not exist.
    NoEndpoint "no-endpoint";
    /// The source, or the network around it, has had its share for now.
    RateLimited "rate-limited";
    /// The whole server has sent as much as it may for now.
    EgressCap "egress-cap";
    /// The operating system did not take the answer.
    SendFailed "send-failed";
}

impl From<ParseError> for DropReason {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Short => Self::Short,
            ParseError::NotStun => Self::NotStun,
            ParseError::Length => Self::Length,
            ParseError::Attribute => Self::Attribute,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_positions_right() {
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
        }
    }
}
