//! What a person can do about it: part of the report.

use serde::{Deserialize, Serialize};

/// Something to do, and the finding that it follows from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Advice {
    /// What it is, as a word that does not change.
    pub code: AdviceCode,
    /// The same in a sentence or two, which may change.
    pub text: String,
    /// The finding that it follows from, as a path in this report: `layers.kind`.
    pub finding: String,
}

impl Advice {
    /// Advice of this kind.
    #[must_use]
    pub fn new(code: AdviceCode, text: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { code, text: text.into(), finding: finding.into() }
    }
}

/// What is advised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AdviceCode {
    /// Let UDP out, or do without.
    AllowUdp,
    /// A VPN hides the line: measure without it.
    MeasureWithoutVpn,
    /// The carrier translates, so no forward of one's own helps.
    AskForPublicAddress,
    /// Two routers of one's own translate: one is enough.
    BridgeSecondRouter,
    /// The router grants ports that nothing arrives through.
    ForwardByHand,
    /// The router opens ports that work.
    UsePortMapping,
    /// Nobody here opens ports for programs.
    SwitchPortMappingOn,
    /// Without a NAT, a firewall keeps others out.
    OpenFirewallPort,
    /// One NAT keeps others out, and may be told to forward.
    ForwardPort,
    /// Mappings are forgotten: keep them alive.
    SendKeepalives,
    /// Some peers cannot be met directly.
    UseRelay,
}
