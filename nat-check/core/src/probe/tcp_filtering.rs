//! TCP filtering (RFC 5382 REQ-3): whose SYNs does a mapping let in? A port that has contacted one address of the server
//! listens, and the server connects to it: from another port of that address, from its other address, and from a port number
//! that was contacted at the first address.

mod conclude;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    nat::Filtering,
    test_session::{Source, SourceAddress},
};
use tokio::time::sleep;

use super::{
    measured::Transport,
    tcp,
    tcp_calls::{Caller, WAIT},
};
use crate::{
    observation::{ObservationLog, Purpose},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::Finding,
    session::{CallRequest, Session},
};

/// What its connections and calls are for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("tcp-filtering");
/// What the connection is opened for that contacts a port number of the first address.
const PORT_CONTACT: Purpose = PURPOSE.role("port-contact");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whose TCP connections from outside are let in",
    needs: &["tcp-mapping"],
    steps: &[Step { stage: Stage::Tcp, run: |session| Box::pin(run(session)) }],
    udp: &[],
    tcp: &[Slot::of::<TcpFiltering>()],
    server: &[],
};

/// What it finds out.
struct TcpFiltering;

impl Measured for TcpFiltering {
    type Value = Filtering;
    const KEY: &'static str = "filtering";
    const LABEL: &'static str = "TCP filtering";
    const LINE_KEY: Option<&'static str> = Some("tcp_filtering");
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.filtering);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<Filtering> {
        conclude::conclude(log, &found.udp.filtering)
    }

    fn text(value: &Filtering) -> String {
        match value {
            Filtering::EndpointIndependent => "endpoint-independent: anybody's connections are let in",
            Filtering::AddressDependent => {
                "address-dependent: connections from contacted addresses are let in"
            }
            Filtering::AddressAndPortDependent => {
                "address-and-port-dependent: connections are let in from contacted addresses and ports only"
            }
            Filtering::PortDependent => "port-dependent: connections from contacted port numbers are let in",
        }
        .into()
    }

    #[cfg(feature = "sim")]
    fn expected_tcp(nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        Some(serde_json::json!(nat.filtering))
    }
}

/// Calls that follow the first ones where they are asked for and leave a doubt: one a second.
const FURTHER: usize = 12;
const FURTHER_INTERVAL: Duration = Duration::from_millis(1050);

async fn run(session: Arc<Session>) {
    session.while_there_is_time(ask_and_listen(&session)).await;
    // From now on others may contact the server's other address.
    session.tcp_filtering_is_over();
}

async fn ask_and_listen(session: &Arc<Session>) -> Option<()> {
    let port = session.new_tcp_port().await.ok()?;
    let listener = port.listen().ok()?;
    let (test, to) = tcp::prove(session, &*port, PURPOSE).await?;
    session.accept_calls(&test, listener);
    let caller = Caller { session, test: &test, to };
    // A port number of the first address, which the server can connect from at its other one. Nobody need answer there.
    let other = test.welcome.alternate.as_ref().and_then(|alternate| alternate.pending);
    let contact = async {
        if let Some(pending) = other {
            let at = SocketAddr::new(session.server().ip(), pending.port());
            tcp::knock(session, &*port, PORT_CONTACT, at).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = calls(&caller, other.is_some()) => {}
        () = contact => {}
    }
    Some(())
}

async fn calls(caller: &Caller<'_>, has_pending: bool) {
    use Source::{Ephemeral, Pending};
    use SourceAddress::{Alternate, Primary};
    let Caller { session, test, .. } = caller;
    let has_alternate = test.welcome.alternate.is_some();
    let is_possible = |from, source| from == Primary || has_alternate && (source == Ephemeral || has_pending);
    for (from, source) in [
        (Alternate, Ephemeral),
        (Primary, Ephemeral),
        (Alternate, Ephemeral),
        (Primary, Ephemeral),
        // The contact of the port number has left long before.
        (Alternate, Pending),
        (Primary, Ephemeral),
        (Alternate, Ephemeral),
        (Primary, Ephemeral),
    ] {
        if is_possible(from, source) {
            caller.call(request(caller, from, source)).await;
        }
    }
    caller.settle(PURPOSE).await;
    for further in 0..FURTHER {
        if !session.is_patient() || session.read(conclude::is_decided) {
            return;
        }
        sleep(FURTHER_INTERVAL).await;
        let wanted = [(Primary, Ephemeral), (Alternate, Ephemeral), (Alternate, Pending)];
        let (from, source) = wanted[further % wanted.len()];
        if is_possible(from, source) {
            caller.call(request(caller, from, source)).await;
            caller.settle(PURPOSE).await;
        }
    }
}

/// Whether a call from this address of the server has arrived that nothing had asked for there.
pub(super) fn came(log: &ObservationLog, from: SourceAddress) -> bool {
    conclude::came(log, from, Source::Ephemeral)
}

fn request(caller: &Caller<'_>, from: SourceAddress, source: Source) -> CallRequest {
    CallRequest { purpose: PURPOSE, from, source, to: caller.to, put_off: Duration::ZERO, wait: WAIT }
}
