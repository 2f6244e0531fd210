//! What a person can do, from the whole report. Pure. Each sentence follows from a finding that is strong or certain.

use std::net::IpAddr;

use shared::nat::{Filtering, Mapping, NatType};

use crate::report::{
    Advice, AdviceCode, LayersKind, Level, MappingProtocol, PeerKind, PeerOutcome, PortMapping, Report,
    UdpReport, number,
};

/// More than this nobody reads.
const MOST: usize = 5;

/// What to do, the most useful first.
#[must_use]
pub fn of(report: &Report) -> Vec<Advice> {
    let known = Known::of(report);
    RULES.iter().filter_map(|rule| rule(&known)).take(MOST).collect()
}

/// In the order in which they are told.
const RULES: [fn(&Known<'_>) -> Option<Advice>; 11] = [
    allow_udp,
    measure_without_vpn,
    ask_for_public_address,
    bridge_second_router,
    forward_by_hand,
    use_port_mapping,
    switch_port_mapping_on,
    open_firewall_port,
    forward_port,
    send_keepalives,
    use_relay,
];

/// A protocol: its key in the report, its name, what came of it.
type Opened<'a> = (&'static str, &'static str, &'a MappingProtocol);

/// What is surely known.
struct Known<'a> {
    report: &'a Report,
    udp: Option<&'a UdpReport>,
    kind: Option<LayersKind>,
    gateway: Option<IpAddr>,
}

impl<'a> Known<'a> {
    fn of(report: &'a Report) -> Self {
        let layers = report.layers.as_ref();
        Self {
            report,
            udp: report.ipv4.udp.as_ref(),
            kind: layers.and_then(|layers| layers.kind.sure()).copied(),
            gateway: layers.and_then(|layers| layers.gateway),
        }
    }

    /// ` at 192.168.1.1`, where that is known.
    fn at_gateway(&self) -> String {
        self.gateway.map_or_else(String::new, |gateway| format!(" at {gateway}"))
    }

    /// Whether the one NAT that there is keeps out who was not sent to.
    fn keeps_strangers_out(&self) -> bool {
        let filtering = self.udp.and_then(|udp| udp.filtering.sure());
        filtering.is_some_and(|filtering| *filtering != Filtering::EndpointIndependent)
    }

    /// The first protocol that opened a port which was reached from outside.
    fn reached(&self) -> Option<Opened<'a>> {
        self.opened(|it| it.reachable_udp.sure() == Some(&true))
    }

    /// The first protocol that opened a port over IPv4 of which this is true.
    fn opened(&self, holds: impl Fn(&MappingProtocol) -> bool) -> Option<Opened<'a>> {
        let protocols = self.report.port_mapping.as_ref().map(PortMapping::protocols);
        let known = protocols.into_iter().flatten().filter_map(|(key, name, it)| Some((key, name, it?)));
        known.into_iter().find(|(_, _, it)| it.mapping.is_some() && holds(it))
    }
}

const KIND: &str = "layers.kind";

fn allow_udp(known: &Known<'_>) -> Option<Advice> {
    let blocked = known.udp?.nat_type.sure() == Some(&NatType::UdpBlocked);
    let text = "UDP does not pass here: allow outgoing UDP in the firewall, or plan for TCP and a relay \
                over TLS on port 443.";
    blocked.then(|| Advice::new(AdviceCode::AllowUdp, text, "ipv4.udp.nat_type"))
}

fn measure_without_vpn(known: &Known<'_>) -> Option<Advice> {
    let text = "A VPN takes all packets: what is found here is about its NAT. Switch it off to learn what \
                your own line does.";
    (known.kind? == LayersKind::Vpn).then(|| Advice::new(AdviceCode::MeasureWithoutVpn, text, KIND))
}

fn ask_for_public_address(known: &Known<'_>) -> Option<Advice> {
    // The carrier's own gateway may open ports (RFC 6887).
    if known.reached().is_some() || !matches!(known.kind?, LayersKind::CarrierGrade | LayersKind::DsLite) {
        return None;
    }
    let ipv6 = known.report.ipv6.hole_punching.as_ref();
    let works = ipv6.is_some_and(|verdict| verdict.level >= Level::SomePeers);
    let text = format!(
        "The carrier translates addresses: a port forward in your own router cannot let anybody in. Ask the \
         carrier for a public IPv4 address, or use IPv6{}.",
        if works { ", which works here" } else { "" }
    );
    Some(Advice::new(AdviceCode::AskForPublicAddress, text, KIND))
}

fn bridge_second_router(known: &Known<'_>) -> Option<Advice> {
    let text = format!(
        "Two routers of your own translate addresses one after the other: set the one{} to bridge mode \
         (access point mode), or forward ports in both.",
        known.at_gateway()
    );
    (known.kind? == LayersKind::OwnDouble).then(|| Advice::new(AdviceCode::BridgeSecondRouter, text, KIND))
}

