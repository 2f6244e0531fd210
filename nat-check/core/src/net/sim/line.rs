//! A line between a site and the Internet: loss, delay, jitter, reordering, duplication, for each direction by itself; on
//! the way out also a narrow uplink, policing and a firewall.

use std::time::Duration;

use super::rate::{Policer, Uplink};

/// What a line does to packets. `Default` is a perfect line with 10 ms each way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathSpec {
    /// One way.
    pub delay: Duration,
    /// Up to this much more, at random for each packet.
    pub jitter: Duration,
    /// Loss on the way to the Internet.
    pub loss_up: Loss,
    /// Loss on the way back.
    pub loss_down: Loss,
    /// Share of packets that take one more delay than the others and so are overtaken.
    pub reorder: f64,
    /// Share of packets that arrive twice.
    pub duplicate: f64,
    /// Routers on the way to the middle of the Internet.
    pub hops: u8,
    /// Bits a second that the uplink passes; more waits in a queue of [`UPLINK_QUEUE`](super::UPLINK_QUEUE) bytes.
    pub uplink_bits_per_s: Option<u32>,
    /// Packets a second that are let out, in bursts of [`POLICED_BURST`](super::POLICED_BURST) at the most; more are
    /// dropped.
    pub policed_per_s: Option<u32>,
    /// A firewall lets out what is sent to this port alone.
    pub only_port: Option<u16>,
    /// Nothing passes for so long after the first packet: a radio link that wakes up, a VPN on demand.
    pub dark: Duration,
}

impl Default for PathSpec {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            loss_up: Loss::None,
            loss_down: Loss::None,
            reorder: 0.0,
            duplicate: 0.0,
            hops: 3,
            uplink_bits_per_s: None,
            policed_per_s: None,
            only_port: None,
            dark: Duration::ZERO,
        }
    }
}

impl PathSpec {
    /// A perfect line with this delay each way.
    #[must_use]
    pub fn with_delay_ms(delay: u64) -> Self {
        Self { delay: Duration::from_millis(delay), ..Self::default() }
    }

    /// The same line with this loss in each direction.
    #[must_use]
    pub fn with_loss(self, loss: Loss) -> Self {
        Self { loss_up: loss, loss_down: loss, ..self }
    }
}

/// How packets get lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Loss {
    /// Not at all.
    #[default]
    None,
    /// Each with this probability, whatever became of the others.
    Independent(f64),
    /// In bursts (Gilbert and Elliott): this share of all packets, in runs of this mean length.
    Bursty {
        /// Share of packets lost, below 1.
        rate: f64,
        /// Mean number of packets lost in a row, at least 1.
        burst: f64,
    },
}

/// One direction of a line at work.
#[derive(Debug)]
struct Lane {
    loss: Loss,
    in_burst: bool,
    rng: fastrand::Rng,
}

/// A line at work. The user-space laboratory carries real packets over it.
#[derive(Debug)]
pub struct Line {
    spec: PathSpec,
    up: Lane,
    down: Lane,
    uplink: Option<Uplink>,
    policer: Option<Policer>,
    first_used: Option<Duration>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the Internet.
    Up,
    /// From it.
    Down,
}

/// Packets that a policed line lets out at once.
pub const POLICED_BURST: f64 = 5.0;

/// When the copies of a packet arrive: none, one or two.
pub type Arrivals = [Option<Duration>; 2];

impl Line {
    /// A line; the same seed loses the same packets.
    #[must_use]
    pub fn new(spec: PathSpec, seed: u64) -> Self {
        let mut seeds = fastrand::Rng::with_seed(seed);
        let mut lane = |loss| Lane { loss, in_burst: false, rng: seeds.fork() };
        let (up, down) = (lane(spec.loss_up), lane(spec.loss_down));
        let uplink = spec.uplink_bits_per_s.map(Uplink::new);
        let policer = spec.policed_per_s.map(|rate| Policer::new(f64::from(rate), POLICED_BURST));
        Self { spec, up, down, uplink, policer, first_used: None }
    }

    pub(super) fn hops(&self) -> u8 {
        self.spec.hops
    }

    pub(super) fn delay(&self) -> Duration {
        self.spec.delay
    }

    /// Whether the firewall lets out what is sent to this port.
    pub(super) fn lets_out(&self, port: u16) -> bool {
        self.spec.only_port.is_none_or(|only| only == port)
    }

    /// Sends a packet of this size along at `now` and tells after how long it arrives.
    pub fn carry(&mut self, way: Way, bytes: usize, now: Duration) -> Arrivals {
        if now < *self.first_used.get_or_insert(now) + self.spec.dark {
            return [None, None];
        }
        if way == Way::Up && self.policer.as_mut().is_some_and(|policer| !policer.passes(now)) {
            return [None, None];
        }
        let queued = match (way, &mut self.uplink) {
            (Way::Up, Some(uplink)) => match uplink.queue(bytes, now) {
                Some(waits) => waits,
                None => return [None, None],
            },
            (Way::Up | Way::Down, _) => Duration::ZERO,
        };
        let lane = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        if lane.loses() {
            return [None, None];
        }
        let spec = &self.spec;
        let rng = &mut lane.rng;
        let mut takes = || {
            let late = if happens(spec.reorder, rng) {
                spec.delay.max(Duration::from_millis(2))
            } else {
                Duration::ZERO
            };
            let jitter = if spec.jitter.is_zero() { spec.jitter } else { spec.jitter.mul_f64(rng.f64()) };
            queued + spec.delay + late + jitter
        };
        let first = takes();
        let second = takes();
        [Some(first), happens(spec.duplicate, rng).then_some(second)]
    }
}

impl Lane {
    fn loses(&mut self) -> bool {
        match self.loss {
            Loss::None => false,
            Loss::Independent(rate) => happens(rate, &mut self.rng),
            Loss::Bursty { rate, burst } => {
                let change = if self.in_burst { 1.0 / burst } else { rate / (burst * (1.0 - rate)) };
                self.in_burst ^= happens(change, &mut self.rng);
                self.in_burst
            }
        }
    }
}

fn happens(probability: f64, rng: &mut fastrand::Rng) -> bool {
    probability > 0.0 && rng.f64() < probability
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursty_loss_has_the_rate_and_the_run_length_it_says() {
        let spec = PathSpec::default().with_loss(Loss::Bursty { rate: 0.1, burst: 5.0 });
        let mut line = Line::new(spec, 1);
        let lost: Vec<bool> =
            (0..200_000).map(|_| line.carry(Way::Up, 48, Duration::ZERO)[0].is_none()).collect();
        let total = lost.iter().filter(|l| **l).count() as f64;
        let runs = lost.windows(2).filter(|w| !w[0] && w[1]).count() as f64;
        assert!((0.09..0.11).contains(&(total / 200_000.0)), "rate {}", total / 200_000.0);
        assert!((4.7..5.3).contains(&(total / runs)), "burst {}", total / runs);
    }

    #[test]
    fn directions_lose_independently() {
        let spec = PathSpec { loss_up: Loss::Independent(0.5), ..PathSpec::default() };
        let mut line = Line::new(spec, 2);
        assert!((0..100).all(|_| line.carry(Way::Down, 48, Duration::ZERO)[0].is_some()));
        let up = (0..1000).filter(|_| line.carry(Way::Up, 48, Duration::ZERO)[0].is_some()).count();
        assert!((400..600).contains(&up), "{up}");
    }
}
