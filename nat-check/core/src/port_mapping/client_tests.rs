//! The client against devices that a test writes: what is asked for, and what is left alone.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex},
    time::Duration,
};

use shared::port_mapping::Transport;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{Client, Granted, MappingError, Wish, description};
use crate::net::{Net, os::OsNet};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const DONE: &str = "";

/// A device whose answer to each action is this; and the actions that it was asked for, in order.
async fn device(
    service: &str,
    answers: impl Fn(&str) -> Result<String, u16> + Send + 'static,
) -> (Client, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind((HERE, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"</s:Envelope>\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let text = String::from_utf8(request).unwrap();
            let action = text.split_once("#").unwrap().1.split_once('"').unwrap().0.to_owned();
            noted.lock().unwrap().push(action.clone());
            let (status, body) = match answers(&action) {
                Ok(results) => (200, format!("<u:{action}Response>{results}</u:{action}Response>")),
                Err(code) => (500, format!("<UPnPError><errorCode>{code}</errorCode></UPnPError>")),
            };
            let body =
                format!("<s:Envelope xmlns:s=\"s\" xmlns:u=\"u\"><s:Body>{body}</s:Body></s:Envelope>");
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
        }
    });
    let text = format!(
        "<root><service><serviceType>urn:{service}</serviceType><controlURL>/c</controlURL></service></root>"
    );
    let service = description::services(&text, service.contains("IPv6")).unwrap().remove(0);
    let net: Arc<dyn Net> = Arc::new(OsNet);
    (Client::upnp(&net, HERE, at, service), asked)
}

const WISH: Wish = Wish {
    transport: Transport::Udp,
    internal: 5000,
    external: 41_000,
    lifetime: Duration::from_secs(120),
    nonce: [0; 12],
};

fn entry(of: &str, port: u16) -> String {
    format!("<NewInternalPort>{port}</NewInternalPort><NewInternalClient>{of}</NewInternalClient>")
}

#[tokio::test]
async fn a_gateway_of_version_2_chooses_another_port_where_the_wished_one_is_taken() {
    let answers = |action: &str| match action {
        "AddPortMapping" => Err(718),
        "AddAnyPortMapping" => Ok("<NewReservedPort>41007</NewReservedPort>".into()),
        _ => Err(401),
    };
    let (client, asked) = device("schemas-upnp-org:service:WANIPConnection:2", answers).await;
    let granted = Granted { external: 41_007, external_address: None, lifetime: WISH.lifetime, epoch: None };
    assert_eq!(client.map(&WISH).await, Ok(granted));
    assert_eq!(*asked.lock().unwrap(), ["AddPortMapping", "AddAnyPortMapping"]);
    let (client, asked) = device("schemas-upnp-org:service:WANIPConnection:1", answers).await;
    assert!(matches!(client.map(&WISH).await, Err(MappingError::Refused(code)) if code.starts_with("718")));
    assert_eq!(*asked.lock().unwrap(), ["AddPortMapping"], "version 1 has no such action");
}

#[tokio::test]
async fn the_mapping_of_another_host_is_left_alone() {
    let of_another = |action: &str| match action {
        "GetSpecificPortMappingEntry" => Ok(entry("192.168.1.77", 5000)),
        _ => Ok(DONE.into()),
    };
    let (client, asked) = device("schemas-upnp-org:service:WANIPConnection:1", of_another).await;
    assert_eq!(client.unmap_if_made(&WISH).await, Ok(()));
    assert_eq!(client.is_listed(&WISH).await, Some(false));
    assert!(!asked.lock().unwrap().iter().any(|action| action == "DeletePortMapping"));
    let own = |action: &str| match action {
        "GetSpecificPortMappingEntry" => Ok(entry("127.0.0.1", 5000)),
        _ => Ok(DONE.into()),
    };
    let (client, asked) = device("schemas-upnp-org:service:WANIPConnection:1", own).await;
    assert_eq!(client.unmap_if_made(&WISH).await, Ok(()));
    assert_eq!(client.is_listed(&WISH).await, Some(true), "it is there still");
    assert!(asked.lock().unwrap().iter().any(|action| action == "DeletePortMapping"));
}

#[tokio::test]
async fn a_pinhole_without_a_number_is_not_called_closed() {
    let service = "schemas-upnp-org:service:WANIPv6FirewallControl:1";
    let (client, _) = device(service, |_| Ok(DONE.into())).await;
    assert!(matches!(client.map(&WISH).await, Err(MappingError::Nonsense(_))));
    assert_eq!(client.unmap_if_made(&WISH).await, Err(MappingError::NoAnswer));
    let (client, _) = device(service, |_| Ok("<UniqueID>7</UniqueID>".into())).await;
    let granted = Granted { external: 5000, external_address: None, lifetime: WISH.lifetime, epoch: None };
    assert_eq!(client.map(&WISH).await, Ok(granted));
    assert_eq!(client.unmap(&WISH).await, Ok(()));
}

#[tokio::test]
async fn services_from_before_the_standard_are_asked_by_their_own_name() {
    let (client, asked) = device("dslforum-org:service:WANPPPConnection:1", |_| Ok(DONE.into())).await;
    assert!(client.map(&WISH).await.is_ok());
    assert_eq!(*asked.lock().unwrap(), ["AddPortMapping"]);
}