fn forward_by_hand(known: &Known<'_>) -> Option<Advice> {
    let dead = |it: &MappingProtocol| {
        it.reachable_udp.sure() == Some(&false) && it.external_address_agrees.sure() != Some(&false)
    };
    let (key, name, it) = known.opened(dead)?;
    if known.reached().is_some() {
        return None;
    }
    // Behind another NAT it is no fault of this router's, nor where another device answers than the router.
    if known.kind? != LayersKind::One || it.gateway != known.gateway {
        return None;
    }
    // Nor where a firewall of this host may be what drops it.
    if known.report.host_tracks_connections != Some(false) {
        let text = format!(
            "The router opens ports by {name}, and nothing arrives here: allow incoming UDP in the firewall of this host, if it \
             has one; otherwise forward the port by hand, or look for an update of the router."
        );
        return Some(Advice::new(
            AdviceCode::ForwardByHand,
            text,
            format!("port_mapping.{key}.reachable_udp"),
        ));
    }
    let at = it.gateway.map_or_else(String::new, |gateway| format!(" at {gateway}"));
    let text = format!(
        "The router{at} says by {name} that it opens ports, and nothing arrives through them: forward the \
         port by hand, or look for an update of the router."
    );
    Some(Advice::new(AdviceCode::ForwardByHand, text, format!("port_mapping.{key}.reachable_udp")))
}

fn use_port_mapping(known: &Known<'_>) -> Option<Advice> {
    let (key, name, _) = known.reached()?;
    let text = format!(
        "The router opens ports by {name}, and they can be reached from outside: programs that ask for one \
         can be called by anybody, and `nat-check map PORT` keeps one open for those that do not ask."
    );
    Some(Advice::new(AdviceCode::UsePortMapping, text, format!("port_mapping.{key}.reachable_udp")))
}

fn switch_port_mapping_on(known: &Known<'_>) -> Option<Advice> {
    let asked = known.report.port_mapping.as_ref()?;
    let silent = asked.reason.is_none() && asked.protocols().iter().all(|(_, _, it)| it.is_none());
    if !silent || known.kind? != LayersKind::One {
        return None;
    }
    let text = format!(
        "No device here opens ports for programs: if the router{} is yours and you trust the programs of your network \
         with that, switch UPnP, NAT-PMP or PCP on in it.",
        known.at_gateway()
    );
    Some(Advice::new(AdviceCode::SwitchPortMappingOn, text, KIND))
}

fn open_firewall_port(known: &Known<'_>) -> Option<Advice> {
    let direct = known.udp?.mapping.sure() == Some(&Mapping::Direct);
    let text = "Nothing translates addresses here, but a firewall keeps strangers out: to be called by \
                anybody, open the UDP port of your program in it.";
    (direct && known.keeps_strangers_out() && known.reached().is_none())
        .then(|| Advice::new(AdviceCode::OpenFirewallPort, text, "ipv4.udp.filtering"))
}

fn forward_port(known: &Known<'_>) -> Option<Advice> {
    let opens = known.opened(|it| it.reachable_udp.sure() != Some(&false)).is_some();
    if known.kind? != LayersKind::One || !known.keeps_strangers_out() || opens {
        return None;
    }
    let asked = if known.report.port_mapping.is_some() {
        "."
    } else {
        ", or see with --port-mapping whether it opens one by itself."
    };
    let text = format!(
        "To be called by anybody at any time, forward a UDP port to this host in the router{}, and allow it in this \
         host's firewall{asked}",
        known.at_gateway()
    );
    Some(Advice::new(AdviceCode::ForwardPort, text, KIND))
}

fn send_keepalives(known: &Known<'_>) -> Option<Advice> {
    known.udp?.lifetime.sure()?;
    let seconds = known.report.ipv4.hole_punching.as_ref()?.keepalive_s?;
    let text = format!("Send a packet every {} s over each path that is to stay open.", number(seconds));
    Some(Advice::new(AdviceCode::SendKeepalives, text, "ipv4.udp.lifetime"))
}

