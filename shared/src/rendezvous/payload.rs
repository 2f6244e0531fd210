//! What one client tells the other through the server: a JSON value that the server checks the size of and nothing else.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::{RawValue, to_raw_value};

use super::MAX_PAYLOAD;

/// A JSON value of at most [`MAX_PAYLOAD`] bytes, kept as the text that it came as.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct Payload(Box<RawValue>);

/// A value that cannot be a payload, or a payload that is not of the expected form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It does not fit.
    #[error("a payload of {0} bytes is longer than {MAX_PAYLOAD}")]
    TooLong(usize),
    /// It is something else.
    #[error("unexpected payload: {0}")]
    Malformed(String),
}

impl Payload {
    /// Writes a value.
    ///
    /// # Errors
    /// When it is too long, or cannot be JSON.
    pub fn write(value: &impl Serialize) -> Result<Self, PayloadError> {
        to_raw_value(value).map_err(malformed)?.try_into()
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When it is not of this form.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        serde_json::from_str(self.0.get()).map_err(malformed)
    }

    /// The JSON as it came.
    #[must_use]
    pub fn as_text(&self) -> &str {
        self.0.get()
    }
}

impl TryFrom<Box<RawValue>> for Payload {
    type Error = PayloadError;

    fn try_from(raw: Box<RawValue>) -> Result<Self, PayloadError> {
        let length = raw.get().len();
        if length <= MAX_PAYLOAD { Ok(Self(raw)) } else { Err(PayloadError::TooLong(length)) }
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.as_text() == other.as_text()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // There are secrets of the clients in it, which do not belong into logs.
        write!(f, "Payload({} bytes)", self.as_text().len())
    }
}

fn malformed(error: serde_json::Error) -> PayloadError {
    PayloadError::Malformed(error.to_string())
}
