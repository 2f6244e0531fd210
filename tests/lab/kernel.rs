//! The kernel driver: hosts, routers whose NAT is the kernel's own, a router hop, a server; all in namespaces.
//!
//! ```text
//! host 192.168.77.2 -- .1 router 203.0.113.1 -- .254 core 198.51.100.1 -- server 198.51.100.10 and .11
//! 2001:db8:77::2       2001:db8:203::1                                    2001:db8:100::10 and ::11
//! ```
//!
//! Several sites sit side by side (`203.0.113.2`, LAN `192.168.78.0/24`, ...). A site with two routers has the
//! carrier's realm 100.64.N.0/24 between them; a site that translates nothing has public addresses, 192.0.2.16N/28.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use shared::nat::model::Stack;

use crate::{
    LabError,
    address::{CORE4, CORE6, SERVER4, SERVER6, Site},
    host::Host,
    netns::Namespace,
    rules::{Rules, express},
};

/// The namespaces of a built laboratory.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) hosts: Vec<Host>,
    pub(crate) server: Host,
    /// From the core outwards; kept, as dropping them removes them.
    pub(crate) routers: Vec<Namespace>,
}

/// Builds one site for each NAT, each with this many hosts.
pub(crate) fn build(nats: &[Stack], hosts_per_site: u8) -> Result<Kernel, LabError> {
    let core = Namespace::new("core")?;
    let server = Namespace::new("server")?;
    forward(&core)?;
    core.ip(&format!(
        "link add wan type bridge\nlink set wan up\n\
         addr add {CORE4}/24 dev wan\naddr add {CORE6}/64 dev wan nodad\n\
         link add srv type veth peer name eth0 netns {}\nlink set srv up\n\
         addr add 198.51.100.1/24 dev srv\naddr add 2001:db8:100::1/64 dev srv nodad\n",
        server.path().display()
    ))?;
    let mut batch = String::from("link set eth0 up\n");
    SERVER4.iter().for_each(|ip| batch += &format!("addr add {ip}/24 dev eth0\n"));
    SERVER6.iter().for_each(|ip| batch += &format!("addr add {ip}/64 dev eth0 nodad\n"));
    server.ip(&(batch + "route add default via 198.51.100.1\nroute add ::/0 via 2001:db8:100::1\n"))?;

    let mut hosts = Vec::new();
    let mut routers = vec![core];
    for (number, nat) in (0..).zip(nats) {
        let rules = express(nat)?;
        let site = Site { number, translated: rules.iter().any(Rules::translates) };
        build_site(&site, &rules, hosts_per_site, &mut routers, &mut hosts)?;
    }
    hosts.iter().try_for_each(|host: &Host| host.settle())?;
    routers.iter().chain([&server]).try_for_each(Namespace::settle)?;
    Ok(Kernel { hosts, server: Host::new(server, SERVER4[0], SERVER6[0]), routers })
}

/// The outside of a router: its interface, and the next hop.
struct Uplink {
    address4: Ipv4Addr,
    gateway4: Ipv4Addr,
    address6: Ipv6Addr,
    gateway6: Ipv6Addr,
}

fn build_site(
    site: &Site,
    nats: &[Rules],
    hosts_per_site: u8,
    routers: &mut Vec<Namespace>,
    hosts: &mut Vec<Host>,
) -> Result<(), LabError> {
    let number = site.number;
    let mut outer = 0;
    for (level, rules) in (0..).zip(nats.iter().rev()) {
        let router = Namespace::new(format!("router {number}.{level}"))?;
        forward(&router)?;
        let up = uplink(site, level);
        let (port, bridge) = (format!("site{number}"), if level == 0 { "wan" } else { "lan" });
        let mut batch = format!(
            "link add {port} type veth peer name wan netns {}\nlink set {port} master {bridge} up\n\
             route add {} via {}\n",
            router.path().display(),
            site.lan6(),
            up.address6,
        );
        if level > 0 || !site.translated {
            batch += &format!("route add {} via {}\n", site.lan4(), up.address4);
        }
        routers[outer].ip(&batch)?;
        // Customers are adjacent to the core only: all packets between them pass through it.
        router.ip(&format!(
            "link set wan up\naddr add {}/32 dev wan\naddr add {}/64 dev wan nodad\n\
             route add {gateway4} dev wan\nroute add default via {gateway4}\nroute add ::/0 via {}\n\
             link add lan type bridge\nlink set lan up\n",
            up.address4,
            up.address6,
            up.gateway6,
            gateway4 = up.gateway4,
        ))?;
        if level + 1 < nats.len() {
            let inner = uplink(site, level + 1);
            router.ip(&format!(
                "addr add {}/24 dev lan\naddr add {}/64 dev lan nodad\n",
                inner.gateway4, inner.gateway6
            ))?;
        }
        router.nft(&rules.nft(up.address4))?;
        if let Some((before, stream)) = rules.timers() {
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout", before)?;
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", stream)?;
        }
        routers.push(router);
        outer = routers.len() - 1;
    }
    let gateway = &routers[outer];
    let (prefix4, router4, router6) = (site.prefix4(), site.router4(), site.router6());
    gateway.ip(&format!("addr add {router4}/{prefix4} dev lan\naddr add {router6}/64 dev lan nodad\n"))?;
    for index in 0..hosts_per_site {
        let host = Namespace::new(format!("host {number}.{index}"))?;
        gateway.ip(&format!(
            "link add host{index} type veth peer name eth0 netns {}\nlink set host{index} master lan up\n",
            host.path().display()
        ))?;
        let (ip4, ip6) = (site.host4(index), site.host6(index));
        host.ip(&format!(
            "link set eth0 up\naddr add {ip4}/{prefix4} dev eth0\naddr add {ip6}/64 dev eth0 nodad\n\
             route add default via {router4}\nroute add ::/0 via {router6}\n"
        ))?;
        hosts.push(Host::new(host, ip4, ip6));
    }
    Ok(())
}

fn uplink(site: &Site, level: usize) -> Uplink {
    if level == 0 {
        return Uplink { address4: site.wan4(), gateway4: CORE4, address6: site.wan6(), gateway6: CORE6 };
    }
    let realm6 = |host| Ipv6Addr::new(0x2001, 0xdb8, 0x64, site.number.into(), 0, 0, 0, host);
    Uplink {
        address4: Ipv4Addr::new(100, 64, site.number, 2),
        gateway4: Ipv4Addr::new(100, 64, site.number, 1),
        address6: realm6(2),
        gateway6: realm6(1),
    }
}

fn forward(router: &Namespace) -> Result<(), LabError> {
    router.sysctl("net/ipv4/ip_forward", 1)?;
    router.sysctl("net/ipv6/conf/all/forwarding", 1)?;
    // With br_netfilter, bridges would forward hairpinned packets to another host themselves, but never back to the host
    // that they came from.
    for filter in ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"] {
        if Path::new("/proc/sys").join(filter).exists() {
            router.sysctl(filter, 0)?;
        }
    }
    Ok(())
}