fn use_relay(known: &Known<'_>) -> Option<Advice> {
    let udp = known.udp?;
    // A port that is open to everybody needs none.
    if known.reached().is_some() {
        return None;
    }
    udp.filtering.sure()?;
    udp.mapping.sure()?;
    let peers = &known.report.ipv4.hole_punching.as_ref()?.peers;
    let meets_only_by_relay =
        |peer| peers.iter().any(|row| row.peer == peer && row.outcome == PeerOutcome::Relay);
    let whom = match (
        meets_only_by_relay(PeerKind::SymmetricSequential),
        meets_only_by_relay(PeerKind::SymmetricRandom),
    ) {
        (true, true) => "behind symmetric NATs",
        (false, true) => "behind symmetric NATs with random ports",
        (true, false) => "behind symmetric NATs with sequential ports",
        (false, false) => return None,
    };
    let text = format!(
        "Have a relay (TURN, RFC 8656) at hand for peers {whom}: they cannot be met directly from here."
    );
    Some(Advice::new(AdviceCode::UseRelay, text, "ipv4.udp.mapping"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{prelude::*, sample::select};
    use serde_json::Value;
    use shared::nat::{Bracket, Lifetime, Refresh};

    use super::*;
    use crate::{
        report::{Confidence, FamilyReport, FamilyStatus, Finding, GrantedMapping, Layers, MappedTransport},
        verdict,
    };

    const CONFIDENCES: [Confidence; 3] = [Confidence::Weak, Confidence::Strong, Confidence::Certain];
    const KINDS: [LayersKind; 8] = [
        LayersKind::None,
        LayersKind::One,
        LayersKind::OwnDouble,
        LayersKind::CarrierGrade,
        LayersKind::Vpn,
        LayersKind::DsLite,
        LayersKind::Xlat464,
        LayersKind::MultiWan,
    ];
    const MAPPINGS: [Mapping; 3] =
        [Mapping::Direct, Mapping::EndpointIndependent, Mapping::AddressAndPortDependent];
    const FILTERINGS: [Filtering; 3] =
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent];

    fn found<T: Clone + std::fmt::Debug + 'static>(
        values: &'static [T],
    ) -> impl Strategy<Value = Finding<T>> {
        let known =
            (select(values), select(&CONFIDENCES[..])).prop_map(|(v, c)| Finding::known(v, c, "test"));
        prop_oneof![1 => Just(Finding::default()), 4 => known]
    }

    fn protocol() -> impl Strategy<Value = Option<MappingProtocol>> {
        let yes_no = || found(&[true, false]);
        let granted = (any::<bool>(), yes_no(), yes_no()).prop_map(|(granted, reachable, agrees)| {
            let mapping = GrantedMapping::new(MappedTransport::Udp, 5000, 6000, 120);
            MappingProtocol {
                mapping: granted.then_some(mapping),
                reachable_udp: reachable,
                external_address_agrees: agrees,
                ..MappingProtocol::default()
            }
        });
        proptest::option::of(granted)
    }

    /// Whatever a run may have found.
    fn report() -> impl Strategy<Value = Report> {
        let layers = proptest::option::of(found(&KINDS).prop_map(Layers::from));
        let port_mapping =
            proptest::option::of((protocol(), protocol()).prop_map(|(pcp, upnp)| PortMapping {
                pcp,
                upnp,
                ..PortMapping::default()
            }));
        let seconds = select(&[f64::NAN, 30.0, 120.0][..]);
        let udp = (found(&MAPPINGS), found(&FILTERINGS), seconds, any::<bool>(), select(&CONFIDENCES[..]));
        (layers, port_mapping, udp).prop_map(
            |(layers, port_mapping, (mapping, filtering, alive, blocked, sure))| {
                let nat_type = match (mapping.value.zip(filtering.value), blocked) {
                    (_, true) => Finding::known(NatType::UdpBlocked, sure, "test"),
                    (Some((m, f)), _) => Finding::known(NatType::derive(m, f), sure, "test"),
                    (None, _) => Finding::default(),
                };
                let lifetime = match alive.is_nan() {
                    true => Finding::default(),
                    false => Finding::known(lived(alive), sure, "test"),
                };
                let udp = UdpReport { mapping, filtering, nat_type, lifetime, ..UdpReport::default() };
                of_udp(udp, layers, port_mapping)
            },
        )
    }

    fn lived(seconds: f64) -> Lifetime {
        let stream = Some(Bracket { alive_s: seconds, expired_s: Some(seconds + 1.0) });
        let refresh = Refresh { outbound: None, inbound: None, elsewhere: None };
        Lifetime { unreplied: None, stream, refresh, granularity: None }
    }

    fn of_udp(udp: UdpReport, layers: Option<Layers>, port_mapping: Option<PortMapping>) -> Report {
        let family = FamilyReport { status: FamilyStatus::Tested, udp: Some(udp), ..FamilyReport::default() };
        let hole_punching = verdict::over(&family);
        let ipv4 = FamilyReport { hole_punching, ..family };
        Report { ipv4, layers, port_mapping, ..Report::default() }
    }

    proptest! {
        #[test]
        fn advice_follows_from_what_is_sure(report in report()) {
            let advice = of(&report);
            prop_assert!(advice.len() <= MOST);
            let codes: BTreeSet<_> = advice.iter().map(|advice| format!("{:?}", advice.code)).collect();
            prop_assert_eq!(codes.len(), advice.len());
            let both = ["AskForPublicAddress", "UsePortMapping"].map(|code| codes.contains(code));
            prop_assert_ne!(both, [true, true], "no port can be reached, and one is");
            let json = serde_json::to_value(&report).unwrap();
            for advice in &advice {
                prop_assert!(advice.text.ends_with('.') && advice.text.len() < 260, "{}", advice.text);
                let path = format!("/{}", advice.finding.replace('.', "/"));
                let finding: &Value = json.pointer(&path).unwrap();
                prop_assert!(["strong", "certain"].contains(&finding["confidence"].as_str().unwrap()), "{:?}", advice);
            }
        }
    }

    fn home(mapping: Mapping, filtering: Filtering, kind: LayersKind, gateway: &str) -> Report {
        let surely = Confidence::Certain;
        let udp = UdpReport {
            mapping: Finding::known(mapping, surely, "test"),
            filtering: Finding::known(filtering, surely, "test"),
            nat_type: Finding::known(NatType::derive(mapping, filtering), surely, "test"),
            ..UdpReport::default()
        };
        let layers = Layers {
            gateway: Some(gateway.parse().unwrap()),
            ..Layers::from(Finding::known(kind, Confidence::Strong, "test"))
        };
        of_udp(udp, Some(layers), None)
    }

    fn codes(report: &Report) -> Vec<AdviceCode> {
        of(report).into_iter().map(|advice| advice.code).collect()
    }

    fn upnp(reachable: bool, agrees: bool) -> PortMapping {
        let surely = |value| Finding::known(value, Confidence::Strong, "test");
        let upnp = MappingProtocol {
            gateway: "192.168.1.1".parse().ok(),
            mapping: Some(GrantedMapping::new(MappedTransport::Udp, 5000, 6000, 120)),
            reachable_udp: surely(reachable),
            external_address_agrees: surely(agrees),
            ..MappingProtocol::default()
        };
        PortMapping { upnp: Some(upnp), ..PortMapping::default() }
    }

    #[test]
    fn each_network_gets_the_advice_that_helps_there() {
        let (ei, apd) = (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
        let one = || home(ei, apd, LayersKind::One, "192.168.1.1");
        assert_eq!(codes(&one()), [AdviceCode::ForwardPort]);
        assert!(
            of(&one())[0]
                .text
                .contains("192.168.1.1, and allow it in this host's firewall, or see with --port-mapping")
        );
        let works = Report { port_mapping: Some(upnp(true, true)), ..one() };
        assert_eq!(codes(&works), [AdviceCode::UsePortMapping]);
        let dead = Report { port_mapping: Some(upnp(false, true)), ..one() };
        assert_eq!(codes(&dead), [AdviceCode::ForwardByHand, AdviceCode::ForwardPort]);
        let silent = Report { port_mapping: Some(PortMapping::default()), ..one() };
        assert_eq!(codes(&silent), [AdviceCode::SwitchPortMappingOn, AdviceCode::ForwardPort]);
        let mut alive = one();
        if let Some(udp) = &mut alive.ipv4.udp {
            udp.lifetime = Finding::known(lived(30.0), Confidence::Strong, "test");
        }
        alive.ipv4.hole_punching = verdict::over(&alive.ipv4);
        assert_eq!(codes(&alive), [AdviceCode::ForwardPort, AdviceCode::SendKeepalives]);
        assert_eq!(of(&alive)[1].text, "Send a packet every 24 s over each path that is to stay open.");

        let carrier = home(ei, apd, LayersKind::CarrierGrade, "192.168.1.1");
        let behind = Report { port_mapping: Some(upnp(false, false)), ..carrier };
        assert_eq!(codes(&behind), [AdviceCode::AskForPublicAddress], "no forward helps there");
        let double = home(ei, apd, LayersKind::OwnDouble, "192.168.77.1");
        assert_eq!(codes(&double), [AdviceCode::BridgeSecondRouter]);
        assert_eq!(codes(&home(ei, apd, LayersKind::Vpn, "10.8.0.1")), [AdviceCode::MeasureWithoutVpn]);
        let firewall = home(Mapping::Direct, apd, LayersKind::None, "203.0.113.1");
        assert_eq!(codes(&firewall), [AdviceCode::OpenFirewallPort]);
        let symmetric = home(Mapping::AddressAndPortDependent, apd, LayersKind::One, "192.168.1.1");
        assert_eq!(codes(&symmetric), [AdviceCode::ForwardPort, AdviceCode::UseRelay]);
        assert_eq!(codes(&home(ei, Filtering::EndpointIndependent, LayersKind::One, "192.168.1.1")), []);
    }
}
