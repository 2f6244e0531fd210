//! What devices say, as they say it; and nothing that comes in breaks a reader.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{
    MappingError, description,
    discovery::is_of_this_network,
    http::{self, HttpError},
    soap, ssdp,
};

const MINIUPNPD: &str = "HTTP/1.1 200 OK\r\nCACHE-CONTROL: max-age=120\r\n\
    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:2\r\nUSN: uuid:d68c3783::x\r\nEXT:\r\n\
    SERVER: Debian/12 UPnP/1.1 MiniUPnPd/2.3.1\r\nLOCATION: http://192.168.77.1:45811/rootDesc.xml\r\n\r\n";

#[test]
fn an_answer_to_a_search_names_the_description() {
    let answer = ssdp::read(MINIUPNPD.as_bytes()).unwrap();
    assert_eq!((answer.port, answer.path.as_str()), (45811, "/rootDesc.xml"));
    assert_eq!(answer.software.as_deref(), Some("Debian/12 UPnP/1.1 MiniUPnPd/2.3.1"));
    let with = |location: &str| {
        let text = MINIUPNPD.replace("http://192.168.77.1:45811/rootDesc.xml", location);
        ssdp::read(text.as_bytes()).map(|answer| (answer.port, answer.path))
    };
    assert_eq!(with("http://192.168.77.1/x"), Some((80, "/x".into())));
    assert_eq!(with("HTTP://192.168.77.1:8080"), Some((8080, "/".into())));
    for location in [
        "http://router.lan:5000/x",
        "https://192.168.77.1/x",
        "http://user@192.168.77.1/x",
        "http://192.168.77.1:0/x",
        "file:///etc/passwd",
        "http://192.168.77.1:80/a b",
        "",
    ] {
        assert_eq!(with(location), None, "{location}");
    }
    assert_eq!(ssdp::read(MINIUPNPD.replace("200 OK", "404 No").as_bytes()), None);
    assert_eq!(ssdp::read(MINIUPNPD.replace("InternetGatewayDevice:2", "MediaServer:1").as_bytes()), None);
}

#[test]
fn only_devices_of_this_network_are_asked() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let asked = |at: &str| is_of_this_network(ip(at), ip("192.168.1.2"), ip("192.168.1.1"), Some(24));
    assert!(asked("192.168.1.1") && asked("192.168.1.77"));
    for foreign in ["192.168.2.1", "127.0.0.1", "198.51.100.1", "192.168.1.2", "10.0.0.1", "::1"] {
        assert!(!asked(foreign), "{foreign}");
    }
    let public = |at: &str| is_of_this_network(ip(at), ip("198.51.100.7"), ip("198.51.100.1"), Some(24));
    assert!(public("198.51.100.1") && !public("198.51.100.9"), "on a public network the gateway alone");
}

fn described(services: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><deviceList><device>\
         <serviceList>{services}</serviceList></device></deviceList></device></root>\n"
    )
}

fn service(kind: &str, control: &str) -> String {
    format!(
        "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType><controlURL>{control}</controlURL>\
         </service>"
    )
}

#[test]
fn the_best_service_of_a_description_comes_first() {
    let all = ["WANPPPConnection:1", "Layer3Forwarding:1", "WANIPConnection:1", "WANIPConnection:2"];
    let text = described(&all.map(|kind| service(kind, &format!("/ctl/{kind}"))).concat());
    let found: Vec<String> =
        description::services(&text, false).unwrap().into_iter().map(|service| service.path).collect();
    assert_eq!(found, ["/ctl/WANIPConnection:2", "/ctl/WANIPConnection:1", "/ctl/WANPPPConnection:1"]);
}

