//! The JSON Schemas of the reports, generated from their types; `schema/*.schema.json` are their committed forms.

use schemars::generate::SchemaSettings;
use serde_json::Value;

#[cfg(feature = "punch")]
use crate::punch::{report::PunchDocument, room::report::RoomDocument};
use crate::report::Report;

/// The schema (draft 2020-12) of what `--json` prints.
#[must_use]
pub fn report() -> Value {
    of::<Report>()
}

/// The same for `nat-check punch --json`.
#[cfg(feature = "punch")]
#[must_use]
pub fn punch() -> Value {
    of::<PunchDocument>()
}

/// The same for `nat-check room --json`.
#[cfg(feature = "punch")]
#[must_use]
pub fn room() -> Value {
    of::<RoomDocument>()
}

fn of<T: schemars::JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>().to_value()
}
