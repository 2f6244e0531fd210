//! What makers of game consoles call this network: part of the report.

use serde::{Deserialize, Serialize};

use super::{Finding, Row};

/// This network in the words of game consoles, derived from what was found by their makers' own definitions.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Consoles {
    /// Microsoft's word (Xbox).
    pub microsoft: Finding<MicrosoftNat>,
    /// Sony's word (PlayStation).
    pub sony: Finding<SonyNat>,
}

/// Microsoft's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MicrosoftNat {
    /// The mapping does not depend on the destination and nothing is filtered, or the router opens ports by UPnP.
    Open,
    /// The mapping does not depend on the destination, and addresses or ports are filtered.
    Moderate,
    /// The mapping depends on the destination.
    Strict,
}

/// Sony's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum SonyNat {
    /// Connected directly to the Internet.
    #[serde(rename = "type-1")]
    Type1,
    /// Connected through a router.
    #[serde(rename = "type-2")]
    Type2,
    /// Connected through a router, and other consoles may be out of reach.
    #[serde(rename = "type-3")]
    Type3,
}

/// The rows about consoles; what is not known has none.
#[must_use]
pub fn rows(consoles: &Consoles) -> Vec<Row> {
    let Consoles { microsoft, sony } = consoles;
    let microsoft = microsoft.value.map(|_| {
        Row::of("consoles.microsoft", "Microsoft", microsoft, |nat| {
            match nat {
                MicrosoftNat::Open => "Open",
                MicrosoftNat::Moderate => "Moderate",
                MicrosoftNat::Strict => "Strict",
            }
            .into()
        })
    });
    let sony = sony.value.map(|_| {
        Row::of("consoles.sony", "Sony", sony, |nat| {
            match nat {
                SonyNat::Type1 => "Type 1",
                SonyNat::Type2 => "Type 2",
                SonyNat::Type3 => "Type 3",
            }
            .into()
        })
    });
    microsoft.into_iter().chain(sony).collect()
}