#[test]
fn of_a_control_url_only_the_path_counts() {
    let path = |control: &str| {
        let services =
            description::services(&described(&service("WANIPConnection:1", control)), false).unwrap();
        services.first().map(|service| service.path.clone())
    };
    assert_eq!(path("/ctl/IPConn").as_deref(), Some("/ctl/IPConn"));
    assert_eq!(path("ctl").as_deref(), Some("/ctl"));
    assert_eq!(path("http://203.0.113.9:80/ctl").as_deref(), Some("/ctl"));
    assert_eq!(path("/a\r\nHost: x"), None);
    assert_eq!(path("http://example.org/ctl"), None);
}

#[test]
fn hostile_documents_are_rejected() {
    let bomb = "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><root>&b;</root>";
    assert!(description::services(bomb, false).is_err());
    assert!(description::services(&"<a>".repeat(60_000), false).is_err());
    assert!(description::services(&format!("<a>{}</a>", "<b/>".repeat(60_000)), false).is_err());
    assert!(description::services("not XML", false).is_err());
    assert_eq!(description::services("<root/>", false), Ok(Vec::new()));
}

#[test]
fn http_is_read_in_all_its_forms() {
    let body = |received: &str, ended| {
        http::parse(received.as_bytes(), ended).map(|it| it.map(|it| String::from_utf8(it.body).unwrap()))
    };
    let found = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", false), found("ab"));
    assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", false), Ok(None));
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", true), Err(HttpError::Cut));
    assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nab", false), Ok(None));
    assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nab", true), found("ab"));
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
    assert_eq!(body(chunked, false), found("abc"));
    assert_eq!(body(&chunked[..chunked.len() - 8], false), Ok(None));
    let moved = "HTTP/1.1 302 Found\r\nLocation: http://198.51.100.1/\r\n\r\n";
    assert_eq!(body(moved, true), Err(HttpError::Redirect));
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n", false), Err(HttpError::TooLong));
    let huge_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff\r\n";
    assert_eq!(body(huge_chunk, false), Err(HttpError::TooLong));
    assert_eq!(
        body(&format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(300_000)), false),
        Err(HttpError::TooLong)
    );
    assert_eq!(
        body(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20_000)), false),
        Err(HttpError::TooLong)
    );
    assert_eq!(body("garbage\r\n\r\n", false), Err(HttpError::NotHttp));
    assert_eq!(body("", true), Err(HttpError::Cut));
}

#[test]
fn an_error_of_upnp_is_told_by_number_and_name() {
    let fault = "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>\
        <s:Fault><faultcode>s:Client</faultcode><detail><UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\">\
        <errorCode>718</errorCode><errorDescription>ConflictInMappingEntry</errorDescription></UPnPError></detail>\
        </s:Fault></s:Body></s:Envelope>";
    let refused = |text: &str| Err(MappingError::Refused(text.into()));
    assert_eq!(soap::read(500, fault.as_bytes()), refused("718 ConflictInMappingEntry"));
    assert_eq!(soap::read(500, b"<html>"), refused("HTTP 500"));
    assert!(matches!(soap::read(200, b"<html>"), Err(MappingError::Nonsense(_))));
    let answer = "<s:Envelope xmlns:s=\"x\"><s:Body><u:GetExternalIPAddressResponse xmlns:u=\"y\">\
        <NewExternalIPAddress> 203.0.113.5 </NewExternalIPAddress></u:GetExternalIPAddressResponse></s:Body></s:Envelope>";
    let results = soap::read(200, answer.as_bytes()).unwrap();
    assert_eq!(results.get("NewExternalIPAddress"), Some("203.0.113.5"));
}

proptest! {
    #[test]
    fn nothing_that_comes_in_breaks_a_reader(bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0..400_usize) {
        let mut sound = MINIUPNPD.as_bytes().to_vec();
        sound.truncate(cut);
        sound.extend(&bytes);
        for message in [bytes.as_slice(), &sound] {
            _ = ssdp::read(message);
            _ = http::parse(message, true);
            _ = http::parse(message, false);
            _ = soap::read(200, message);
            _ = description::services(&String::from_utf8_lossy(message), false);
        }
    }
}
