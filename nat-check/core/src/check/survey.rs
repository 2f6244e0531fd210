//! All servers asked at the same time, from the same sockets: who is there, and what each of them sees. Dead ones cost
//! nobody's time but their own.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use shared::{nat::Filtering, stun::Dialect};
use tokio::{task::JoinSet, time::timeout};

use super::comparison::{self, Comparison};
use crate::{
    net::Net,
    observation::{ObservationLog, Purpose, RequestKind, Transaction},
    probe::{Found, port_allocation},
    randomness::Randomness,
    report::{Confidence, Finding, ReasonCode},
    server_endpoints::ServerEndpoints,
    session::{Contact, Request, Session, Socket},
    stun_over_tcp,
};

/// What its requests are sent for, in the log.
const PURPOSE: Purpose = Purpose::main("servers");
/// Further sockets that ask all servers.
const SOCKETS: usize = 3;
/// Servers that are compared, at the most.
const MOST_COMPARED: usize = 8;
/// Further sockets that ask one server each: together they show the allocation of ports, and further ways out.
const SAMPLES: usize = 16;
/// How long is waited for an answer before the next request to the same server; after the last one it is called silent.
const PAUSES: [Duration; 5] = [ms(100), ms(100), ms(200), ms(300), ms(300)];
/// How long a server that has answered before is waited for at the least.
const LATE: Duration = ms(200);
/// From here on servers that are silent over UDP are asked over TCP.
const IMPATIENT: Duration = ms(250);
/// The first server's advantage.
pub(super) const HEAD_START: Duration = ms(250);
/// Other ports of RFC 8489 and RFC 5780 that a server may listen on: tried where all have the same one.
const FURTHER_PORTS: [u16; 2] = [5349, 3479];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Servers of one family, about to be asked together.
pub(super) struct Survey {
    session: Arc<Session>,
    main: Socket,
    over_tcp: Mutex<BTreeMap<SocketAddr, SocketAddr>>,
}

impl Survey {
    /// Opens the first socket. There must be a route to `first`.
    pub(super) async fn begin(
        net: &Arc<dyn Net>,
        first: SocketAddr,
        servers: impl IntoIterator<Item = IpAddr>,
        local: IpAddr,
        randomness: Randomness,
    ) -> io::Result<Arc<Self>> {
        let session = Session::new(net.clone(), first, SocketAddr::new(local, 0), randomness)?;
        session.lift_budget();
        session.named_by_user(servers);
        let main = session.open().await?;
        Ok(Arc::new(Self { session, main, over_tcp: Mutex::default() }))
    }

    /// Asks these servers until each has answered, or has had its tries. Over TCP, too, where UDP is silent.
    pub(super) async fn find(&self, servers: &[SocketAddr]) {
        let over_tcp = async {
            tokio::time::sleep(IMPATIENT).await;
            let silent = self.silent(servers);
            self.ask_over_tcp(&silent).await;
        };
        tokio::join!(self.ask_until_answered(servers), over_tcp);
    }

    /// Asks one server alone.
    pub(super) async fn find_first(&self, server: SocketAddr) {
        _ = timeout(HEAD_START, self.ask_until_answered(&[server])).await;
    }

