//! Messages and payloads, between versions of different ages.

use super::{
    peer::{
        Behaviour, MAX_ADDRESSES, MAX_TECHNIQUES, NextPort, Nonce, Offer, PeerMessage, RoundCandidates,
        TcpSide, WireTechnique,
    },
    *,
};
use crate::nat::{Filtering, Mapping, PortAllocation, PortPolicy};

fn offer() -> Offer {
    Offer {
        nonce: Nonce([0xAB; 16]),
        behaviour: Behaviour {
            udp: true,
            mapping: Some(Mapping::EndpointIndependent),
            filtering: Some(Filtering::AddressAndPortDependent),
            ports: Some(PortAllocation {
                policy: PortPolicy::Sequential,
                delta: Some(2),
                range: (1024, 65535),
                external_ips: 1,
                parity: None,
                external_ip_by_destination: None,
                cross_traffic_per_s: None,
            }),
            ..Behaviour::default()
        },
        techniques: WireTechnique::ALL.to_vec(),
        lan: vec!["192.168.1.2:5000".parse().unwrap()],
        external: Vec::new(),
        ipv6: Some(Behaviour { udp: true, ..Behaviour::default() }),
        tcp: Some(TcpSide {
            fixed: true,
            nominates: true,
            mapping: Some(Mapping::EndpointIndependent),
            filtering: Some(Filtering::AddressAndPortDependent),
            simultaneous_open: Some(true),
            refuses: Some(false),
            ..TcpSide::default()
        }),
        remaps: None,
        opener_ttl: Some(2),
        rtt_ms: 20,
        hold_ms: 5000,
        prepares: true,
        ice: None,
    }
}

