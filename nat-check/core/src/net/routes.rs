//! Linux's tables of routes, one a line: of IPv4 in `/proc/net/route`, with addresses in hexadecimal as they lie in memory
//! (proc(5)); of IPv6 in `/proc/net/ipv6_route`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The gateway of the default route over this interface, for the family of this own address.
pub(super) fn default_gateway(interface: &str, own: IpAddr) -> Option<IpAddr> {
    // That of the thread: the process may have threads in several networks.
    let table = |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok();
    match own {
        IpAddr::V4(_) => parse(&table("route")?, interface).map(IpAddr::V4),
        IpAddr::V6(_) => parse6(&table("ipv6_route")?, interface).map(IpAddr::V6),
    }
}

/// The default route of IPv6 with the lowest metric.
fn parse6(table: &str, interface: &str) -> Option<Ipv6Addr> {
    table.lines().filter_map(|line| route6(line, interface)).min().map(|(_, gateway)| gateway)
}

fn route6(line: &str, interface: &str) -> Option<(u32, Ipv6Addr)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [destination, prefix, _, _, gateway, metric, _, _, flags, name] = words.as_slice() else {
        return None;
    };
    let number = |word: &str| u32::from_str_radix(word, 16).ok();
    let address = |word: &str| u128::from_str_radix(word, 16).ok().map(Ipv6Addr::from);
    let is_default = address(destination)?.is_unspecified() && number(prefix)? == 0;
    if *name != interface || !is_default || number(flags)? & GATEWAY == 0 {
        return None;
    }
    Some((number(metric)?, address(gateway)?))
}

/// The default route with the lowest metric.
fn parse(table: &str, interface: &str) -> Option<Ipv4Addr> {
    table.lines().filter_map(|line| route(line, interface)).min().map(|(_, gateway)| gateway)
}

fn route(line: &str, interface: &str) -> Option<(u32, Ipv4Addr)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [name, destination, gateway, flags, _, _, metric, mask, ..] = words.as_slice() else { return None };
    let number = |word: &str| u32::from_str_radix(word, 16).ok();
    let is_default = number(destination)? == 0 && number(mask)? == 0;
    if *name != interface || !is_default || number(flags)? & GATEWAY == 0 {
        return None;
    }
    Some((metric.parse().ok()?, Ipv4Addr::from(number(gateway)?.to_ne_bytes())))
}

/// The route leads over a gateway, RTF_GATEWAY of route(8).
const GATEWAY: u32 = 0x2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_the_interface_counts() {
        let word = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let [near, far, lan, mask] =
            [[192, 168, 1, 1], [192, 168, 1, 254], [192, 168, 1, 0], [255, 255, 255, 0]].map(word);
        let table = format!(
            "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
             eth0 00000000 {far} 0003 0 0 200 00000000 0 0 0\n\
             eth0 00000000 {near} 0003 0 0 100 00000000 0 0 0\n\
             eth0 {lan} 00000000 0001 0 0 0 {mask} 0 0 0\n\
             tun0 00000000 00000000 0001 0 0 0 00000000 0 0 0\n\
             nonsense\n"
        );
        assert_eq!(parse(&table, "eth0"), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(parse(&table, "tun0"), None, "a tunnel has no gateway");
        assert_eq!(parse(&table, "eth1"), None);
    }

    #[test]
    fn so_it_does_for_ipv6() {
        let none = "0".repeat(32);
        let [near, far] = ["fe800000000000000000000000000001", "20010db8007700000000000000000001"];
        let table = format!(
            "{none} 00 {none} 00 {far} 00000400 00000001 00000000 00000003 eth0\n\
             {none} 00 {none} 00 {near} 00000064 00000001 00000000 00450003 eth0\n\
             20010db8007700000000000000000000 40 {none} 00 {none} 00000100 00000001 00000000 00000001 eth0\n\
             {none} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200 lo\nnonsense\n"
        );
        assert_eq!(parse6(&table, "eth0"), Some("fe80::1".parse().unwrap()));
        assert_eq!(parse6(&table, "lo"), None, "a rejecting route has no gateway");
    }
}
