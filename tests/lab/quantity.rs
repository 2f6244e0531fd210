//! Parses shares, durations, rates and queues of a command line.

use std::{str::FromStr, time::Duration};

use crate::{LabError, network::shaper::Queue};

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

/// Bits a second: `64kbit`, `10mbit`, `1gbit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitRate(pub u64);

impl FromStr for BitRate {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let units = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];
        let rate = number_with_unit(text, &units).filter(|rate| *rate >= 1000.0);
        rate.map(|rate| Self(rate as u64)).ok_or_else(|| {
            LabError::Words(format!("`{text}` is no rate: write 64kbit, 10mbit or 1gbit, at least 1kbit"))
        })
    }
}

/// The size of a queue: `64kB`, `1500B` or `100p` (packets).
impl FromStr for Queue {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let bytes =
            number_with_unit(text, &[("MB", 1e6), ("kB", 1e3), ("B", 1.0)]).map(|n| Self::Bytes(n as u32));
        let packets = || number_with_unit(text, &[("p", 1.0)]).map(|n| Self::Packets(n as u32));
        bytes.or_else(packets).ok_or_else(|| {
            LabError::Words(format!("`{text}` is no queue: write 64kB, 1500B or 100p (packets)"))
        })
    }
}

/// A number with one of these units, the longest of which come first.
fn number_with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, factor) =
        units.iter().find_map(|(unit, factor)| text.strip_suffix(unit).map(|number| (number, factor)))?;
    number.trim().parse::<f64>().ok().map(|n| n * factor).filter(|n| (0.0..=1e12).contains(n))
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
        assert_eq!("10mbit".parse::<BitRate>().unwrap(), BitRate(10_000_000));
        assert_eq!("64kB".parse::<Queue>().unwrap(), Queue::Bytes(64_000));
        assert_eq!("100p".parse::<Queue>().unwrap(), Queue::Packets(100));
        for wrong in ["", "10", "10mb", "-1mbit", "1bit"] {
            assert!(wrong.parse::<BitRate>().is_err(), "{wrong}");
        }
        for wrong in ["", "10", "p", "-1p"] {
            assert!(wrong.parse::<Queue>().is_err(), "{wrong}");
        }
        for wrong in ["", "5", "ms", "-1s", "1h", "x%"] {
            assert!(wrong.parse::<Time>().is_err(), "{wrong}");
        }
        for wrong in ["", "101%", "-1%", "x", "1.5"] {
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
        }
    }
}
