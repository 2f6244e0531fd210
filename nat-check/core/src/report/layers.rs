//! What stands between this host and the Internet: part of the report.

use serde::{Deserialize, Serialize};

use super::Finding;

/// What stands between this host and the Internet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Layers {
    /// What kind of way it is.
    pub kind: Finding<LayersKind>,
}

/// The kind of way to the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LayersKind {
    /// Several Internet connections: packets leave over several external addresses, by flow or by destination.
    MultiWan,
}

impl From<Finding<LayersKind>> for Layers {
    fn from(kind: Finding<LayersKind>) -> Self {
        Self { kind }
    }
}
