//! Linux's list of IPv6 addresses, `/proc/net/if_inet6`: one a line, with scope and flags in hexadecimal (rtnetlink(7),
//! `IFA_F_*`).

use std::net::Ipv6Addr;

use crate::report::{AddressKind, OwnAddress};

/// The addresses of this host.
pub(super) fn read() -> Vec<OwnAddress> {
    std::fs::read_to_string("/proc/net/if_inet6").map_or_else(|_| Vec::new(), |text| parse(&text))
}

/// Those of global scope that are in use.
fn parse(text: &str) -> Vec<OwnAddress> {
    text.lines().filter_map(address).collect()
}

fn address(line: &str) -> Option<OwnAddress> {
    let mut words = line.split_whitespace();
    let address = Ipv6Addr::from(u128::from_str_radix(words.next()?, 16).ok()?);
    let [_interface, _prefix, scope, flags] = [(); 4].map(|()| words.next());
    let number = |word: Option<&str>| u32::from_str_radix(word?, 16).ok();
    let (scope, flags) = (number(scope)?, number(flags)?);
    let has = |flag| flags & flag != 0;
    if scope != GLOBAL || has(TENTATIVE) || has(DUPLICATE) {
        return None;
    }
    let kind = match address.segments()[0] & 0xfe00 {
        _ if has(DEPRECATED) => AddressKind::Deprecated,
        0xfc00 => AddressKind::UniqueLocal,
        _ if has(TEMPORARY) => AddressKind::Temporary,
        _ => AddressKind::Stable,
    };
    Some(OwnAddress::new(address.into(), kind))
}

const GLOBAL: u32 = 0;
const TEMPORARY: u32 = 0x01;
const DUPLICATE: u32 = 0x08;
const DEPRECATED: u32 = 0x20;
const TENTATIVE: u32 = 0x40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_scope_tell_the_kind() {
        let text = "20010db8000100000000000000000005 02 40 00 80     eth0\n\
                    20010db800010000dead00000000beef 02 40 00 01     eth0\n\
                    20010db8000100000000000000000009 02 40 00 a0     eth0\n\
                    20010db800010000000000000000000a 02 40 00 c0     eth0\n\
                    fd000000000000000000000000000001 02 40 00 80     eth0\n\
                    fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    00000000000000000000000000000001 01 80 10 80       lo\n\
                    nonsense\n";
        let found: Vec<(String, AddressKind)> =
            parse(text).into_iter().map(|own| (own.address.to_string(), own.kind)).collect();
        let wanted = [
            ("2001:db8:1::5", AddressKind::Stable),
            ("2001:db8:1:0:dead::beef", AddressKind::Temporary),
            ("2001:db8:1::9", AddressKind::Deprecated),
            ("fd00::1", AddressKind::UniqueLocal),
        ];
        assert_eq!(found, wanted.map(|(address, kind)| (address.to_owned(), kind)));
    }
}
