//! The words of a report in each language. The JSON's own words are looked up in one table; what is not in it is shown as it
//! is. Sentences that come with the report are English, and are replaced by what their code says where there is a choice.

use serde_json::Value;

use super::text;

/// A language.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Language {
    /// English.
    #[default]
    English,
    /// Simplified Chinese.
    Chinese,
}

/// Everything that is said in one language.
#[derive(Debug)]
pub(super) struct Words {
    pub tag: &'static str,
    pub title: &'static str,
    pub punch_title: &'static str,
    pub keepalive: &'static str,
    pub partial: &'static str,
    pub advice: &'static str,
    pub warnings: &'static str,
    pub layers: &'static str,
    pub port_mapping: &'static str,
    pub nobody_opens_ports: &'static str,
    pub refused: &'static str,
    pub both_nats: &'static str,
    pub first_router: &'static str,
    pub second_router: &'static str,
    pub about: &'static str,
    pub server: &'static str,
    pub software: &'static str,
    pub fault: &'static str,
    pub time: &'static str,
    pub duration: &'static str,
    pub tool: &'static str,
    pub path: &'static str,
    pub host: &'static str,
    pub gateway: &'static str,
    pub hidden: &'static str,
    pub unknown: &'static str,
    pub yes: &'static str,
    pub no: &'static str,
    pub peers: &'static str,
    pub peer: &'static str,
    pub direct: &'static str,
    pub technique: &'static str,
    pub chance: &'static str,
    pub cost: &'static str,
    pub packets: &'static str,
    pub evidence: &'static str,
    pub port_picture: &'static str,
    pub order: &'static str,
    pub lifetime_picture: &'static str,
    pub round_trip: &'static str,
    pub loss: &'static str,
    pub predicted: &'static str,
    pub first_packet: &'static str,
    pub round: &'static str,
    /// Whether the report's own sentences, which are English, are shown.
    pub shows_sentences: bool,
    names: fn(&str) -> Option<&'static str>,
    reasons: fn(&str) -> Option<&'static str>,
}

pub(super) const fn of(language: Language) -> &'static Words {
    match language {
        Language::English => &ENGLISH,
        Language::Chinese => &chinese::CHINESE,
    }
}

impl Words {
    /// A word of the JSON.
    pub(super) fn value<'a>(&self, word: &'a str) -> &'a str {
        (self.names)(word).unwrap_or(word)
    }

    /// The name of a finding.
    pub(super) fn finding<'a>(&self, key: &'a str) -> &'a str {
        self.value(key)
    }

    /// The name of a timer.
    pub(super) fn timer<'a>(&self, key: &'a str) -> &'a str {
        self.value(key)
    }

    /// The name of a technique: one of its names is that of an outcome, too.
    pub(super) fn technique_name<'a>(&self, technique: &'a str) -> &'a str {
        match technique {
            "direct" => self.value("one-side"),
            "relay" => self.value("turn"),
            other => self.value(other),
        }
    }

    /// The verdict in a sentence.
    pub(super) fn summary(&self, verdict: &Value) -> String {
        let level = text(&verdict["level"]);
        match (self.reasons)(&level) {
            Some(sentence) if !self.shows_sentences => sentence.into(),
            _ => text(&verdict["summary"]),
        }
    }

    /// Why something is not known, or what to know about it.
    pub(super) fn reason(&self, finding: &Value) -> String {
        let code = text(&finding["reason_code"]);
        match (self.reasons)(&code) {
            Some(sentence) if !self.shows_sentences => sentence.into(),
            _ => text(&finding["reason"]),
        }
    }
}

const ENGLISH: Words = Words {
    tag: "en",
    title: "NAT report",
    punch_title: "Hole punching report",
    keepalive: "Send a keep-alive every",
    partial: "The run was ended early: what is unknown may only be unfinished.",
    advice: "Advice",
    warnings: "Notes",
    layers: "Way to the Internet",
    port_mapping: "Ports that the gateway opens",
    nobody_opens_ports: "None: the gateway answers neither PCP nor NAT-PMP, and no device answers UPnP.",
    refused: "refused",
    both_nats: "Through both NATs",
    first_router: "First router",
    second_router: "Second router",
    about: "About this report",
    server: "Probe server",
    software: "Server software",
    fault: "Server fault",
    time: "Time",
    duration: "Duration",
    tool: "Program",
    path: "The way out",
    host: "This host",
    gateway: "Own gateway",
    hidden: "address hidden",
    unknown: "not known",
    yes: "yes",
    no: "no",
    peers: "With whom hole punching works",
    peer: "Peer",
    direct: "Direct path",
    technique: "How",
    chance: "Chance",
    cost: "Cost",
    packets: "packets",
    evidence: "How it was found",
    port_picture: "External ports",
    order: "in the order of the mappings",
    lifetime_picture: "How long idle mappings live",
    round_trip: "Round-trip time",
    loss: "packet loss",
    predicted: "Predicted",
    first_packet: "First packet after",
    round: "Round",
    shows_sentences: true,
    names: english,
    reasons: |_| None,
};

fn english(word: &str) -> Option<&'static str> {
    Some(match word {
        "any-peer" => "Works with any peer",
        "most-peers" => "Works with most peers",
        "some-peers" => "Works with some peers",
        "none" => "Does not work",
        "unknown" => "not known",
        "direct" => "direct",
        "failed" => "no direct path",
        "nat_type" => "NAT type",
        "mapping" => "Mapping",
        "filtering" => "Filtering",
        "port_allocation" => "Port allocation",
        "hairpinning" => "Hairpinning",
        "alg" => "Rewrites payloads (ALG)",
        "inbound_first_remap" => "Inbound packet first changes the mapping",
        "distance" => "Hops to the filter",
        "lifetime" => "Mapping lifetime",
        "external_address_agrees" => "Its external address is the one that the server sees",
        "reachable_udp" => "Reached from outside over UDP",
        "reachable_tcp" => "Reached from outside over TCP",
        "outbound_uses_mapping" => "What is sent leaves from the opened port",
        "deleted" => "Closed again",
        "lost_mappings" => "Lost its mappings during the run",
        "translation" => "Address translation",
        "translation-none" => "none",
        "translation-nptv6" => "prefix translation (NPTv6)",
        "translation-nat66" => "NAT66",
        "inbound_udp" => "Strangers reach ports that have sent nothing over UDP",
        "inbound_tcp" => "Strangers reach ports that have sent nothing over TCP",
        "unreplied" => "without an answer",
        "stream" => "traffic both ways",
        "udp-blocked" => "UDP blocked",
        "open-internet" => "no NAT, no firewall",
        "symmetric-udp-firewall" => "firewall without NAT",
        "full-cone" => "full-cone NAT",
        "restricted-cone" => "restricted-cone NAT",
        "port-restricted-cone" => "port-restricted cone NAT",
        "symmetric" => "symmetric NAT",
        "symmetric-sequential" => "symmetric NAT, sequential ports",
        "symmetric-random" => "symmetric NAT, random ports",
        "one-side" => "one side sends",
        "simultaneous" => "both sides send",
        "low-ttl" => "both sides send, low TTL first",
        "ipv6" => "both sides send, IPv6",
        "prediction" => "port prediction",
        "birthday" => "birthday (many ports)",
        "tcp" => "TCP",
        "turn" => "relay (TURN)",
        "lan" => "local network",
        "carrier-grade" => "carrier-grade NAT",
        "own-double" => "second own NAT",
        "kind" => "Kind",
        "at_least" => "Boxes at least",
        "gateway_external_address" => "The gateway names itself",
        _ => return None,
    })
}

mod chinese;
