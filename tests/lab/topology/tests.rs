//! Tests of topologies: addresses, mistakes, pictures.

use super::{plan::plan, *};

const FILE: &str = r#"
about = "A phone behind a carrier, an office, a relay"

[[router]]
name = "phone"
nat = "linux"
behind = "carrier"

[[router]]
name = "carrier"
nat = "symmetric"
line = "delay=30ms loss=1% burst=3 rate=20mbit queue=64kB"

[[router]]
name = "office"
nat = ["linux", "symmetric"]

[[host]]
name = "alice"
on = "phone"
run = "sh -c 'echo hello'"

[[host]]
name = "bob"
on = ["office", { router = "phone", routes = ["198.51.100.0/24"] }]

[[internet]]
name = "turn"

[[at]]
after = "5s"
set = "phone restart"
"#;

#[test]
fn a_file_is_read_and_every_name_gets_its_addresses() {
    let topology = Topology::read(FILE).unwrap();
    let plan = plan(&topology).unwrap();
    let addresses = |host: usize| plan.hosts[host].iter().map(|i| i.ip4.to_string()).collect::<Vec<_>>();
    assert_eq!(addresses(0), ["192.168.77.2"]);
    assert_eq!(addresses(1), ["192.168.79.2", "192.168.77.3"]);
    assert_eq!(addresses(2), ["198.51.100.20"]);
    let external = |name: &str| {
        let node = plan.nodes.iter().find(|node| node.lan.name == name).unwrap();
        node.external.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(external("carrier"), ["203.0.113.2"]);
    assert_eq!(external("phone"), ["100.96.1.100"]);
    assert_eq!(external("office"), ["100.64.2.2"]);
    assert_eq!(external("office.1"), ["203.0.113.3"]);
    assert_eq!(topology.programs(), [(0, ["sh", "-c", "echo hello"].map(String::from).to_vec())]);
    assert_eq!(topology.schedule[0].after, Duration::from_secs(5));
}

#[test]
fn no_two_have_the_same_address() {
    let mut topology = Topology::new();
    for number in 0..60 {
        topology = topology.router(&format!("r{number}"), "linux");
        for host in 0..3 {
            topology = topology.host(&format!("h{number}-{host}"), &format!("r{number}"));
        }
    }
    topology = topology.router("firewall", "open").behind("r0").host("deep", "firewall");
    let plan = plan(&topology).unwrap();
    let mut all: Vec<_> = plan.hosts.iter().flatten().map(|interface| interface.ip4).collect();
    all.extend(plan.nodes.iter().map(|node| node.lan.router4));
    all.extend(plan.nodes.iter().map(|node| node.lan.outside4));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn mistakes_are_named() {
    let told = |topology: Topology| topology.check().unwrap_err().to_string();
    assert!(told(Topology::new().router("a", "no-such-nat")).contains("no-such-nat"));
    assert!(told(Topology::new().host("a", "nowhere")).contains("`nowhere`"));
    assert!(told(Topology::new().router("a", "linux").host("a", "a")).contains("taken"));
    assert!(told(Topology::new().internet("server")).contains("taken"));
    assert!(told(Topology::new().router("Ä", "linux")).contains("lower-case"));
    assert!(told(Topology::new().router("a", "linux").line("dely=3s")).contains("delay"));
    assert!(told(Topology::new().router("a", "linux").line("queue=3p")).contains("no rate"));
    let ring = Topology::new().router("a", "linux").behind("b").router("b", "linux").behind("a");
    assert!(told(ring).contains("a, b"));
    let many = (0..11).fold(Topology::new(), |topology, n| topology.internet(&format!("s{n}")));
    assert!(told(many).contains("at most 10"));
    for (from, to, named) in [
        ("[[router]]", "[[ruoter]]", "ruoter"),
        ("behind = \"carrier\"", "behind = \"career\"", "phone"),
        ("after = \"5s\"", "after = \"5\"", "`5`"),
        ("set = \"phone restart\"", "set = \"phone\"", "says not what"),
        ("echo hello'", "echo hello", "quote"),
    ] {
        let told = Topology::read(&FILE.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(told.contains(named), "{told}");
    }
}

#[test]
fn orders_are_read_and_wrong_ones_named() {
    let order: Order = "home nat=symmetric loss=5% link=down".parse().unwrap();
    assert_eq!((order.target.as_str(), order.changes.len()), ("home", 3));
    assert_eq!("a on=b".parse::<Order>().unwrap().changes, [Change::On("b".into())]);
    for wrong in
        ["", "home", "home nat=nut", "home link=sideways", "home loss=200%", "home address=x", "home fly"]
    {
        assert!(wrong.parse::<Order>().is_err(), "{wrong}");
    }
}

#[test]
fn the_picture_shows_everything() {
    let topology = Topology::read(FILE).unwrap();
    let text = topology.draw_text().unwrap();
    let expected = "\
internet        probe server 198.51.100.10 and .11, echo 198.51.100.10:7
├─ turn         198.51.100.20
├─ carrier      symmetric 203.0.113.2
│  └─ phone     linux 100.96.1.100
│     ├─ alice  192.168.77.2 runs sh -c echo hello
│     └─ bob    eth1 192.168.77.3 for 198.51.100.0/24
└─ office       linux+symmetric 203.0.113.3
   └─ bob       eth0 192.168.79.2
";
    assert_eq!(text.lines().map(str::trim_end).count(), expected.lines().count(), "{text}");
    for (line, wanted) in text.lines().zip(expected.lines()) {
        let names = |line: &str| line.split("  ").next().unwrap_or_default().to_owned();
        assert_eq!(names(line), names(wanted), "{text}");
    }
    let svg = topology.draw_svg().unwrap();
    assert!(
        svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.matches("<rect").count() == 8,
        "{svg}"
    );
}
