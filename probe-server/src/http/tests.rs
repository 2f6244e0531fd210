//! Requests of all kinds over streams in memory, in paused time.

use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::*;

const FROM: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const UPGRADE: &str = "Host: probe\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A connection, and the address of the client when it opens a WebSocket.
fn connect(options: HttpOptions) -> (DuplexStream, JoinHandle<Option<IpAddr>>) {
    let (here, there) = duplex(64 * 1024);
    let served = tokio::spawn(async move {
        let site = Site { options: &options, paths: &["/punch"], page: None, tls_port: Some(5349) };
        serve(Vec::new(), there, FROM, &site).await.map(|opened| opened.client)
    });
    (here, served)
}

/// What comes back until the connection ends.
async fn ask(options: HttpOptions, request: &[u8]) -> (String, Option<IpAddr>) {
    let (mut here, served) = connect(options);
    // It may be closed before all of it is written.
    _ = here.write_all(request).await;
    let mut answer = Vec::new();
    _ = here.read_to_end(&mut answer).await;
    (String::from_utf8_lossy(&answer).into_owned(), served.await.expect("no panic"))
}

async fn status(options: &HttpOptions, line: &str, headers: &str) -> String {
    let (answer, _) = ask(options.clone(), format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn each_path_has_its_answer() {
    let options = HttpOptions::default();
    for (line, headers, expected) in [
        ("GET /", "Host: probe\r\n", "200"),
        ("GET /?auto=1", "Host: probe\r\n", "200"),
        ("HEAD /", "Host: probe\r\n", "405"),
        ("POST /punch", "Host: probe\r\n", "405"),
        ("GET /other", "Host: probe\r\n", "404"),
        ("GET /probe", UPGRADE, "404"),
        ("GET /punch", "Host: probe\r\n", "400"),
        ("GET /punch", UPGRADE, "101"),
        ("GET /punch?x=1", UPGRADE, "101"),
    ] {
        assert_eq!(status(&options, line, headers).await, expected, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_websocket_is_told_where_the_same_is_offered_over_tls_and_nothing_else_is() {
    let (mut here, _served) = connect(HttpOptions::default());
    here.write_all(format!("GET /punch HTTP/1.1\r\n{UPGRADE}\r\n").as_bytes()).await.expect("written");
    let mut answer = vec![0; 1024];
    let length = here.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]).to_lowercase();
    assert!(answer.contains("\r\nalt-svc: http%2f1.1=\":5349\"\r\n"), "{answer}");
    let (page, _) = ask(HttpOptions::default(), b"GET / HTTP/1.1\r\nHost: probe\r\n\r\n").await;
    assert!(!page.to_lowercase().contains("alt-svc"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn only_pages_of_allowed_origins_open_a_websocket() {
    let allowed_origins = vec!["https://example.org".to_owned()];
    let some = HttpOptions { allowed_origins, ..HttpOptions::default() };
    for (options, origins, expected) in [
        (HttpOptions::default(), "Origin: https://example.org\r\n", "403"),
        (HttpOptions::default(), "Origin: null\r\n", "403"),
        (some.clone(), "Origin: https://example.org\r\n", "101"),
        (some.clone(), "Origin: https://example.org.evil\r\n", "403"),
        (some.clone(), "Origin: http://example.org\r\n", "403"),
        (some.clone(), "Origin: https://example.org\r\nOrigin: https://evil\r\n", "403"),
        (some, "", "101"),
    ] {
        assert_eq!(
            status(&options, "GET /punch", &format!("{origins}{UPGRADE}")).await,
            expected,
            "{origins}"
        );
    }
}

/// A server that has the page, under one name.
async fn status_with_page(paths: &'static [&'static str], line: &str, headers: &str) -> String {
    let (mut here, there) = duplex(64 * 1024);
    tokio::spawn(async move {
        let (options, page) = (HttpOptions::default(), crate::page::page(vec!["probe".into()]));
        let site = Site { options: &options, paths, page: Some(&page), tls_port: None };
        serve(Vec::new(), there, FROM, &site).await
    });
    here.write_all(format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.expect("written");
    let mut answer = vec![0; 64];
    let length = here.read(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer[..length]).split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_page_lets_browsers_into_sessions_and_no_other_page_does() {
    const BOTH: &[&str] = &["/punch", "/see"];
    for (paths, line, headers, expected) in [
        (BOTH, "GET /p/tabo-kiru-lama-dosu?auto=1", "Host: probe:3478\r\n".to_owned(), "200"),
        (BOTH, "GET /p/", "Host: probe\r\n".to_owned(), "200"),
        (BOTH, "GET /p", "Host: probe\r\n".to_owned(), "404"),
        (BOTH, "POST /p/x", "Host: probe\r\n".to_owned(), "405"),
        (&["/see"], "GET /p/x", "Host: probe\r\n".to_owned(), "404"),
        (BOTH, "GET /punch", format!("Origin: http://probe:3478\r\n{UPGRADE}"), "101"),
        (BOTH, "GET /punch", format!("Origin: https://probe.evil\r\n{UPGRADE}"), "403"),
        (BOTH, "GET /see", format!("Origin: https://evil\r\n{UPGRADE}"), "403"),
    ] {
        assert_eq!(status_with_page(paths, line, &headers).await, expected, "{line} {headers}");
    }
    let long = format!("GET /p/{}", "a".repeat(41));
    assert_eq!(status_with_page(BOTH, &long, "Host: probe\r\n").await, "404");
    assert_eq!(status(&HttpOptions::default(), "GET /p/x", "Host: probe\r\n").await, "404", "no page");
}

#[tokio::test(start_paused = true)]
async fn the_client_behind_a_trusted_proxy_is_known() {
    let request = format!("GET /punch HTTP/1.1\r\nX-Forwarded-For: 198.51.100.7\r\n{UPGRADE}\r\n");
    let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let trusting = HttpOptions { trusted_proxies, ..HttpOptions::default() };
    assert_eq!(ask(HttpOptions::default(), request.as_bytes()).await.1, Some(FROM));
    assert_eq!(ask(trusting, request.as_bytes()).await.1, Some("198.51.100.7".parse().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_long_gets_nothing() {
    for length in [4000, 4200, 100_000] {
        let request = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(length - 24));
        let (answer, _) = ask(HttpOptions::default(), request.as_bytes()).await;
        assert_eq!(answer.is_empty(), length > 4096, "{length}: {answer}");
    }
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: x\r\n".repeat(MAX_HEADERS + 1));
    let (answer, _) = ask(HttpOptions::default(), many.as_bytes()).await;
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_not_waited_for() {
    let begun = Instant::now();
    let (mut here, served) = connect(HttpOptions::default());
    here.write_all(b"GET /punch HTTP/1.1\r\nX: ").await.unwrap();
    while here.write_all(b"x").await.is_ok() {
        sleep(Duration::from_millis(200)).await;
    }
    let ended = begun.elapsed();
    assert!((REQUEST_TIMEOUT..REQUEST_TIMEOUT + Duration::from_millis(500)).contains(&ended), "{ended:?}");
    assert_eq!(served.await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn one_request_a_connection_and_no_frames_before_the_answer() {
    let two = b"GET / HTTP/1.1\r\nHost: probe\r\n\r\nGET /other HTTP/1.1\r\nHost: probe\r\n\r\n";
    let (answer, _) = ask(HttpOptions::default(), two).await;
    assert!(answer.contains("200 OK") && !answer.contains("404"), "{answer}");
    let early =
        [format!("GET /punch HTTP/1.1\r\n{UPGRADE}\r\n").as_bytes(), &[0x89, 0x80, 0, 0, 0, 0]].concat();
    assert_eq!(ask(HttpOptions::default(), &early).await.1, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever comes in whatever pieces: it ends in time, with a short answer or none.
    #[test]
    fn any_input_ends(
        begins_well in any::<bool>(),
        noise in prop::collection::vec(any::<u8>(), 0..6000),
        lines in prop::collection::vec("[ -~]{0,40}", 0..20),
        piece in 1..3000_usize,
    ) {
        let head = if begins_well { format!("GET /punch HTTP/1.1\r\n{UPGRADE}{}\r\n\r\n", lines.join("\r\n")) } else { lines.join("\r\n") };
        let input = [head.as_bytes(), &noise].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let begun = Instant::now();
            let (mut here, served) = connect(HttpOptions::default());
            for piece in input.chunks(piece) {
                if here.write_all(piece).await.is_err() {
                    break;
                }
                sleep(Duration::from_millis(1)).await;
            }
            let mut answer = Vec::new();
            _ = here.read_to_end(&mut answer).await;
            served.await.expect("no panic");
            assert!(begun.elapsed() <= REQUEST_TIMEOUT + Duration::from_secs(7) && answer.len() < 500);
        });
    }

    /// The limits of frames hold however the bytes are cut, and the answer is the same.
    #[test]
    fn frames_are_limited_however_they_are_cut(
        frames in prop::collection::vec((any::<u8>(), 0..1200_u64, any::<bool>()), 0..300),
        piece in 1..5000_usize,
        junk in any::<bool>(),
    ) {
        use crate::limited_stream::ReadLimit;
        let mut bytes = Vec::new();
        for (first, length, is_masked) in frames {
            let first = if junk { first } else { 0x80 | [1, 2, 8, 9, 10][usize::from(first) % 5] };
            let mask = if is_masked { 0x80 } else { 0 };
            bytes.push(first);
            match length {
                0..126 => bytes.push(mask | length as u8),
                _ => bytes.extend([mask | 126, (length >> 8) as u8, length as u8]),
            }
            bytes.resize(bytes.len() + length as usize + if is_masked { 4 } else { 0 }, 0x81);
        }
        let run = |piece: usize| {
            let mut limiter = FrameLimiter::new();
            limiter.begin_frames();
            let taken = bytes.chunks(piece).take_while(|piece| limiter.follow(piece).is_ok()).count();
            (limiter.exceeded(), taken * piece)
        };
        let (whole, cut) = (run(usize::MAX >> 1), run(piece));
        prop_assert!(cut.1 <= 96 * 1024 + piece);
        // More bytes in one piece than may come at all are refused before they are looked at.
        if bytes.len() <= 96 * 1024 {
            prop_assert_eq!(whole.0, cut.0);
        } else {
            prop_assert!(cut.0.is_some());
        }
    }
}
