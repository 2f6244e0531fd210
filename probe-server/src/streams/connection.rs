//! One connection: messages in, answers out, in order, each within a timeout (RFC 8489 section 6.2.2).

use std::{net::SocketAddr, time::Duration};

use shared::{
    stun::{View, attr, frame::Frames},
    test_session::Token,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
    time::{self, Instant},
};

use super::{ConnectionSlot, Context, Event, ListenerEndpoint, Transport, web_socket};
use crate::{
    drop_reason::DropReason,
    respond::{Answers, MAX_REQUEST, Outcome, respond_stream},
    test_session::{self, HoldOrder, Proof},
    topology::Topology,
};

/// Serves one connection until one side ends it.
pub(super) async fn serve<S>(
    mut stream: S,
    from: SocketAddr,
    listener: ListenerEndpoint,
    mut context: Context,
    slot: ConnectionSlot,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let timeouts = context.shared.current().streams;
    let last = Instant::now() + timeouts.longest;
    let mut frames = Frames::new(MAX_REQUEST);
    let mut piece = [0; 1024];
    let mut out = Vec::new();
    // When the message that is coming in began.
    let mut begun = None;
    let mut first = true;
    let mut proof = None;
    let end = loop {
        let (until, late) = match begun {
            Some(begun) => (begun + timeouts.slow, Event::Slow),
            None => (Instant::now() + timeouts.idle, Event::Idle),
        };
        let (until, late) = if last < until { (last, Event::Old) } else { (until, late) };
        let read = tokio::select! {
            biased;
            read = time::timeout_at(until, stream.read(&mut piece)) => read,
            // A message that has begun is still served when the server is to stop.
            () = stopping(&mut context.stop), if begun.is_none() => break None,
            order = held(&mut proof) => return hold(stream, order, context, slot),
        };
        let length = match read {
            Ok(Ok(0) | Err(_)) => break None,
            Ok(Ok(length)) => length,
            Err(_) => break Some(late),
        };
        // STUN begins with two zero bits; HTTP, which brings WebSockets, with a letter.
        if first && piece[0].is_ascii_alphabetic() && web_socket::is_served(&context) {
            let beginning = piece[..length].to_vec();
            return web_socket::spawn(beginning, stream, from, listener, context, slot);
        }
        first = false;
        frames.push(&piece[..length]);
        out.clear();
        let mut token = None;
        let answered = answer_all(&mut frames, from, listener, &context, &mut out, &mut token);
        if !out.is_empty() && !write(&mut stream, &out, timeouts.slow).await {
            break Some(Event::Slow);
        }
        match answered {
            Ok(complete) => {
                // A connection proves one port, once.
                if let (Some(token), None) = (token, &proof) {
                    proof = prove(&token, from, listener, &context);
                }
                if complete > 0 {
                    slot.touch(context.shared.clock.now());
                }
                begun = match begun {
                    _ if !frames.is_partial() => None,
                    Some(begun) if complete == 0 => Some(begun),
                    Some(_) | None => Some(Instant::now()),
                };
            }
            Err(event) => break Some(event),
        }
    };
    if let Some(event) = end {
        context.limiter.count(event);
    }
    // Over TLS this sends close_notify, over TCP the end of the stream.
    _ = time::timeout(timeouts.slow, stream.shutdown()).await;
}

/// Shows a test session which port its client has.
fn prove(token: &Token, from: SocketAddr, listener: ListenerEndpoint, context: &Context) -> Option<Proof> {
    let to = topology(listener, context).advertised(listener.at)?;
    context.test_sessions.as_ref()?.prove(token, from, to)
}

/// Waits until the connection is to be held, which only one that proved a port can be.
async fn held(proof: &mut Option<Proof>) -> HoldOrder {
    match proof {
        Some(proof) => proof.hold().await,
        None => std::future::pending().await,
    }
}

/// Holds the connection in a task of its own, which has no room for anything else.
fn hold<S>(stream: S, order: HoldOrder, context: Context, mut slot: ConnectionSlot)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // From now on the number of such connections is bounded by the test sessions.
    slot.hand_over();
    let running = context.running;
    tokio::spawn(async move {
        test_session::hold(stream, order).await;
        drop((slot, running));
    });
}

async fn stopping(stop: &mut watch::Receiver<bool>) {
    _ = stop.wait_for(|stop| *stop).await;
}

/// Whether the peer took it all in time.
async fn write<S: AsyncWrite + Unpin>(stream: &mut S, bytes: &[u8], slow: Duration) -> bool {
    let all = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    matches!(time::timeout(slow, all).await, Ok(Ok(())))
}

