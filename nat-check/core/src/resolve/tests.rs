//! The resolver against a name server of our own on loopback: real sockets, real messages.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use hickory_resolver::{
    config::{ConnectionConfig, NameServerConfig, ResolveHosts},
    proto::{
        op::{Message, MessageType},
        rr::{
            Name, Record,
            rdata::{A, AAAA},
        },
    },
};
use tokio::net::UdpSocket;

use super::*;

const BOTH: Families = Families { v4: true, v6: true };
const V4: Families = Families { v4: true, v6: false };

/// What the name server does with a question.
#[derive(Clone)]
enum Reply {
    Records(Vec<RData>),
    Code(ResponseCode),
    Silence,
}

/// A name server on loopback; what it has no entry for does not exist.
struct NameServer {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl NameServer {
    async fn start(zone: Vec<(&str, RecordType, Reply)>) -> Self {
        let zone: BTreeMap<(String, RecordType), Reply> =
            zone.into_iter().map(|(name, kind, reply)| ((format!("{name}."), kind), reply)).collect();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (at, asked) = (socket.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let log = asked.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = question.queries[0].clone();
                let name = query.name().to_utf8().to_lowercase();
                log.lock().unwrap().push(format!("{} {name}", query.query_type()));
                let exists = zone.keys().any(|(known, _)| *known == name);
                let mut answer = question.clone();
                answer.metadata.message_type = MessageType::Response;
                answer.metadata.recursion_available = true;
                match zone.get(&(name, query.query_type())) {
                    Some(Reply::Silence) => continue,
                    Some(Reply::Code(code)) => answer.metadata.response_code = *code,
                    Some(Reply::Records(records)) => {
                        for data in records {
                            answer.add_answer(Record::from_rdata(query.name().clone(), 60, data.clone()));
                        }
                    }
                    None if exists => {}
                    None => answer.metadata.response_code = ResponseCode::NXDomain,
                }
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { at, asked }
    }

    fn resolver(&self) -> Resolver {
        resolver_at(self.at, PATIENT)
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Where everything is answered, and a busy machine is late.
const PATIENT: Patience = Patience { total: Duration::from_secs(60), grace: Duration::from_secs(10) };
/// Where something is not.
const IMPATIENT: Patience = Patience { total: Duration::from_secs(2), grace: Duration::from_millis(100) };

fn resolver_at(at: SocketAddr, patience: Patience) -> Resolver {
    let mut connection = ConnectionConfig::udp();
    connection.port = at.port();
    let server = NameServerConfig::new(at.ip(), true, vec![connection]);
    let mut options = ResolverOpts::default();
    options.timeout = patience.total / 10;
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    Resolver::custom(ResolverConfig::from_parts(None, vec![], vec![server]), options, patience)
}

async fn find(resolver: &Resolver, query: &str, families: Families) -> Result<String, String> {
    let query = Query::parse(query).unwrap();
    let found = resolver.resolve(&query, families, &mut fastrand::Rng::with_seed(1)).await;
    let text = |at: Option<SocketAddr>| at.map_or("-".to_owned(), |at| at.to_string());
    found.map(|t| format!("{} {} {}", t.found_by, text(t.v4), text(t.v6))).map_err(|e| e.to_string())
}

fn a(last: u8) -> Reply {
    Reply::Records(vec![RData::A(A(Ipv4Addr::new(192, 0, 2, last)))])
}

fn aaaa(last: u16) -> Reply {
    Reply::Records(vec![RData::AAAA(AAAA(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)))])
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> RData {
    RData::SRV(SRV::new(priority, weight, port, Name::from_utf8(target).unwrap()))
}

#[tokio::test]
async fn a_literal_needs_no_name_server() {
    let server = NameServer::start(vec![]).await;
    let resolver = server.resolver();
    assert_eq!(find(&resolver, "192.0.2.1", BOTH).await.unwrap(), "literal 192.0.2.1:3478 -");
    assert_eq!(find(&resolver, "[2001:db8::1]:5", BOTH).await.unwrap(), "literal - [2001:db8::1]:5");
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn the_service_that_promises_behaviour_discovery_comes_first() {
    let server = NameServer::start(vec![
        ("_stun._udp.example.org", RecordType::SRV, Reply::Records(vec![srv(0, 0, 1, "plain.example.org.")])),
        (
            "_stun-behavior._udp.example.org",
            RecordType::SRV,
            Reply::Records(vec![srv(0, 0, 2, "full.example.org.")]),
        ),
        ("plain.example.org", RecordType::A, a(1)),
        ("full.example.org", RecordType::A, a(2)),
        ("full.example.org", RecordType::AAAA, aaaa(2)),
        ("example.org", RecordType::A, a(3)),
    ])
    .await;
    assert_eq!(
        find(&server.resolver(), "example.org", BOTH).await.unwrap(),
        "srv 192.0.2.2:2 [2001:db8::2]:2"
    );
}

#[tokio::test]
async fn targets_are_tried_by_priority_until_one_has_an_address() {
    let server = NameServer::start(vec![
        (
            "_stun._udp.example.org",
            RecordType::SRV,
            Reply::Records(vec![
                srv(30, 0, 30, "last.example.org."),
                srv(20, 0, 20, "second.example.org."),
                srv(10, 0, 10, "gone.example.org."),
                srv(5, 0, 5, "."),
            ]),
        ),
        ("second.example.org", RecordType::A, a(20)),
        ("last.example.org", RecordType::A, a(30)),
    ])
    .await;
    assert_eq!(find(&server.resolver(), "example.org", BOTH).await.unwrap(), "srv 192.0.2.20:20 -");
}

#[test]
fn weights_share_the_load() {
    let records = || {
        let record = |weight| SRV::new(1, weight, weight, Name::root());
        vec![record(0), record(10), record(30)]
    };
    let mut rng = fastrand::Rng::with_seed(7);
    let mut firsts = BTreeMap::new();
    for _ in 0..4_000 {
        *firsts.entry(in_order(records(), &mut rng)[0].weight).or_insert(0) += 1;
    }
    // Expected 1/41, 10/41 and 30/41 of 4,000.
    assert!((50..150).contains(&firsts[&0]), "{firsts:?}");
    assert!((875..1075).contains(&firsts[&10]), "{firsts:?}");
    assert!((2825..3025).contains(&firsts[&30]), "{firsts:?}");
}

#[tokio::test]
async fn a_port_leaves_the_services_out() {
    let server = NameServer::start(vec![
        ("_stun._udp.example.org", RecordType::SRV, Reply::Records(vec![srv(0, 0, 1, "plain.example.org.")])),
        ("example.org", RecordType::A, a(3)),
    ])
    .await;
    assert_eq!(find(&server.resolver(), "example.org:5000", BOTH).await.unwrap(), "address 192.0.2.3:5000 -");
    assert!(server.asked().iter().all(|question| !question.contains("_stun")), "{:?}", server.asked());
}

#[tokio::test]
async fn tls_has_services_and_a_port_of_its_own() {
    let server = NameServer::start(vec![
        ("_stun._udp.example.org", RecordType::SRV, Reply::Records(vec![srv(0, 0, 1, "plain.example.org.")])),
        (
            "_stuns._tcp.example.org",
            RecordType::SRV,
            Reply::Records(vec![srv(0, 0, 444, "tls.example.org.")]),
        ),
        ("tls.example.org", RecordType::A, a(4)),
        ("example.org", RecordType::A, a(3)),
        ("example.net", RecordType::A, a(5)),
    ])
    .await;
    let at = async |name: &str| {
        let (query, mut rng) = (Query::parse(name).unwrap(), fastrand::Rng::with_seed(1));
        server.resolver().find(Service::Stuns, &query, BOTH, &mut rng).await.unwrap().v4.unwrap().to_string()
    };
    assert_eq!(at("example.org").await, "192.0.2.4:444");
    assert_eq!(at("example.net").await, "192.0.2.5:5349");
    assert_eq!(at("example.org:446").await, "192.0.2.3:446");
}

#[tokio::test]
async fn without_services_the_addresses_serve() {
    let zone = vec![("example.org", RecordType::A, a(3)), ("example.org", RecordType::AAAA, aaaa(3))];
    let server = NameServer::start(zone).await;
    let resolver = server.resolver();
    assert_eq!(
        find(&resolver, "Example.ORG", BOTH).await.unwrap(),
        "address 192.0.2.3:3478 [2001:db8::3]:3478"
    );
    assert_eq!(find(&resolver, "example.org", V4).await.unwrap(), "address 192.0.2.3:3478 -");
}

#[tokio::test]
async fn questions_that_nobody_answers_cost_the_grace_time_only() {
    let server = NameServer::start(vec![
        ("_stun._udp.example.org", RecordType::SRV, Reply::Silence),
        ("_stun-behavior._udp.example.org", RecordType::SRV, Reply::Silence),
        ("example.org", RecordType::A, a(3)),
        ("example.org", RecordType::AAAA, Reply::Silence),
    ])
    .await;
    let resolver = resolver_at(server.at, IMPATIENT);
    assert_eq!(find(&resolver, "example.org", BOTH).await.unwrap(), "address 192.0.2.3:3478 -");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let server = NameServer::start(vec![
        ("refused.example", RecordType::A, Reply::Code(ResponseCode::Refused)),
        ("refused.example", RecordType::AAAA, Reply::Code(ResponseCode::Refused)),
        ("broken.example", RecordType::A, Reply::Code(ResponseCode::ServFail)),
        ("broken.example", RecordType::AAAA, Reply::Code(ResponseCode::ServFail)),
        ("silent.example", RecordType::A, Reply::Silence),
        ("silent.example", RecordType::AAAA, Reply::Silence),
        ("six.example", RecordType::AAAA, aaaa(6)),
    ])
    .await;
    let resolver = server.resolver();
    let error = async |name| find(&resolver, name, V4).await.unwrap_err();
    assert_eq!(error("nowhere.example").await, "nowhere.example: no such name");
    assert_eq!(error("six.example").await, "six.example: the name has no IPv4 address");
    assert_eq!(error("refused.example").await, "refused.example: the name server answered Query Refused");
    assert_eq!(error("broken.example").await, "broken.example: the name server answered Server Failure");
    let error = find(&resolver_at(server.at, IMPATIENT), "silent.example", V4).await.unwrap_err();
    assert_eq!(error, "silent.example: no answer from the name server");
}

#[tokio::test]
async fn without_a_name_server_it_says_so() {
    let nobody = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = nobody.local_addr().unwrap();
    drop(nobody);
    let error = find(&resolver_at(at, IMPATIENT), "example.org", BOTH).await.unwrap_err();
    assert_eq!(error, "example.org: no answer from the name server");
}
