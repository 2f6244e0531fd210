//! What the rules look at, and the words in which they judge.

use shared::nat::Filtering;

use crate::report::{
    AddressKind, FamilyReport, Finding, LayersKind, Report, RequirementVerdict, TcpReport, UdpReport, number,
};

/// The findings of one family.
pub(super) struct Facts<'a> {
    pub(super) family: &'a FamilyReport,
    pub(super) udp: Option<&'a UdpReport>,
    pub(super) tcp: Option<&'a TcpReport>,
    /// The kind of way, where it is sure.
    pub(super) kind: Option<LayersKind>,
    /// Whether the gateway says itself where it is seen.
    pub(super) is_gateway_named: bool,
    /// Whether this host cannot have a stateful firewall of its own.
    has_no_firewall: bool,
    /// Whether the server was asked at a port of those that may have shorter timers.
    pub(super) is_well_known_port: bool,
}

/// What is said of a requirement.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) verdict: RequirementVerdict,
    pub(super) why: String,
}

impl<'a> Facts<'a> {
    pub(super) fn new(report: &'a Report, family: &'a FamilyReport) -> Self {
        let kind = report.layers.as_ref().and_then(|layers| layers.kind.sure()).copied();
        let servers = std::iter::once(&report.server).chain(&report.more_servers);
        let servers = servers.flat_map(|server| [&server.ipv4, &server.ipv6]).flatten();
        let named = report.layers.as_ref().map(|layers| &layers.gateway_external_address);
        Self {
            family,
            udp: family.udp.as_ref(),
            tcp: family.tcp.as_ref(),
            kind,
            is_gateway_named: named.is_some_and(|named| named.sure().is_some()),
            has_no_firewall: report.host_tracks_connections == Some(false),
            is_well_known_port: servers.into_iter().any(|server| server.primary.port() < 1024),
        }
    }

    /// Nothing is known of this transport.
    pub(super) fn not_tested(&self) -> Judged {
        open(self.family.reason.as_deref().unwrap_or("it was not measured"))
    }

    /// What speaks against the NAT over UDP counts only where no firewall of this host can be what was seen: it has none, or
    /// nothing is filtered at all.
    pub(super) fn of_the_way(&self, judged: Judged) -> Judged {
        self.unless_of_this_host(judged, self.udp.map(|udp| &udp.filtering))
    }

    /// The same over TCP.
    pub(super) fn of_the_way_over_tcp(&self, judged: Judged) -> Judged {
        self.unless_of_this_host(judged, self.tcp.map(|tcp| &tcp.filtering))
    }

    /// The same of what a lone SYN gets: rules without state may keep it from this host, too, unless one has arrived.
    pub(super) fn of_a_lone_syn(&self, judged: Judged) -> Judged {
        let wide = [Filtering::EndpointIndependent, Filtering::AddressDependent];
        let has_arrived = self.tcp.is_some_and(|tcp| {
            tcp.simultaneous_open.sure() == Some(&true)
                || tcp.filtering.sure().is_some_and(|filtering| wide.contains(filtering))
        });
        match judged.verdict {
            RequirementVerdict::NotMet if !has_arrived => {
                open(format!("{}, which rules of this host itself may do", judged.why))
            }
            _ => self.of_the_way_over_tcp(judged),
        }
    }

    /// Whether what strangers send over IPv6 reaches ports that have sent nothing, over both transports.
    pub(super) fn strangers_come_in(&self) -> bool {
        let inbound = self.family.inbound.as_ref();
        inbound.is_some_and(|it| [&it.udp, &it.tcp].into_iter().all(|finding| finding.sure() == Some(&true)))
    }

    /// Whether this host has an IPv6 address that leads to the Internet, whatever the server has.
    pub(super) fn has_own_ipv6(&self) -> bool {
        self.family.addresses.iter().any(|own| own.kind != AddressKind::UniqueLocal)
    }

    fn unless_of_this_host(&self, judged: Judged, filtering: Option<&Finding<Filtering>>) -> Judged {
        let is_open = filtering.and_then(Finding::sure) == Some(&Filtering::EndpointIndependent);
        match judged.verdict {
            RequirementVerdict::NotMet if !self.has_no_firewall && !is_open => {
                open(format!("{}, which a firewall of this host itself may do", judged.why))
            }
            _ => judged,
        }
    }
}

/// Judges a finding that is strong or certain; of another one nothing follows.
pub(super) fn by<T>(finding: Option<&Finding<T>>, judge: impl FnOnce(&T) -> Judged) -> Judged {
    let Some(finding) = finding else { return open("it was not measured") };
    match (finding.sure(), &finding.value, &finding.reason) {
        (Some(value), ..) => judge(value),
        (None, Some(_), Some(reason)) => open(format!("not sure: {reason}")),
        (None, Some(_), None) => open("the finding is not sure"),
        (None, None, reason) => open(reason.as_deref().unwrap_or("it was not measured")),
    }
}

/// A timer that has to be at least so long, by a bracket: the longest idle time survived, the shortest that was not.
pub(super) fn timer(at_least: f64, survived: Option<f64>, expired: Option<f64>) -> Judged {
    match (survived, expired) {
        (_, Some(expired)) if expired < at_least => not_met(format!("expired within {} s", number(expired))),
        (Some(survived), _) if survived >= at_least => met(format!("alive after {} s", number(survived))),
        (Some(survived), _) => {
            partly(format!("alive after {} s; the rest was not looked at", number(survived)))
        }
        (None, _) => open("no idle time is known that it survives"),
    }
}

pub(super) fn met(why: impl Into<String>) -> Judged {
    Judged { verdict: RequirementVerdict::Met, why: why.into() }
}

pub(super) fn not_met(why: impl Into<String>) -> Judged {
    Judged { verdict: RequirementVerdict::NotMet, why: why.into() }
}

pub(super) fn partly(why: impl Into<String>) -> Judged {
    Judged { verdict: RequirementVerdict::PartlySettled, why: why.into() }
}

pub(super) fn open(why: impl Into<String>) -> Judged {
    Judged { verdict: RequirementVerdict::NotSettled, why: why.into() }
}

pub(super) fn moot(why: impl Into<String>) -> Judged {
    Judged { verdict: RequirementVerdict::NotApplicable, why: why.into() }
}
