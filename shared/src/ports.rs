//! UDP ports that a STUN server rightly keeps quiet towards, and that a client therefore does not send from.

/// UDP services that answer strangers, so that an answer aimed at them makes more traffic: echo, qotd, chargen,
/// DNS, TFTP, portmap, NTP, NetBIOS, SNMP, CLDAP, RIP, SSDP, WS-Discovery, SIP, mDNS, CoAP, Memcached and the like.
const REFLECTORS: &[u16] = &[
    7, 17, 19, 53, 69, 111, 123, 137, 138, 161, 389, 427, 520, 623, 1434, 1900, 3283, 3702, 5060, 5093, 5353,
    5683, 10001, 11211, 27960, 32414, 37810,
];

/// Whether services on this port answer strangers, so that an answer aimed at it would make more traffic.
#[must_use]
pub fn is_reflector(port: u16) -> bool {
    REFLECTORS.binary_search(&port).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_searched() {
        assert!(REFLECTORS.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(is_reflector(11211) && !is_reflector(3478));
    }
}
