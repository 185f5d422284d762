//! When packets are due.

use std::time::Duration;

use super::latency::seconds;

/// Packets or requests per second over the whole load.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) enum Rate {
    Fixed(f64),
    /// Linear over the duration.
    Ramp {
        from: f64,
        to: f64,
    },
    /// As fast as possible: packets have no due time.
    #[default]
    FlatOut,
}

impl Rate {
    /// This part of it, from 0 to 1.
    pub(crate) fn share(self, part: f64) -> Self {
        match self {
            Self::Fixed(rate) => Self::Fixed(rate * part),
            Self::Ramp { from, to } => Self::Ramp {
                from: from * part,
                to: to * part,
            },
            Self::FlatOut => Self::FlatOut,
        }
    }

    /// Packets per second on average over the time from `start` to `end`, nanoseconds of a load of
    /// `duration`; `None` if flat out.
    pub(crate) fn mean(self, start: u64, end: u64, duration: Duration) -> Option<f64> {
        let schedule = Schedule::new(self, duration);
        let before = |time| (self != Self::FlatOut).then(|| schedule.before(time));
        Some((before(end)? - before(start)?) / seconds(end.saturating_sub(start).max(1)))
    }
}

/// The times at which packets of a [`Rate`] are due. Nanoseconds since the start of the load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    rate: Rate,
    duration: Duration,
}

impl Schedule {
    /// `duration` is that of the whole load: a ramp reaches its end then.
    pub(crate) const fn new(rate: Rate, duration: Duration) -> Self {
        Self { rate, duration }
    }

    /// How many packets are due at `now`: those whose time has come. `u64::MAX` if flat out.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number of packets, positive and far below 2^53"
    )]
    pub(crate) fn due(&self, now: u64) -> u64 {
        match self.rate {
            Rate::FlatOut => u64::MAX,
            Rate::Fixed(_) | Rate::Ramp { .. } => self.before(now).floor() as u64 + 1,
        }
    }

    /// When packet `number` is due, counted from 0; `None` if flat out: when it is sent.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "nanoseconds of hours and numbers of packets are below 2^53"
    )]
    pub(crate) fn intended(&self, number: u64) -> Option<u64> {
        let number = number as f64;
        let seconds = match self.rate {
            Rate::FlatOut => return None,
            Rate::Fixed(rate) => number / rate,
            Rate::Ramp { from, to } => {
                // The time t with from t + slope t^2 / 2 = number, in the form that is exact for
                // small slopes.
                let slope = (to - from) / self.duration.as_secs_f64();
                let root = slope.mul_add(2.0 * number, from * from).max(0.0).sqrt();
                if number == 0.0 {
                    0.0
                } else {
                    2.0 * number / (from + root)
                }
            }
        };
        Some((seconds * 1e9).ceil() as u64)
    }

    /// Packets before `now`, with a fraction.
    fn before(&self, now: u64) -> f64 {
        let time = seconds(now);
        match self.rate {
            Rate::FlatOut => f64::INFINITY,
            Rate::Fixed(rate) => rate * time,
            Rate::Ramp { from, to } => {
                let slope = (to - from) / self.duration.as_secs_f64();
                from.mul_add(time, slope * time * time / 2.0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEN: Duration = Duration::from_secs(10);
    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_fixed_rate_is_due_evenly_from_the_start() {
        let schedule = Schedule::new(Rate::Fixed(1000.0), TEN);
        for (now, due) in [(0, 1), (999_999, 1), (1_000_000, 2), (SECOND, 1001)] {
            assert_eq!(schedule.due(now), due, "{now}");
        }
        assert_eq!(schedule.intended(0), Some(0));
        assert_eq!(schedule.intended(500), Some(SECOND / 2));
    }

    #[test]
    fn a_ramp_reaches_the_mean_of_its_ends() {
        let schedule = Schedule::new(
            Rate::Ramp {
                from: 100.0,
                to: 300.0,
            },
            TEN,
        );
        assert_eq!(schedule.due(10 * SECOND), 2001);
        assert_eq!(schedule.due(5 * SECOND), 751);
        let steep = Schedule::new(Rate::Ramp { from: 0.0, to: 200.0 }, TEN);
        assert_eq!(steep.due(10 * SECOND), 1001);
    }

    #[test]
    fn flat_out_is_always_due_and_never_late() {
        let schedule = Schedule::new(Rate::FlatOut, TEN);
        assert_eq!((schedule.due(0), schedule.intended(7)), (u64::MAX, None));
    }

    #[test]
    fn the_mean_of_a_part_of_a_ramp_is_the_rate_in_its_middle() {
        let rate = Rate::Ramp {
            from: 100.0,
            to: 300.0,
        };
        let mean = rate.mean(8 * SECOND, 10 * SECOND, TEN).unwrap();
        assert!((mean - 280.0).abs() < 1e-6, "{mean}");
        assert_eq!(Rate::FlatOut.mean(0, SECOND, TEN), None);
    }

    proptest! {
        #[test]
        fn a_packet_is_due_when_its_time_has_come_and_not_before(
            from in 1.0..1e6, to in 1.0..1e6, number in 0_u64..1_000_000
        ) {
            for rate in [Rate::Fixed(from), Rate::Ramp { from, to }] {
                let schedule = Schedule::new(rate, TEN);
                let intended = schedule.intended(number).unwrap();
                if intended > 10 * SECOND {
                    continue;
                }
                // One nanosecond of rounding either way.
                prop_assert!(schedule.due(intended + 1) > number, "{rate:?}");
                if intended > 1 {
                    prop_assert!(schedule.due(intended - 2) <= number, "{rate:?}");
                }
            }
        }
    }
}