/// Answers all messages that are complete; their number, or why the connection is to end. What was answered before
/// is in `out` in either case.
fn answer_all(
    frames: &mut Frames,
    from: SocketAddr,
    listener: ListenerEndpoint,
    context: &Context,
    out: &mut Vec<u8>,
    token: &mut Option<Token>,
) -> Result<usize, Event> {
    let topology = &topology(listener, context);
    let mut answers = Answers::new();
    let mut complete = 0;
    while let Some(message) = frames.next_message().map_err(|_| Event::Broken)? {
        complete += 1;
        if !context.take(listener.family, from, 1) {
            return Err(Event::Limited);
        }
        match respond_stream(topology, listener.at, from, message, &mut answers) {
            Ok(Outcome::Success | Outcome::Changed) => {
                context.limiter.count(Event::Success);
                *token = token_in(message).or(*token);
            }
            Ok(Outcome::BadRequest | Outcome::UnknownAttribute) => context.limiter.count(Event::Error),
            Err(DropReason::Indication | DropReason::Response | DropReason::Method) => {
                context.limiter.count(Event::Ignored);
                continue;
            }
            Err(_) => return Err(Event::Broken),
        }
        for (_, _, bytes) in answers.iter().take(1) {
            out.extend_from_slice(bytes);
        }
    }
    Ok(complete)
}

/// The endpoints that such a listener is one of.
fn topology(listener: ListenerEndpoint, context: &Context) -> Topology {
    let current = context.shared.current();
    match listener.transport {
        Transport::Tcp => current.topologies[listener.family].clone(),
        Transport::Tls => current.tls[listener.family].clone(),
    }
}

/// The token of a test session in a request.
fn token_in(message: &[u8]) -> Option<Token> {
    let view = View::parse(message).ok()?;
    view.find(attr::TOKEN)?.try_into().ok().map(Token)
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt, StreamExt};
    use shared::{
        rendezvous::{Code, Refusal, ToClient, ToServer, VERSION},
        stun::{Class, TransactionId, Writer},
    };
    use tokio::io::{DuplexStream, duplex};
    use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

    use super::{
        super::tests::{at_once, context},
        *,
    };
    use crate::{
        limits::Limits,
        rendezvous::{Rendezvous, SessionLimits},
        streams::ConnectionLimiter,
        topology::Endpoint,
    };

    const PLACE: ListenerEndpoint =
        ListenerEndpoint { transport: Transport::Tcp, family: 0, at: Endpoint::Primary };

    fn connect(context: &Context, from: SocketAddr) -> DuplexStream {
        let (here, there) = duplex(4096);
        let limits = context.shared.current().streams;
        let slot = ConnectionLimiter::enter(&context.limiter, &limits, Transport::Tcp, from, 0).unwrap();
        tokio::spawn(serve(there, from, PLACE, context.clone(), slot));
        here
    }

    #[tokio::test]
    async fn a_victim_of_forged_datagrams_is_served() {
        let context = context();
        let from = "198.51.100.7:40000".parse().unwrap();
        let now = context.shared.clock.now();
        while context.shared.buckets[0].admit(&Limits::default(), from, now).is_ok() {}
        let mut stream = connect(&context, from);
        let mut request = [0; 20];
        let id = TransactionId::modern(&mut fastrand::Rng::with_seed(1));
        let length = Writer::new(&mut request, Class::Request, &id).len();
        stream.write_all(&request[..length]).await.unwrap();
        stream.read_exact(&mut [0; 20]).await.unwrap();
        assert_eq!(context.limiter.counts().success, 1);
    }

    /// Whoever guesses codes is kept from trying more of them, and from nothing else.
    #[tokio::test]
    async fn wrong_codes_shut_out_nobody_from_anything_else() {
        let rendezvous = Rendezvous::new(SessionLimits::default());
        let context = Context { rendezvous: Some(rendezvous), ..context() };
        let guesser = "198.51.100.7";
        let mut answers = Vec::new();
        for code in 0..14 {
            let code = Code::from_bits(code);
            let mut client = say(&context, guesser, &ToServer::Join { version: VERSION, code }).await;
            answers.push(hear(&mut client).await);
        }
        let refused = |reason| ToClient::Refused { reason };
        assert!(answers[..10].iter().all(|answer| *answer == refused(Refusal::UnknownCode)), "{answers:?}");
        assert!(answers[10..].iter().all(|answer| *answer == refused(Refusal::TooFast)), "{answers:?}");
        assert!(at_once(&context, address(guesser), 1) >= 900, "STUN over TCP from the same address");
        let mut waiting = say(&context, guesser, &ToServer::Open { version: VERSION }).await;
        assert!(matches!(hear(&mut waiting).await, ToClient::Welcome { .. }), "nor from opening sessions");
        let ToClient::Waiting { code, .. } = hear(&mut waiting).await else { panic!("no code") };
        let mut guest = say(&context, "198.51.102.1", &ToServer::Join { version: VERSION, code }).await;
        assert!(matches!(hear(&mut guest).await, ToClient::Welcome { .. }));
    }

    fn address(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 40000)
    }

    async fn say(context: &Context, from: &str, first: &ToServer) -> WebSocketStream<DuplexStream> {
        let stream = connect(context, address(from));
        let mut client = client_async("ws://probe/punch", stream).await.unwrap().0;
        client.send(Message::text(serde_json::to_string(first).unwrap())).await.unwrap();
        client
    }

    async fn hear(client: &mut WebSocketStream<DuplexStream>) -> ToClient {
        let message = client.next().await.unwrap().unwrap();
        ToClient::parse(message.to_text().unwrap()).unwrap().unwrap()
    }
}
