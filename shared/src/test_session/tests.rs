//! Messages between versions of different ages, and the examples of the protocol page.

use super::*;

const NONCE: Nonce = Nonce([0xAB; 16]);

#[test]
fn messages_are_read_as_they_are_written() {
    let (port, from, source) = (50_000, SourceAddress::Alternate, Source::Pending);
    for message in [
        ToServer::Open { version: VERSION },
        ToServer::Ping { id: 1 },
        ToServer::Syn { id: 1, port, from, source, after_ms: 300, wait_ms: 7000 },
        ToServer::Hold { id: 1, connection: 2, nonce: NONCE, after_ms: 900_000 },
        ToServer::TracePort { id: 1 },
        ToServer::Trace { id: 1, ttl_from: 1, ttl_to: 32, wait_ms: 200 },
    ] {
        let text = serde_json::to_string(&message).unwrap();
        assert!(text.len() < MAX_MESSAGE / 2, "{text}");
        assert_eq!(ToServer::parse(&text), Ok(message));
    }
    let at = "[2001:db8::1]:3478".parse().unwrap();
    let icmp = Icmp { kind: 3, code: 3, from: "192.0.2.1".parse().unwrap() };
    let address = ServerAddress { stun: vec![at, at], pending: Some(at), closed: None };
    let (outcome, after_us) = (SynOutcome::Unreachable, 6_000_123);
    for message in [
        ToClient::Welcome(Box::new(Welcome {
            token: Token([1; 16]),
            nonces: NONCE,
            you: at,
            primary: address.clone(),
            alternate: Some(address),
            hold_ms: 900_000,
            trace_ms: 1500,
        })),
        ToClient::Proven { connection: 1, at, to: at },
        ToClient::TracePort { id: 1, at },
        ToClient::Flow { at },
        ToClient::Pong { id: 1 },
        ToClient::SynSent { id: 1 },
        ToClient::SynResult { id: 1, outcome, after_us, from: Some(at), icmp: Some(icmp) },
        ToClient::HoldResult { id: 1, outcome: HoldOutcome::ClosedBefore, after_us: 0 },
        ToClient::TraceResult { id: 1, hops: vec![Hop { ttl: 5, icmp, after_us: 700 }] },
        ToClient::Declined { id: 1, reason: Decline::PortsTooFast },
        ToClient::Refused { reason: Refusal::TooFast },
    ] {
        assert_eq!(ToClient::parse(&serde_json::to_string(&message).unwrap()), Ok(message));
    }
}

