//! Prefixes of addresses: how far two clients count as one host, one network, one provider.

use std::net::IpAddr;

/// The first bits of an address. An IPv4 address in IPv6 form is an IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Prefix {
    is_v6: bool,
    bits: u64,
}

impl Prefix {
    /// The first `v4` or `v6` bits of an address; at most 32 and 64.
    #[inline]
    pub(crate) fn of(ip: IpAddr, v4: u32, v6: u32) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self { is_v6: false, bits: u64::from(ip.to_bits()) >> (32 - v4) },
            IpAddr::V6(ip) => Self { is_v6: true, bits: (ip.to_bits() >> (128 - v6)) as u64 },
        }
    }

    /// One host: an IPv4 address, or the /56 that a subscriber of IPv6 is usually given (RFC 6177 section 2).
    #[inline]
    pub(crate) fn host(ip: IpAddr) -> Self {
        Self::of(ip, 32, 56)
    }

    /// One network: an IPv4 /24, or an IPv6 /48.
    #[inline]
    pub(crate) fn network(ip: IpAddr) -> Self {
        Self::of(ip, 24, 48)
    }

    /// One provider: an IPv4 /16, or an IPv6 /32.
    #[inline]
    pub(crate) fn provider(ip: IpAddr) -> Self {
        Self::of(ip, 16, 32)
    }

    /// One part of the Internet: an IPv4 /8, or an IPv6 /16.
    #[inline]
    pub(crate) fn region(ip: IpAddr) -> Self {
        Self::of(ip, 8, 16)
    }

    /// The bits alone, for tables of one family.
    #[inline]
    pub(crate) const fn bits(self) -> u64 {
        self.bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_host_is_a_56_in_ipv6() {
        let host = |text| Prefix::host(ip(text));
        assert_eq!(host("2001:db8:0:1::1"), host("2001:db8:0:2::2"));
        assert_ne!(host("2001:db8:0:100::1"), host("2001:db8:0:200::1"));
        assert_ne!(host("::"), host("0.0.0.0"));
        assert_eq!(host("::ffff:192.0.2.1"), host("192.0.2.1"));
    }

    #[test]
    fn coarser_prefixes_hold_finer_ones() {
        for (a, b, same) in [
            ("192.0.2.1", "192.0.2.9", [false, true, true, true]),
            ("192.0.2.1", "192.0.3.1", [false, false, true, true]),
            ("192.0.2.1", "192.1.2.1", [false, false, false, true]),
            ("192.0.2.1", "193.0.2.1", [false; 4]),
            ("2001:db8:0:100::", "2001:db8:0:200::", [false, true, true, true]),
            ("2001:db8:1::", "2001:db8:2::", [false, false, true, true]),
            ("2001:db8::", "2001:db9::", [false, false, false, true]),
            ("2001::", "2002::", [false; 4]),
        ] {
            let of = |text| {
                [Prefix::host, Prefix::network, Prefix::provider, Prefix::region]
                    .map(|prefix| prefix(ip(text)))
            };
            let (one, other) = (of(a), of(b));
            assert_eq!(std::array::from_fn::<_, 4, _>(|i| one[i] == other[i]), same, "{a} {b}");
        }
    }
}
