//! Who else is there, and how do they answer? Searches of UPnP and mDNS, sent twice; what is said in answer is only told.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::Duration,
};

use tokio::{net::UdpSocket, time::sleep};

use super::{
    report::{AnswerKind, DeviceProtocol, DeviceReport},
    way::MDNS,
};
use crate::{
    net::lan::{LanNetwork, MDNS_PORT, mdns_socket, question_socket},
    printable::printable,
};

/// Devices that are kept.
const MOST_DEVICES: usize = 64;
/// Between two questions.
const PAUSE: Duration = Duration::from_secs(1);
/// SSDP (UPnP Device Architecture 2.0 section 1.3.2).
const SSDP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
const SEARCH: &[u8] =
    b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: ssdp:all\r\n\r\n";
/// The question for all kinds of services (RFC 6763 section 9): _services._dns-sd._udp.local PTR.
const QUESTION: &[u8] = b"\0\0\0\0\0\x01\0\0\0\0\0\0\x09_services\x07_dns-sd\x04_udp\x05local\0\0\x0c\0\x01";

/// Asks until it is dropped; what has been found by then stays in `found`.
pub(crate) async fn search(network: &LanNetwork, own: &[IpAddr], found: &mut Vec<DeviceReport>) {
    let [ssdp, mdns] = [question_socket(network).ok(), question_socket(network).ok()];
    // Answers to questions from the port of mDNS itself go to the group.
    let group = mdns_socket(network).ok();
    let asking = async {
        for _ in 0..2 {
            for (socket, question, to) in [
                (&ssdp, SEARCH, SSDP),
                (&mdns, QUESTION, SocketAddrV4::new(MDNS, MDNS_PORT)),
                (&group, QUESTION, SocketAddrV4::new(MDNS, MDNS_PORT)),
            ] {
                if let Some(socket) = socket {
                    // What the system refuses is as good as lost.
                    _ = socket.send_to(question, to).await;
                }
            }
            sleep(PAUSE).await;
        }
        std::future::pending::<()>().await;
    };
    let hearing = async {
        let (mut a, mut b, mut c) = ([0; 1500], [0; 1500], [0; 1500]);
        loop {
            let heard = tokio::select! {
                (length, from) = next(ssdp.as_ref(), &mut a) => ssdp_answer(&a[..length]).map(|software| (from, DeviceProtocol::Ssdp, AnswerKind::Unicast, software)),
                (length, from) = next(mdns.as_ref(), &mut b) => is_mdns_answer(&b[..length], from).then_some((from, DeviceProtocol::Mdns, AnswerKind::Unicast, None)),
                (length, from) = next(group.as_ref(), &mut c) => is_mdns_answer(&c[..length], from).then_some((from, DeviceProtocol::Mdns, AnswerKind::Multicast, None)),
            };
            let Some((SocketAddr::V4(from), protocol, answers, software)) = heard else { continue };
            let address = *from.ip();
            if is_there(address, network) && !own.contains(&address.into()) {
                note(found, DeviceReport { address, protocol, answers, software });
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = hearing => {}
    }
}

async fn next(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        match socket.recv_from(buffer).await {
            Ok(received) => return received,
            // An error is a report by ICMP of what was sent before.
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

fn is_there(address: Ipv4Addr, network: &LanNetwork) -> bool {
    let shift = 32 - u32::from(network.prefix_len);
    let prefix = |ip: Ipv4Addr| u32::from(ip).checked_shr(shift).unwrap_or(0);
    prefix(address) == prefix(network.address)
}

fn note(found: &mut Vec<DeviceReport>, device: DeviceReport) {
    let is_it = |it: &DeviceReport| (it.address, it.protocol) == (device.address, device.protocol);
    match found.iter().position(is_it) {
        Some(index) => {
            let known = &mut found[index];
            if known.answers != device.answers {
                known.answers = AnswerKind::Both;
            }
            known.software = known.software.take().or(device.software);
        }
        None if found.len() < MOST_DEVICES => found.push(device),
        None => {}
    }
}

/// What an answer to a search says of the device's software; none where it is no answer.
fn ssdp_answer(datagram: &[u8]) -> Option<Option<String>> {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    head.parse(datagram).ok()?;
    if head.code != Some(200) {
        return None;
    }
    let server = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("server"));
    let text = server.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim);
    Some(text.filter(|text| !text.is_empty()).map(printable))
}

/// Whether it is a response with an answer, from the port of mDNS (RFC 6762 sections 6 and 18).
fn is_mdns_answer(datagram: &[u8], from: SocketAddr) -> bool {
    const RESPONSE: u8 = 0x80;
    const OPCODE: u8 = 0x78;
    let Some(header) = datagram.first_chunk::<12>() else { return false };
    from.port() == MDNS_PORT
        && header[2] & (RESPONSE | OPCODE) == RESPONSE
        && (header[6], header[7]) != (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(last: u8, answers: AnswerKind) -> DeviceReport {
        let address = Ipv4Addr::new(192, 168, 77, last);
        DeviceReport { address, protocol: DeviceProtocol::Mdns, answers, software: None }
    }

    #[test]
    fn answers_are_told_from_questions() {
        let from: SocketAddr = "192.168.77.3:5353".parse().unwrap();
        assert!(!is_mdns_answer(QUESTION, from), "our own question");
        let mut answer = QUESTION.to_vec();
        (answer[2], answer[7]) = (0x84, 1);
        assert!(is_mdns_answer(&answer, from));
        assert!(!is_mdns_answer(&answer, "192.168.77.3:5354".parse().unwrap()), "from another port");
        answer[2] = 0x84 | 0x08;
        assert!(!is_mdns_answer(&answer, from), "another operation");
        assert!(!is_mdns_answer(&answer[..11], from));
        assert_eq!(ssdp_answer(SEARCH), None);
        let answer = b"HTTP/1.1 200 OK\r\nSERVER: a\x1b[2J\r\n\r\n";
        assert_eq!(ssdp_answer(answer), None, "control characters are no header");
        assert_eq!(ssdp_answer(b"HTTP/1.1 200 OK\r\nServer: box\r\n\r\n"), Some(Some("box".into())));
        assert_eq!(ssdp_answer(b"HTTP/1.1 404 No\r\nServer: box\r\n\r\n"), None);
    }

    #[test]
    fn devices_are_kept_once_and_not_without_end() {
        let mut found = Vec::new();
        note(&mut found, device(3, AnswerKind::Unicast));
        note(&mut found, device(3, AnswerKind::Unicast));
        assert_eq!(found, [device(3, AnswerKind::Unicast)]);
        note(&mut found, device(3, AnswerKind::Multicast));
        assert_eq!(found, [device(3, AnswerKind::Both)]);
        for last in 4..=255 {
            note(&mut found, device(last, AnswerKind::Unicast));
        }
        assert_eq!(found.len(), MOST_DEVICES);
    }
}
