//! The JSON Schema of the report, generated from its types; `schema/report.schema.json` is its committed form.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::report::Report;

/// The schema (draft 2020-12) of what `--json` prints.
#[must_use]
pub fn report() -> Value {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<Report>()
        .to_value()
}
