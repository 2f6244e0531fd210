//! Linux's table of IPv4 routes, `/proc/net/route`: one a line, addresses in hexadecimal as they lie in memory (proc(5)).

use std::net::{IpAddr, Ipv4Addr};

/// The gateway of the default route over this interface, for packets of IPv4.
pub(super) fn default_gateway(interface: &str, own: IpAddr) -> Option<IpAddr> {
    // That of the thread: the process may have threads in several networks.
    let table = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
    own.is_ipv4().then(|| parse(&table, interface)).flatten().map(IpAddr::V4)
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
}