#[test]
fn what_a_later_version_says_is_skipped_or_ignored() {
    let later = r#"{"later":[{"deep":1}],"type":"ping","id":7}"#;
    assert_eq!(ToServer::parse(later), Ok(ToServer::Ping { id: 7 }));
    assert_eq!(ToClient::parse(r#"{"type":"motd","text":["hello"]}"#), Ok(ToClient::Unknown));
    let later = r#"{"type":"declined","id":1,"reason":"bad-weather"}"#;
    assert_eq!(ToClient::parse(later), Ok(ToClient::Declined { id: 1, reason: Decline::Unknown }));
    let later = r#"{"type":"syn-result","id":1,"outcome":"half-open","after_us":1}"#;
    let Ok(ToClient::SynResult { outcome, .. }) = ToClient::parse(later) else { panic!() };
    assert_eq!(outcome, SynOutcome::Unknown);
}

#[test]
fn what_is_no_message_is_told() {
    for wrong in [
        "",
        "{}",
        "null",
        "[]",
        r#"{"type":"open"}"#,
        r#"{"type":"sing","version":1}"#,
        r#"{"type":"ping","id":-1}"#,
        r#"{"type":"ping","id":1}}"#,
        r#"{"type":"syn","id":1,"port":65536,"from":"primary","source":"ephemeral"}"#,
        r#"{"type":"syn","id":1,"port":80,"from":"192.0.2.1","source":"ephemeral"}"#,
        r#"{"type":"hold","id":1,"connection":1,"after_ms":1,"nonce":"+0000000000000000000000000000000"}"#,
        r#"{"type":"hold","id":1,"connection":1,"after_ms":1,"nonce":"00"}"#,
    ] {
        assert_eq!(ToServer::parse(wrong), Err(Malformed), "{wrong}");
    }
    for wrong in ["", "{}", "null", r#"{"type":"pong"}"#, r#"{"type":"flow","at":"nowhere"}"#] {
        assert_eq!(ToClient::parse(wrong), Err(Malformed), "{wrong}");
    }
}

#[test]
fn another_version_is_told_from_rubbish_whatever_else_it_says() {
    for (text, expected) in [
        (r#"{"type":"open","version":2,"more":1}"#, Ok(())),
        (r#"{"type":"open","version":1}"#, Err(Refusal::Version)),
        (r#"{"type":"open","version":3}"#, Err(Refusal::Version)),
        (r#"{"type":"begin","version":"1.1"}"#, Err(Refusal::Version)),
        (r#"{"type":"begin","version":2}"#, Err(Refusal::BadMessage)),
        (r#"{"type":"ping","id":1}"#, Err(Refusal::BadMessage)),
        ("[]", Err(Refusal::BadMessage)),
    ] {
        assert_eq!(ToServer::first(text), expected, "{text}");
    }
}

#[test]
fn the_nonce_of_a_connect_is_the_first_one_and_its_number() {
    let nonce = |first: &str, id| String::from(Nonce::try_from(first.to_owned()).unwrap().of_connect(id));
    let first = "202122232425262728292a2b2c2d2e2f";
    assert_eq!(nonce(first, 0), first);
    assert_eq!(nonce(first, 0xd2), "202122232425262728292a2b2c2d2f01");
    assert_eq!(nonce(&"f".repeat(32), 2), format!("{:032x}", 1), "it wraps");
}

#[test]
fn a_secret_shows_itself_in_no_log() {
    assert_eq!(format!("{NONCE:?} {:?}", Token([7; 16])), "Nonce(..) Token(..)");
    assert_eq!(String::from(Token([7; 16])).len(), 32);
}

/// Every example of the page about the protocol, in the direction that it is given for, and every code in its tables.
#[test]
fn the_examples_of_the_protocol_page_are_read() {
    let page = include_str!("../../TEST-SESSION.md");
    let mut counts = [0; 2];
    for block in page.split("```json ").skip(1) {
        let (direction, rest) = block.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        match direction {
            "client" => {
                counts[0] += 1;
                ToServer::parse(text).unwrap_or_else(|_| panic!("{text}"));
            }
            "server" => {
                counts[1] += 1;
                let read = ToClient::parse(text).unwrap_or_else(|_| panic!("{text}"));
                assert_ne!(read, ToClient::Unknown, "{text}");
            }
            other => panic!("examples are of client or server, not `{other}`"),
        }
    }
    assert!(counts[0] >= 5 && counts[1] >= 6, "{counts:?}");
    use Decline as D;
    let declines = [
        D::LowPort,
        D::HighId,
        D::OwnPort,
        D::TooManyPorts,
        D::PortsTooFast,
        D::TooFast,
        D::Busy,
        D::TooLong,
        D::NotOffered,
        D::NoConnection,
        D::NoFlow,
    ]
    .map(|code| serde_json::to_value(code).unwrap());
    use SynOutcome as S;
    let outcomes = [S::Echoed, S::Connected, S::Refused, S::Unreachable, S::Timeout, S::Failed]
        .map(|code| serde_json::to_value(code).unwrap());
    use HoldOutcome as H;
    let held =
        [H::Echoed, H::Silent, H::Closed, H::ClosedBefore].map(|code| serde_json::to_value(code).unwrap());
    for code in declines.iter().chain(&outcomes).chain(&held) {
        let row = format!("| `{}` |", code.as_str().unwrap());
        assert!(page.contains(&row), "{row}");
    }
}