    async fn ask_until_answered(&self, servers: &[SocketAddr]) {
        for (attempt, pause) in PAUSES.into_iter().enumerate() {
            let silent = self.silent(servers);
            let round = self.session.round();
            for &to in &silent {
                let request = Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round };
                self.session.send_as(&self.main, request, Dialect::Modern).await;
                if attempt > 1 {
                    self.session.send_as(&self.main, request, Dialect::Classic).await;
                }
            }
            let answered = |log: &ObservationLog| silent.iter().all(|&to| has_answered(log, to));
            if self.session.until(self.session.now() + pause, answered).await {
                return;
            }
        }
    }

    async fn ask_over_tcp(&self, servers: &[SocketAddr]) {
        let limit: Duration = PAUSES.into_iter().sum::<Duration>() - IMPATIENT;
        let mut asked = JoinSet::new();
        for &server in servers {
            let session = self.session.clone();
            asked.spawn(timeout(limit, async move {
                let local = SocketAddr::new(session.local_ip(), 0);
                let mut stream = session.net().connect(Some(local), server).await?;
                let id = session.transaction_id().map_err(io::Error::other)?;
                Ok::<_, io::Error>((server, stun_over_tcp::binding(&mut *stream, id).await?))
            }));
        }
        while let Some(ended) = asked.join_next().await {
            if let Ok(Ok(Ok((server, external)))) = ended {
                self.over_tcp.lock().unwrap_or_else(PoisonError::into_inner).insert(server, external);
            }
        }
    }

    /// Waits until all of them have answered, or those that are there have had their time.
    pub(super) async fn wait_for(&self, servers: &[SocketAddr]) {
        let end = self.session.now() + PAUSES.into_iter().sum();
        let any = |log: &ObservationLog| servers.iter().any(|&to| has_answered(log, to));
        let all = |log: &ObservationLog| servers.iter().all(|&to| has_answered(log, to));
        self.session.until(end, any).await;
        let patience = self.session.now() + self.session.response_timeout();
        self.session.until(patience.min(end), all).await;
    }

    /// Asks these servers from further sockets, which begin each with another one; and each from a few sockets of its own.
    pub(super) async fn compare(&self, servers: &[SocketAddr]) {
        let servers = &servers[..servers.len().min(MOST_COMPARED)];
        self.session.declare(Contact::Udp(Dialect::Modern));
        let mut asked: Vec<(Socket, Vec<SocketAddr>)> = Vec::new();
        for number in 1..=SOCKETS {
            let Ok(socket) = self.session.open().await else { return };
            let mut order = servers.to_vec();
            order.rotate_left(number % servers.len().max(1));
            asked.push((socket, order));
        }
        // All of one server, then all of the next: what a server's answers show has no gaps in it.
        let each = SAMPLES.div_ceil(servers.len().max(1));
        for server in servers.iter().flat_map(|server| std::iter::repeat_n(server, each)) {
            let Ok(socket) = self.session.open().await else { return };
            asked.push((socket, vec![*server]));
        }
        let further = further_endpoints(servers);
        for attempt in 0..3 {
            let round = self.session.round();
            let missing = |log: &ObservationLog| {
                let open = |(socket, order): &(Socket, Vec<SocketAddr>)| {
                    let open: Vec<SocketAddr> =
                        order.iter().copied().filter(|&to| log.mapped(socket.id, to).is_none()).collect();
                    (socket.clone(), open)
                };
                asked.iter().map(open).filter(|(_, open)| !open.is_empty()).collect::<Vec<_>>()
            };
            for (socket, open) in self.session.read(missing) {
                for to in open {
                    let request = Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round };
                    self.session.send(&socket, request).await;
                }
            }
            // Last, and once: that nobody listens there means nothing.
            for &to in further.iter().filter(|_| attempt == 0) {
                for socket in [&self.main, &asked[0].0] {
                    let request = Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round };
                    self.session.send(socket, request).await;
                }
            }
            // All of them have answered before: whoever is late is busy, more often than the request got lost.
            let deadline = self.session.now() + self.session.response_timeout().max(LATE);
            if self.session.until(deadline, |log| missing(log).is_empty()).await {
                return;
            }
        }
    }

    /// What the servers that answered say together.
    pub(super) fn comparison(&self, independent: Option<IpAddr>) -> Comparison {
        self.session.read(|log| comparison::conclude(log, PURPOSE.measurement, independent))
    }

    /// What is known of the network from all servers together; those that are not trusted left out.
    pub(super) fn found(&self, comparison: &Comparison) -> Found {
        let is_distrusted = |t: &Transaction| comparison.distrusted.iter().any(|d| d.is_at(t.to));
        let mut found = Found::default();
        self.session.read(|log| {
            let mut log = log.clone();
            // What was sent there has made mappings, too.
            log.transactions.iter_mut().filter(|t| is_distrusted(t)).for_each(|t| t.responses.clear());
            let sockets: BTreeSet<_> = log.transactions.iter().map(|t| t.socket).collect();
            if sockets.len() > SOCKETS + 1 {
                let ports = port_allocation::conclude(&log);
                // Whose ports are these, if one of the servers is wrong?
                found.udp.port_allocation = match comparison.external_ips.len() {
                    0 | 1 => ports,
                    _ => {
                        let text =
                            "the servers show different external addresses, and one of them may be wrong";
                        ports.at_most(Confidence::Weak).because((ReasonCode::SeveralExternalAddresses, text))
                    }
                };
            }
            found.udp.local = log.local(self.main.id);
            let seen = log.transactions.iter().filter(|t| t.socket == self.main.id);
            for external in seen.filter_map(|t| log.external(t.direct()?)) {
                if !found.udp.external.contains(&external) {
                    found.udp.external.push(external);
                }
            }
        });
        found.udp.rtt_s = self.session.path_rtt().map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e6);
        found.udp.mapping = comparison.mapping.clone();
        found.udp.filtering = self.session.read(filtering);
        found
    }

    /// Those that have answered over UDP.
    pub(super) fn alive(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        let alive = |log: &ObservationLog| {
            let succeeded = |to| log.transactions.iter().any(|t| t.to == to && t.direct().is_some());
            servers.iter().copied().filter(|&to| succeeded(to)).collect()
        };
        self.session.read(alive)
    }

    /// Those that have not answered over UDP.
    fn silent(&self, servers: &[SocketAddr]) -> Vec<SocketAddr> {
        self.session.read(|log| servers.iter().copied().filter(|&to| !has_answered(log, to)).collect())
    }

    /// The external endpoint that a server showed over TCP, UDP being silent.
    pub(super) fn over_tcp(&self, server: SocketAddr) -> Option<SocketAddr> {
        self.over_tcp.lock().unwrap_or_else(PoisonError::into_inner).get(&server).copied()
    }

    /// What a server says of its other endpoints.
    pub(super) fn endpoints(&self, server: SocketAddr) -> ServerEndpoints {
        self.session.read(|log| ServerEndpoints::of(server, log))
    }

    /// Why a server that did not answer usefully is of no use.
    pub(super) fn complaint(&self, server: SocketAddr) -> (ReasonCode, String) {
        self.session.read(|log| {
            let asked = || log.transactions.iter().filter(|t| t.to == server);
            let nonsense = log.unmatched.not_stun > 0;
            let elsewhere = asked().flat_map(|t| &t.responses).find(|answer| answer.from != server);
            match (asked().find_map(Transaction::error_code), elsewhere) {
                (Some(code), _) => {
                    (ReasonCode::ServerRefuses, format!("{server} answers every request with error {code}"))
                }
                (None, Some(answer)) => {
                    let text = format!("{server} does not answer from there, but from {}", answer.from);
                    (ReasonCode::ServerUnreachable, text)
                }
                (None, None) => {
                    let count = asked().count();
                    let remark = if nonsense { "; something that is not STUN came in" } else { "" };
                    let text =
                        format!("{server} answered none of {count} UDP requests, nor over TCP{remark}");
                    (ReasonCode::ServerUnreachable, text)
                }
            }
        })
    }
}

