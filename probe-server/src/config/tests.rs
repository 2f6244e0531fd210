//! Files and flags, right and wrong.

use super::*;

fn config(text: &str) -> Result<Config, String> {
    Settings::read_text(text)?.check(false).map_err(|e| e.to_string())
}

#[test]
fn a_whole_file() {
    let config = config(
        r#"
        primary = ["10.0.0.4", "2001:db8::4"]
        alternate = ["2001:db8::5", "10.0.0.5"]
        advertise = ["10.0.0.4=203.0.113.4", "10.0.0.5=203.0.113.5"]
        port = 3478
        alternate-port = 3480
        workers = 2
        admin = 9478
        tls-certificate = "cert.pem"
        tls-key = "key.pem"
        host-rate = 0
        log = "debug"
        log-format = "json"
        "#,
    )
    .unwrap();
    assert_eq!(config.families[0].alternate, Some("10.0.0.5".parse().unwrap()));
    assert_eq!(config.families[1].primary, "2001:db8::4".parse::<IpAddr>().unwrap());
    assert_eq!(config.ports, (3478, 3480));
    assert_eq!(config.admin, Some("127.0.0.1:9478".parse().unwrap()));
    assert_eq!(config.tls.unwrap().ports, (5349, 5350));
    assert_eq!(config.limits.host_rate, 0);
}

#[test]
fn what_is_wrong_is_named() {
    let rows = [
        ("", "primary: no address"),
        ("primary = \"10.0.0.4\"\nprimery = 1", "line 2: unknown field `primery`"),
        ("primary = \"10.0.0\"", "line 1: primary: '10.0.0'"),
        ("port = 70000", "line 1: port: "),
        ("primary = \"10.0.0.4\"\nport = \"x\"", "line 2: port: "),
        ("primary = \"0.0.0.0\"", "primary: 0.0.0.0 is not the address of one host"),
        ("primary = \"::ffff:10.0.0.4\"", "primary: ::ffff:10.0.0.4 is not the address of one host"),
        ("primary = [\"10.0.0.4\", \"10.0.0.5\"]", "primary: 10.0.0.4 and 10.0.0.5 are of the same family"),
        (
            "primary = \"10.0.0.4\"\nalternate = \"10.0.0.4\"",
            "alternate: 10.0.0.4 is the primary address, too",
        ),
        ("primary = \"10.0.0.4\"\nalternate = \"::1\"", "alternate: ::1 has no primary address"),
        (
            "primary = \"10.0.0.4\"\nalternate = \"10.0.0.5\"\nport = 5\nalternate-port = 5",
            "alternate-port: 5 is the first port",
        ),
        ("primary = [\n\"10.0.0.4\",\n\"10.0.0\"]", "line 3: '10.0.0'"),
        ("primary = \"fe80::1\"", "primary: fe80::1 is valid on one link only"),
        (
            "primary = \"10.0.0.4\"\nalternate = \"10.0.0.5\"\nadvertise = \"10.0.0.5=203.0.113.5\"",
            "advertise: only 10.0.0.5 is given",
        ),
        ("primary = \"10.0.0.4\"\ncheck = true", "check: 10.0.0.4 has no alternate address"),
        ("primary = \"10.0.0.4\"\nadvertise = \"10.0.0.5=1.1.1.1\"", "advertise: 10.0.0.5 is neither"),
        ("primary = \"10.0.0.4\"\nadvertise = \"10.0.0.4\"", "line 2: advertise: '10.0.0.4'"),
        (
            "primary = \"10.0.0.4\"\nadvertise = \"10.0.0.4=::1\"",
            "advertise: 10.0.0.4 and ::1 are of different",
        ),
        ("primary = \"10.0.0.4\"\ntls-key = \"k\"", "tls-certificate: missing"),
        ("primary = \"10.0.0.4\"\ntls-port = 1", "tls-certificate: missing"),
        ("primary = \"10.0.0.4\"\nworkers = 0", "workers: 0 is not between 1 and 256"),
        ("primary = \"10.0.0.4\"\nidle-timeout = 0", "idle-timeout: 0 is not between 1 and 3600"),
        (
            "primary = \"10.0.0.4\"\nidle-timeout = 9223372036854775807",
            "idle-timeout: 9223372036854775807 is not between 1 and 3600",
        ),
        ("primary = \"10.0.0.4\"\ndrain = 3601", "drain: 3601 is not between 0 and 3600"),
        ("primary = \"10.0.0.4\"\nadmin = \"here\"", "line 2: admin: 'here' is neither a port"),
        ("primary = \"10.0.0.4\"\nlog = \"loud\"", "line 2: log: unknown variant `loud`"),
    ];
    for (text, expected) in rows {
        let error = config(text).unwrap_err();
        assert!(error.starts_with(expected), "{text:?}: {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn one_address_has_one_port() {
    assert_eq!(config("primary = \"10.0.0.4\"\nport = 3479").unwrap().ports.0, 3479);
}

#[test]
fn flags_go_before_the_file() {
    let file = Settings::read_text("primary = \"10.0.0.4\"\nport = 1000\nworkers = 3").unwrap();
    let flags = Settings { port: Some(2000), ..Settings::default() };
    let both = flags.or(file).check(false).unwrap();
    assert_eq!((both.ports.0, both.workers), (2000, 3));
}

#[test]
fn local_has_addresses_of_its_own() {
    assert_eq!(Settings::default().check(true).unwrap().families, [LOCAL]);
    let both = Settings { primary: vec![LOCAL.primary], ..Settings::default() };
    assert!(both.check(true).unwrap_err().to_string().starts_with("local: "));
}

#[test]
fn bogons_are_dropped_by_default_where_everything_is_public() {
    let drops = |text: &str| {
        let config = config(text).unwrap();
        config.families.iter().map(|family| config.drops_bogons(family)).collect::<Vec<_>>()
    };
    assert_eq!(drops("primary = [\"8.8.8.8\", \"fd00::1\"]\nalternate = \"8.8.4.4\""), [true, false]);
    assert_eq!(drops("primary = \"8.8.8.8\"\nalternate = \"10.0.0.5\""), [false]);
    let nat = "primary = \"10.0.0.4\"\nadvertise = \"10.0.0.4=8.8.8.8\"";
    assert_eq!(drops(nat), [true], "behind a 1:1 NAT");
    assert_eq!(drops(&format!("{nat}\nbogon-sources = \"answer\"")), [false]);
    assert_eq!(drops("primary = \"10.0.0.4\"\nbogon-sources = \"drop\""), [true]);
}
