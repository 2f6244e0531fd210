//! A line in words: `delay=20ms loss=1% rate=50mbit`. One table serves builder, file, command line and changes.

use nat_check_core::net::sim::Loss;

use crate::{
    LabError,
    network::shaper::{LinkSpec, Rate},
    quantity::{BitRate, Share, Time},
};

/// A setting of a line.
struct Key {
    name: &'static str,
    set: fn(&mut LinkSpec, &str) -> Result<(), LabError>,
}

const KEYS: [Key; 10] = [
    Key { name: "delay", set: |line, text| put(&mut line.path.delay, text.parse::<Time>()?.0) },
    Key { name: "jitter", set: |line, text| put(&mut line.path.jitter, text.parse::<Time>()?.0) },
    Key {
        name: "loss",
        set: |line, text| {
            let (rate, burst) = (text.parse::<Share>()?.0, burst(line));
            set_loss(line, rate, burst)
        },
    },
    Key {
        name: "burst",
        set: |line, text| {
            let (rate, burst) = (rate(line), mean_run(text)?);
            set_loss(line, rate, Some(burst))
        },
    },
    Key { name: "reorder", set: |line, text| put(&mut line.path.reorder, text.parse::<Share>()?.0) },
    Key { name: "duplicate", set: |line, text| put(&mut line.path.duplicate, text.parse::<Share>()?.0) },
    Key {
        name: "rate",
        set: |line, text| {
            let rate = rate_of(text)?;
            (line.up, line.down) = (rate, rate);
            Ok(())
        },
    },
    Key { name: "rate-up", set: |line, text| put(&mut line.up, rate_of(text)?) },
    Key { name: "rate-down", set: |line, text| put(&mut line.down, rate_of(text)?) },
    Key {
        name: "queue",
        set: |line, text| {
            let queue = text.parse()?;
            if line.up.is_none() && line.down.is_none() {
                return Err(LabError::Words("queue: there is no rate that packets would wait for".into()));
            }
            [&mut line.up, &mut line.down].into_iter().flatten().for_each(|rate| rate.queue = queue);
            Ok(())
        },
    },
];

/// Whether this is a setting of a line.
pub(crate) fn is_key(name: &str) -> bool {
    KEYS.iter().any(|key| key.name == name)
}

/// Changes one setting.
pub(crate) fn set(line: &mut LinkSpec, name: &str, value: &str) -> Result<(), LabError> {
    let key = KEYS.iter().find(|key| key.name == name);
    let key = key.ok_or_else(|| {
        let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
        LabError::Words(format!("unknown setting of a line `{name}`; known are {}", known.join(", ")))
    })?;
    (key.set)(line, value)
}

/// Reads settings separated by spaces or commas.
pub(crate) fn parse(words: &str) -> Result<LinkSpec, LabError> {
    let mut line = LinkSpec::perfect();
    for word in words.split([' ', ',']).filter(|word| !word.is_empty()) {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        set(&mut line, name, value)?;
    }
    Ok(line)
}

fn put<T>(slot: &mut T, value: T) -> Result<(), LabError> {
    *slot = value;
    Ok(())
}

fn rate_of(text: &str) -> Result<Option<Rate>, LabError> {
    match text {
        "none" => Ok(None),
        text => Ok(Some(Rate::new(text.parse::<BitRate>()?.0))),
    }
}

fn mean_run(text: &str) -> Result<f64, LabError> {
    match text.parse::<f64>() {
        Ok(length) if (1.0..=1000.0).contains(&length) => Ok(length),
        Ok(_) | Err(_) => {
            Err(LabError::Words(format!("`{text}`: a burst is a mean length from 1 to 1000 packets")))
        }
    }
}

fn rate(line: &LinkSpec) -> f64 {
    match line.path.loss_up {
        Loss::None => 0.0,
        Loss::Independent(rate) | Loss::Bursty { rate, .. } => rate,
    }
}

fn burst(line: &LinkSpec) -> Option<f64> {
    match line.path.loss_up {
        Loss::Bursty { burst, .. } => Some(burst),
        Loss::None | Loss::Independent(_) => None,
    }
}

fn set_loss(line: &mut LinkSpec, rate: f64, burst: Option<f64>) -> Result<(), LabError> {
    let loss = match (rate, burst) {
        (0.0, None) => Loss::None,
        (rate, None) => Loss::Independent(rate),
        // All packets lost in bursts is all packets lost.
        (rate, Some(_)) if rate >= 1.0 => Loss::Independent(rate),
        (rate, Some(burst)) => Loss::Bursty { rate, burst },
    };
    let path = line.path.with_loss(loss);
    put(&mut line.path, path)
}