/// Nobody can be asked to answer from elsewhere; but a server that does so by mistake shows that it is let in.
fn filtering(log: &ObservationLog) -> Finding<Filtering> {
    const METHOD: &str = "responses from addresses that nothing was sent to";
    let sent_to: BTreeSet<IpAddr> = log.transactions.iter().map(|t| t.to.ip()).collect();
    let responses = || log.transactions.iter().flat_map(Transaction::successes);
    match responses().find(|response| !sent_to.contains(&response.from.ip())) {
        Some(stranger) => {
            let text = "an earlier run may have sent something there, which some filters remember for the whole host";
            Finding::known(Filtering::EndpointIndependent, Confidence::Weak, METHOD)
                .because((ReasonCode::AlternateNotFresh, text))
                .with("let_in", stranger.from)
        }
        None => {
            let text = "no server here can answer from a second address";
            Finding::unknown((ReasonCode::ServerHasNoAlternate, text), METHOD)
        }
    }
}

/// Whether a server has answered over UDP, be it with an error.
fn has_answered(log: &ObservationLog, server: SocketAddr) -> bool {
    log.transactions.iter().any(|t| t.to == server && t.responses.iter().any(|r| r.from == server))
}

/// Where else these servers may listen, if all have the same port number.
fn further_endpoints(servers: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(port) = servers.first().map(SocketAddr::port) else { return Vec::new() };
    if servers.iter().any(|server| server.port() != port) {
        return Vec::new();
    }
    let others = |server: &SocketAddr| FURTHER_PORTS.map(|port| SocketAddr::new(server.ip(), port));
    servers.iter().flat_map(others).filter(|at| at.port() != port).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::made;

    #[test]
    fn an_answer_from_where_nothing_was_sent_bounds_the_filter() {
        let mut log = made::log();
        let socket = made::socket(&mut log, "192.168.1.2:40000");
        let mut ask = |from: &str| {
            let mut transaction =
                made::transaction(PURPOSE, socket, made::at("198.51.100.10:3478"), RequestKind::Binding);
            transaction.responses.push(made::answer(socket, made::at(from), "203.0.113.1:5"));
            log.transactions.push(transaction);
            filtering(&log)
        };
        assert_eq!(ask("198.51.100.10:3478").reason_code, Some(ReasonCode::ServerHasNoAlternate));
        assert_eq!(ask("198.51.100.10:3479").value, None, "another port of an address that was sent to");
        let stranger = ask("198.51.100.99:3478");
        assert_eq!(stranger.value, Some(Filtering::EndpointIndependent));
        assert_eq!(stranger.confidence, Confidence::Weak);
    }
}
