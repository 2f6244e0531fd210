//! Parses shares and durations of a command line.

use std::{str::FromStr, time::Duration};

use crate::LabError;

/// A share: `5%` or `0.05`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl FromStr for Share {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
        match number.trim().parse::<f64>().map(|value| value / unit) {
            Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self(share)),
            _ => Err(LabError::Words(format!("`{text}` is no share: write 5% or 0.05, at most 100%"))),
        }
    }
}

/// A duration: `40ms`, `1.5s`, `2m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let unit = match unit.trim() {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" | "min" => 60.0,
            _ => f64::NAN,
        };
        number
            .parse::<f64>()
            .ok()
            .and_then(|value| Duration::try_from_secs_f64(value * unit).ok())
            .map(Self)
            .ok_or_else(|| LabError::Words(format!("`{text}` is no duration: write 40ms, 1.5s or 2m")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_shares_and_durations() {
        assert_eq!("5%".parse::<Share>().unwrap(), Share(0.05));
        assert_eq!("0.25".parse::<Share>().unwrap(), Share(0.25));
        assert_eq!("40ms".parse::<Time>().unwrap(), Time(Duration::from_millis(40)));
        assert_eq!("1.5s".parse::<Time>().unwrap(), Time(Duration::from_millis(1500)));
        for wrong in ["", "5", "ms", "-1s", "1h", "x%"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
        for wrong in ["", "101%", "-1%", "x", "1.5"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
