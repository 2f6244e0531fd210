//! Actions of WANIPConnection (version 2 section 2.5) as SOAP 1.1 messages.

use std::{fmt::Write, net::IpAddr, net::SocketAddr, time::Duration};

use super::{
    MappingError,
    description::{self, NamedNode, Service},
    http,
};
use crate::{net::Net, printable::printable};

/// Routers that store a mapping in flash memory take their time.
const WITHIN: Duration = Duration::from_secs(3);

/// An action, with its arguments in the order of the standard, which some devices insist on.
#[derive(Clone, Debug)]
pub(super) struct Action<'a> {
    pub(super) name: &'static str,
    pub(super) arguments: Vec<(&'static str, String)>,
    pub(super) service: &'a Service,
    pub(super) at: SocketAddr,
}

/// What an action gives back, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Results(Vec<(String, String)>);

impl Results {
    /// The value of this name.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl Action<'_> {
    /// Calls it.
    pub(super) async fn call(&self, net: &dyn Net, local: IpAddr) -> Result<Results, MappingError> {
        let action = format!("{}#{}", self.service.kind, self.name);
        let body = self.body();
        let action = Some((action.as_str(), body.as_str()));
        let request = http::Request { at: self.at, path: &self.service.path, action, within: WITHIN };
        let response = http::ask(net, local, request).await.map_err(|error| match error {
            http::HttpError::Timeout => MappingError::NoAnswer,
            error => MappingError::Nonsense(error.to_string()),
        })?;
        read(response.status, &response.body)
    }

    fn body(&self) -> String {
        let mut text = String::from(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>",
        );
        let (name, kind) = (self.name, self.service.kind);
        // Writing to a string does not fail; the arguments are numbers, addresses and words of ours.
        _ = write!(text, "<u:{name} xmlns:u=\"{kind}\">");
        for (argument, value) in &self.arguments {
            _ = write!(text, "<{argument}>{value}</{argument}>");
        }
        _ = write!(text, "</u:{name}></s:Body></s:Envelope>\r\n");
        text
    }
}

/// Reads an answer.
pub(super) fn read(status: u16, body: &[u8]) -> Result<Results, MappingError> {
    let text = String::from_utf8_lossy(body);
    let document = description::parse(&text);
    let document = match (document, status) {
        (Ok(document), _) => document,
        (Err(_), 200) => return Err(MappingError::Nonsense("an answer that is not XML".into())),
        (Err(_), status) => return Err(MappingError::Refused(format!("HTTP {status}"))),
    };
    let of = |name: &str| document.descendants().find(|node| node.has_tag_name_of(name));
    if let Some(code) = of("errorCode").and_then(|node| node.text()) {
        let code = code.trim();
        let described = of("errorDescription").and_then(|node| node.text()).unwrap_or_default().trim();
        return Err(MappingError::Refused(printable(format!("{code} {described}").trim())));
    }
    if status != 200 {
        return Err(MappingError::Refused(format!("HTTP {status}")));
    }
    let body = of("Body").ok_or_else(|| MappingError::Nonsense("an answer without a body".into()))?;
    let results = body.children().filter(roxmltree::Node::is_element).flat_map(|answer| answer.children());
    let results = results
        .filter(roxmltree::Node::is_element)
        .map(|node| (node.tag_name().name().to_owned(), node.text().unwrap_or_default().trim().to_owned()));
    Ok(Results(results.collect()))
}
