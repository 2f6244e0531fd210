//! What kind an interface is, from `/sys/class/net` (Linux): the types of if_arp.h, `tun_flags` of TUN devices, `DEVTYPE` in
//! `uevent`.

use std::{fs, net::IpAddr, path::Path};

use super::InterfaceKind;

/// The kind of the interface that has this own address.
pub(super) fn kind(own: IpAddr) -> InterfaceKind {
    let Ok(interfaces) = if_addrs::get_if_addrs() else { return InterfaceKind::Unknown };
    let Some(name) = interfaces.iter().find(|it| it.ip() == own).map(|it| it.name.clone()) else {
        return InterfaceKind::Unknown;
    };
    let is_carrier = |it: &if_addrs::Interface| {
        it.name != name && !it.is_loopback() && of(&read(&it.name)) == InterfaceKind::Ordinary
    };
    match of(&read(&name)) {
        InterfaceKind::Tunnel { .. } => {
            InterfaceKind::Tunnel { is_carried: interfaces.iter().any(is_carrier) }
        }
        kind => kind,
    }
}

/// What the system says of an interface.
#[derive(Default)]
struct Files {
    kind: String,
    tun_flags: String,
    uevent: String,
}

fn read(name: &str) -> Files {
    let folder = Path::new("/sys/class/net").join(name);
    let file = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
    Files { kind: file("type"), tun_flags: file("tun_flags"), uevent: file("uevent") }
}

fn of(files: &Files) -> InterfaceKind {
    let flags = u32::from_str_radix(files.tun_flags.trim().trim_start_matches("0x"), 16).unwrap_or_default();
    match files.kind.trim() {
        "" => InterfaceKind::Unknown,
        _ if files.uevent.lines().any(|line| line == "DEVTYPE=wireguard") => InterfaceKind::WireGuard,
        // A TAP device is a network card to those who use it: containers and virtual machines do.
        _ if flags & IFF_TUN != 0 => InterfaceKind::Tunnel { is_carried: false },
        IN_IPV6 => InterfaceKind::InIpv6,
        _ => InterfaceKind::Ordinary,
    }
}

const IFF_TUN: u32 = 1;
/// ARPHRD_TUNNEL6.
const IN_IPV6: &str = "769";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_tell_the_kind() {
        let of = |kind: &str, tun_flags: &str, uevent: &str| {
            of(&Files { kind: kind.into(), tun_flags: tun_flags.into(), uevent: uevent.into() })
        };
        assert_eq!(of("1\n", "", "INTERFACE=eth0\n"), InterfaceKind::Ordinary);
        assert_eq!(of("1\n", "0x1002\n", ""), InterfaceKind::Ordinary, "TAP");
        assert_eq!(of("65534\n", "0x1001\n", ""), InterfaceKind::Tunnel { is_carried: false });
        assert_eq!(of("65534\n", "", "DEVTYPE=wireguard\nINTERFACE=wg0\n"), InterfaceKind::WireGuard);
        assert_eq!(of("65534\n", "", "DEVTYPE=wwan\n"), InterfaceKind::Ordinary, "a modem");
        assert_eq!(of("769\n", "", ""), InterfaceKind::InIpv6);
        assert_eq!(of("", "", ""), InterfaceKind::Unknown, "no such files");
    }
}
