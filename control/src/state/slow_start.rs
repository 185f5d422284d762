//! Slow start: a backend that comes up gets a growing share of its weight.
//!
//! The share grows in tenths, so that each service is rebuilt ten times at most, and each time few flows of other backends
//! move.

use vl3lb_common::{Duration, Timestamp};

/// Steps from nothing to the whole weight.
const STEPS: u16 = 10;

/// A share of a weight: 1 to 10 tenths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u16);

impl Share {
    /// The whole weight.
    pub const WHOLE: Self = Self(STEPS);

    /// `None` for the whole weight, else 0.1 to 0.9.
    pub fn part(self) -> Option<f64> {
        (self < Self::WHOLE).then(|| f64::from(self.0) / f64::from(STEPS))
    }

    /// The share of a backend that came up at `risen`, `now`; zero `time`: the whole.
    pub(super) fn at(risen: Timestamp, time: Duration, now: Timestamp) -> Self {
        let step = time / u32::from(STEPS);
        let since = now.since(risen);
        if step.is_zero() || since >= time {
            return Self::WHOLE;
        }
        let steps = since.as_nanos() / step.as_nanos();
        Self(u16::try_from(steps + 1).unwrap_or(STEPS).min(STEPS))
    }

    /// When the next share begins, for one that is not the whole.
    pub(super) fn end(self, risen: Timestamp, time: Duration) -> Option<Timestamp> {
        let step = time / u32::from(STEPS);
        (self < Self::WHOLE).then(|| risen + step * u32::from(self.0))
    }
}

/// What weights are multiplied by, so that shares of them are whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Scale {
    is_needed: bool,
}

/// The scale for members with these shares. Backends that came up together share as their weights say.
pub(super) fn scale(shares: &[Share]) -> Scale {
    Scale {
        is_needed: shares.windows(2).any(|pair| pair[0] != pair[1]),
    }
}

impl Scale {
    /// The share of `weight`, which is 1,000 at most.
    pub(super) const fn weight(self, weight: u16, Share(tenths): Share) -> u16 {
        if self.is_needed { weight * tenths } else { weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_duration(Duration::from_millis(millis))
    }

    #[test]
    fn the_share_grows_by_a_tenth_in_each_tenth_of_the_time() {
        let time = Duration::from_secs(10);
        for (millis, tenths) in [
            (0, 1),
            (999, 1),
            (1000, 2),
            (5500, 6),
            (8999, 9),
            (9000, 10),
            (60_000, 10),
        ] {
            let share = Share::at(at(5000), time, at(5000 + millis));
            assert_eq!(share, Share(tenths), "{millis}");
            if let Some(end) = share.end(at(5000), time) {
                assert!(
                    end > at(5000 + millis) && Share::at(at(5000), time, end) > share,
                    "{millis}"
                );
            }
        }
        assert_eq!(Share::at(at(0), Duration::ZERO, at(0)), Share::WHOLE);
        assert_eq!(Share::at(at(0), Duration::from_nanos(3), at(0)), Share::WHOLE);
    }

    #[test]
    fn weights_of_backends_that_came_up_together_stay() {
        let weight = |shares: &[u16]| {
            let shares: Vec<Share> = shares.iter().copied().map(Share).collect();
            let scale = scale(&shares);
            shares
                .iter()
                .map(|&share| scale.weight(1000, share))
                .collect::<Vec<_>>()
        };
        assert_eq!(weight(&[3, 3]), [1000, 1000]);
        assert_eq!(weight(&[10, 3]), [10_000, 3000]);
        assert_eq!(weight(&[1]), [1000]);
    }
}