fn ready(payload: &str) -> String {
    format!(r#"{{"type":"ready","step":0,"rtt_ms":20,"payload":{payload}}}"#)
}

/// What a server passes on of a payload, or nothing where it refuses.
fn passed_on(payload: &str) -> Option<Payload> {
    let Ok(ToServer::Ready { step, payload, .. }) = ToServer::parse(&ready(payload)) else { return None };
    let start = serde_json::to_string(&ToClient::Start { step, after_ms: 0, payload }).unwrap();
    assert!(start.len() <= MAX_MESSAGE);
    match ToClient::parse(&start) {
        Ok(Some(ToClient::Start { payload, .. })) => Some(payload),
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_are_read_as_they_are_written() {
    let payload = PeerMessage::Offer(Box::new(offer())).write().unwrap();
    let text =
        serde_json::to_string(&ToServer::Ready { step: 0, rtt_ms: 20, payload: payload.clone() }).unwrap();
    assert!(text.len() < MAX_MESSAGE / 4, "{text}");
    let at = vec!["[2001:db8::1]:3478".parse().unwrap()];
    let you = "192.0.2.1".parse().unwrap();
    let code = Code::EXAMPLE.parse().unwrap();
    for message in [
        ToServer::Open { version: VERSION },
        ToServer::Join { version: VERSION, code },
        ToServer::Ping { id: 1 },
        ToServer::Enter { version: VERSION, room: None },
        ToServer::Enter { version: VERSION, room: Some(code.into()) },
        ToServer::Available { payload: payload.clone() },
        ToServer::Invite { peer: 7, code },
        ToServer::Result { peer: 7, payload: payload.clone() },
        ToServer::Ready { step: 3, rtt_ms: 20, payload: payload.clone() },
        ToServer::PeerPing { id: 1 },
        ToServer::PeerPong { id: 1 },
    ] {
        assert_eq!(ToServer::parse(&serde_json::to_string(&message).unwrap()), Ok(message));
    }
    for message in [
        ToClient::Welcome { stun: at, page: true },
        ToClient::Waiting { code, seconds: 600 },
        ToClient::Paired { role: Role::First, you, peer: you },
        ToClient::Pong { id: 1 },
        ToClient::Entered { room: code.into(), you: 3, seconds: 3600 },
        ToClient::Room {
            members: vec![
                room::MemberNews { id: 1, here: true, ready: Some(payload.clone()) },
                room::MemberNews { id: 2, here: false, ready: None },
            ],
            results: vec![room::ResultNews { from: 1, to: 2, result: payload.clone() }],
        },
        ToClient::Pair { peer: 2, role: Role::First, code: None },
        ToClient::Pair { peer: 2, role: Role::Second, code: Some(code) },
        ToClient::Start { step: 3, after_ms: 7, payload },
        ToClient::PeerPing { id: 1 },
        ToClient::PeerPong { id: 1 },
        ToClient::PeerLeft,
        ToClient::Refused { reason: Refusal::TooFast },
    ] {
        assert_eq!(ToClient::parse(&serde_json::to_string(&message).unwrap()), Ok(Some(message)));
    }
}

#[test]
fn unknown_fields_are_ignored_and_what_is_no_message_is_told() {
    let later = r#"{"later":[{"deep":1}],"type":"ping","id":7}"#;
    assert_eq!(ToServer::parse(later), Ok(ToServer::Ping { id: 7 }));
    let later = r#"{"type":"refused","reason":"full","retry_after_s":60}"#;
    assert_eq!(ToClient::parse(later), Ok(Some(ToClient::Refused { reason: Refusal::Full })));
    let later = r#"{"type":"refused","reason":"bad-weather"}"#;
    assert_eq!(ToClient::parse(later), Ok(Some(ToClient::Refused { reason: Refusal::Unknown })));
    assert_eq!(ToClient::parse(r#"{"type":"motd","id":[]}"#), Ok(None), "of a later server");
    for wrong in [
        "",
        "{}",
        "null",
        "[]",
        r#"{"type":"open"}"#,
        r#"{"type":"sing","version":2}"#,
        r#"{"type":{"ping":1},"id":1}"#,
        r#"{"type":"ping","id":-1}"#,
        r#"{"type":"ping","id":1}}"#,
        r#"{"type":"join","version":2,"code":"nonsense"}"#,
        r#"{"type":"ready","step":0,"rtt_ms":1}"#,
    ] {
        assert_eq!(ToServer::parse(wrong), Err(Malformed), "{wrong}");
    }
    for wrong in ["", "{}", "null", r#"{"type":"pong"}"#, r#"{"type":"welcome","stun":["nowhere"]}"#] {
        assert_eq!(ToClient::parse(wrong), Err(Malformed), "{wrong}");
    }
}

#[test]
fn another_version_is_told_from_rubbish_whatever_else_it_says() {
    for (text, expected) in [
        (r#"{"type":"open","version":1}"#, Refusal::Version),
        (r#"{"type":"open","version":3}"#, Refusal::Version),
        (r#"{"type":"open","version":3,"more":{"new":[1]}}"#, Refusal::Version),
        (r#"{"type":"begin","version":"2.1"}"#, Refusal::Version),
        (r#"{"type":"begin","version":2}"#, Refusal::BadMessage),
        (r#"{"type":"open"}"#, Refusal::BadMessage),
        (r#"{"type":"ping","id":1}"#, Refusal::BadMessage),
        ("[]", Refusal::BadMessage),
        ("", Refusal::BadMessage),
    ] {
        assert_eq!(ToServer::first(text), Err(expected), "{text}");
    }
    let open = r#"{"type":"open","version":2,"more":1}"#;
    assert_eq!(ToServer::first(open), Ok(ToServer::Open { version: 2 }));
}

/// Version 1 refused messages with unknown fields, so nothing may ever be added to these two.
#[test]
fn versions_1_and_2_refuse_each_other_in_messages_that_both_know() {
    // A client of version 1 at this server.
    assert_eq!(ToServer::first(r#"{"type":"open","version":1}"#), Err(Refusal::Version));
    let refusal = serde_json::to_string(&ToClient::Refused { reason: Refusal::Version }).unwrap();
    assert_eq!(refusal, r#"{"type":"refused","reason":"version"}"#);
    // This client at a server of version 1, which looks for a number named `version` at the top.
    let open = serde_json::to_string(&ToServer::Open { version: VERSION }).unwrap();
    assert_eq!(open, r#"{"type":"open","version":2}"#);
}

#[test]
fn what_a_later_client_says_passes_an_old_server_and_is_skipped_by_an_old_peer() {
    let text = serde_json::to_string(&PeerMessage::Offer(Box::new(offer()))).unwrap();
    let later = text
        .replace(r#"["lan","#, r#"["quantum-tunnel",{"name":"quic","port":443},"lan","#)
        .replace(r#""remaps":null"#, r#""remaps":null,"weather":{"sky":["blue"]}"#)
        .replace(r#""tcp":{"#, r#""tcp":{"fast_open":true,"#);
    assert!(later.len() > text.len() + 80, "{later}");
    let payload = passed_on(&later).unwrap();
    assert_eq!(payload.as_text(), later, "untouched");
    assert_eq!(PeerMessage::read(&payload).unwrap(), PeerMessage::Offer(Box::new(offer())));

    let unknown = text.replace("endpoint-independent", "moon-dependent").replace("sequential", "lottery");
    let PeerMessage::Offer(read) = PeerMessage::read(&passed_on(&unknown).unwrap()).unwrap() else {
        panic!()
    };
    assert_eq!((read.behaviour.mapping, read.behaviour.ports), (None, None), "not known");
    assert_eq!(read.behaviour.filtering, offer().behaviour.filtering);

    let bare = r#"{"type":"offer","nonce":"abababababababababababababababab","behaviour":{"udp":true},"techniques":[]}"#;
    let PeerMessage::Offer(read) = PeerMessage::read(&passed_on(bare).unwrap()).unwrap() else { panic!() };
    assert_eq!((read.nonce, read.techniques, read.ipv6), (offer().nonce, Vec::new(), None));
}

#[test]
fn behaviours_survive_the_wire() {
    for mapping in [
        Mapping::Direct,
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
        Mapping::PortDependent,
    ] {
        for policy in [PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random, PortPolicy::Block]
        {
            let mut sent = offer();
            sent.behaviour.mapping = Some(mapping);
            sent.behaviour.filtering =
                [None, Some(Filtering::PortDependent)][usize::from(policy == PortPolicy::Block)];
            sent.behaviour.ports = offer().behaviour.ports.map(|ports| PortAllocation { policy, ..ports });
            let sent = PeerMessage::Offer(Box::new(sent));
            assert_eq!(PeerMessage::read(&sent.write().unwrap()).unwrap(), sent);
        }
    }
}

#[test]
fn lists_over_the_limit_are_rejected() {
    let at = vec!["192.0.2.1:1".parse().unwrap(); MAX_ADDRESSES + 1];
    let next = Some(NextPort { port: 1, step: -1 });
    let many = PeerMessage::RoundCandidates(RoundCandidates { at: at.clone(), next }).write().unwrap();
    assert!(PeerMessage::read(&many).is_err());
    for wrong in [Offer { lan: at.clone(), ..offer() }, Offer { external: at, ..offer() }] {
        assert!(PeerMessage::read(&PeerMessage::Offer(Box::new(wrong)).write().unwrap()).is_err());
    }
    let with = |count: usize| {
        let mut value = serde_json::to_value(PeerMessage::Offer(Box::new(offer()))).unwrap();
        value["techniques"] = vec!["unheard-of"; count].into();
        PeerMessage::read(&Payload::write(&value).unwrap()).is_ok()
    };
    assert_eq!((with(MAX_TECHNIQUES), with(MAX_TECHNIQUES + 1)), (true, false));
}

#[test]
fn the_server_checks_the_size_and_that_it_is_json_and_nothing_else() {
    let long = format!("\"{}\"", "x".repeat(MAX_PAYLOAD - 2));
    for passes in ["null", "[1, 2.50 ,1e999]", r#"{"a":1,"a":"\u0000"}"#, &long] {
        assert_eq!(passed_on(passes).unwrap().as_text(), passes);
    }
    let longer = format!("\"{}\"", "x".repeat(MAX_PAYLOAD - 1));
    for fails in ["", "nonsense", "{", "[1,]", "\"\u{1}\"", &longer] {
        assert_eq!(passed_on(fails), None, "{fails}");
    }
    assert_eq!(Payload::write(&"x".repeat(MAX_PAYLOAD)), Err(PayloadError::TooLong(MAX_PAYLOAD + 2)));
}

/// However deep it is, nobody recurses into it: the server does not read it, and the peer gives up early.
#[test]
fn a_deep_payload_harms_neither_server_nor_peer() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let depth = MAX_PAYLOAD / (open.len() + close.len() + 1);
        let bomb = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let payload = passed_on(&bomb).unwrap();
        assert!(PeerMessage::read(&payload).is_err());
        let inside = format!(r#"{{"type":"round-report","through":true,"more":{bomb}}}"#);
        if let Some(payload) = passed_on(&inside) {
            assert!(PeerMessage::read(&payload).is_err());
        }
    }
}

/// Every example of the page about the protocol, in the direction that it is given for.
#[test]
fn the_examples_of_the_protocol_page_are_read() {
    let page = include_str!("../../PROTOCOL.md");
    let mut counts = [0; 3];
    for block in page.split("```json ").skip(1) {
        let (direction, rest) = block.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        match direction {
            "client" => {
                counts[0] += 1;
                let read = ToServer::parse(text).unwrap_or_else(|_| panic!("{text}"));
                if let ToServer::Ready { payload, .. } = read {
                    PeerMessage::read(&payload).unwrap_or_else(|e| panic!("{e}: {text}"));
                }
            }
            "server" => {
                counts[1] += 1;
                let read = ToClient::parse(text).ok().flatten().unwrap_or_else(|| panic!("{text}"));
                if let ToClient::Start { payload, .. } = read {
                    PeerMessage::read(&payload).unwrap_or_else(|e| panic!("{e}: {text}"));
                }
            }
            "payload" => {
                counts[2] += 1;
                serde_json::from_str::<PeerMessage>(text).unwrap_or_else(|e| panic!("{e}: {text}"));
            }
            other => panic!("examples are of client, server or payload, not `{other}`"),
        }
    }
    assert!(counts[0] >= 6 && counts[1] >= 9 && counts[2] >= 2, "{counts:?}");
    for reason in [
        Refusal::Version,
        Refusal::Full,
        Refusal::HostFull,
        Refusal::TooFast,
        Refusal::UnknownCode,
        Refusal::BadMessage,
        Refusal::TooMuch,
        Refusal::Expired,
        Refusal::Stopping,
    ] {
        let row = format!("| `{}` |", serde_json::to_value(reason).unwrap().as_str().unwrap());
        assert!(page.contains(&row), "{row}");
    }
}
