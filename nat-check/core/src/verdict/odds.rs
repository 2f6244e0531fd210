//! Chances: hits among random ports, and ports that others take meanwhile.

/// The chance that at least one of `guesses` distinct ports is one of `open` ports, both out of `range`.
#[must_use]
pub fn hit(open: u32, guesses: u32, range: u32) -> f64 {
    if open == 0 || guesses == 0 {
        return 0.0;
    }
    if u64::from(open) + u64::from(guesses) > u64::from(range) {
        return 1.0;
    }
    let (open, range) = (f64::from(open), f64::from(range));
    let miss: f64 = (0..guesses).map(|n| (range - open - f64::from(n)) / (range - f64::from(n))).product();
    1.0 - miss
}

/// The fewest guesses that hit with this chance, at most `limit`.
#[must_use]
pub fn guesses_for(chance: f64, open: u32, range: u32, limit: u32) -> u32 {
    let limit = limit.min(range);
    let (mut miss, mut guesses) = (1.0, 0);
    while guesses < limit && 1.0 - miss < chance {
        let left = f64::from(range) - f64::from(guesses);
        miss *= ((left - f64::from(open)) / left).max(0.0);
        guesses += 1;
    }
    guesses
}

/// The chance of fewer than `count` events where `mean` are expected (Poisson).
#[must_use]
pub fn fewer_than(count: u32, mean: f64) -> f64 {
    let mut term = (-mean).exp();
    let mut sum = 0.0;
    for n in 0..count {
        sum += term;
        term *= mean / f64::from(n + 1);
    }
    sum.min(1.0)
}

/// The smallest count such that fewer events than that happen with this chance, at most `limit`.
#[must_use]
pub fn window_for(chance: f64, mean: f64, limit: u32) -> u32 {
    (1..limit).find(|count| fewer_than(*count, mean) >= chance).unwrap_or(limit)
}

/// The chance that at least one of several attempts succeeds.
#[must_use]
pub fn once_in(attempts: u32, chance: f64) -> f64 {
    1.0 - (1.0 - chance).powi(i32::try_from(attempts).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_among_all_ports() {
        for (chance, guesses) in [(0.5, 175), (0.9, 581), (0.99, 1161), (0.999, 1741)] {
            let found = guesses_for(chance, 256, 64512, 5000);
            assert!(found.abs_diff(guesses) <= 30, "{chance}: {found} and not about {guesses}");
            assert!(hit(256, found, 64512) >= chance && hit(256, found - 1, 64512) < chance);
        }
        for (chance, guesses) in [(0.5, 2), (0.9, 5), (0.99, 10), (0.999, 14)] {
            assert!(guesses_for(chance, 256, 512, 5000) <= guesses, "{chance}");
        }
        assert_eq!(guesses_for(0.99, 1, 64512, 2000), 2000);
    }

    #[test]
    fn the_extremes_hold() {
        assert_eq!(hit(0, 10, 100), 0.0);
        assert_eq!(hit(60, 41, 100), 1.0);
        assert!((hit(1, 10, 100) - 0.1).abs() < 1e-9);
        assert!((fewer_than(1, 1.5) - (-1.5f64).exp()).abs() < 1e-12);
        assert_eq!(fewer_than(1, 0.0), 1.0);
        assert_eq!(window_for(0.999, 0.0, 64), 1);
        assert_eq!(window_for(0.999, 1e6, 64), 64);
        assert!((once_in(3, 0.5) - 0.875).abs() < 1e-12);
    }

    #[test]
    fn what_is_drawn_agrees_with_the_formula() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (open, guesses, range, runs) = (40, 30, 1000, 20_000);
        let hits = (0..runs)
            .filter(|_| {
                // Guesses are the ports 0 to 29: which ones they are does not matter.
                let ports = rng.choose_multiple(0..range, open);
                ports.into_iter().any(|port| port < guesses)
            })
            .count();
        let (expected, runs) = (hit(40, guesses, range), f64::from(runs));
        let error = (expected * (1.0 - expected) / runs).sqrt();
        assert!((hits as f64 / runs - expected).abs() < 4.0 * error, "{hits} of {runs}, expected {expected}");
    }
}
