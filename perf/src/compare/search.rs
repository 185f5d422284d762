//! The highest rate without loss: RFC 2544 section 26.1 as a binary search, bounded in trials.

/// How exactly to search.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// Trials at most, repetitions included.
    pub(crate) trials: u32,
    /// The search ends when the bounds are this close, as a share of the upper one.
    pub(crate) precision: f64,
}

impl Search {
    /// The highest rate below `ceiling` at which `lossless` says yes; 0 if none was found. A rate with loss is tried
    /// once more before it counts, since a machine's own hiccup loses packets too.
    pub(crate) fn highest<E>(
        self,
        ceiling: f64,
        mut lossless: impl FnMut(f64) -> Result<bool, E>,
    ) -> Result<f64, E> {
        let (mut good, mut bad) = (0.0, ceiling);
        let mut rate = ceiling;
        let mut left = self.trials;
        while left > 0 {
            left -= 1;
            let mut passed = lossless(rate)?;
            if !passed && left > 0 {
                left -= 1;
                passed = lossless(rate)?;
            }
            if passed {
                good = rate;
            } else {
                bad = rate;
            }
            if bad - good <= ceiling * self.precision {
                break;
            }
            rate = f64::midpoint(good, bad);
        }
        Ok(good)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const SEARCH: Search = Search {
        trials: 30,
        precision: 0.01,
    };

    /// A device that loses above `capacity`.
    fn found(search: Search, capacity: f64, ceiling: f64) -> (f64, u32) {
        let mut trials = 0;
        let rate = search
            .highest(ceiling, |rate| {
                trials += 1;
                Ok::<_, Infallible>(rate <= capacity)
            })
            .unwrap();
        (rate, trials)
    }

    #[test]
    fn the_capacity_of_a_device_is_found_from_below() {
        for capacity in [1.0, 250_000.0, 499_000.0, 700_000.0, 999_999.0] {
            let (rate, trials) = found(SEARCH, capacity, 1e6);
            assert!(
                rate <= capacity && capacity - rate <= 0.01 * 1e6,
                "{capacity}: {rate}"
            );
            assert!(trials <= SEARCH.trials, "{trials}");
        }
    }

    #[test]
    fn a_device_that_never_loses_takes_one_trial() {
        assert_eq!(found(SEARCH, 2e6, 1e6), (1e6, 1));
    }

    #[test]
    fn a_device_that_always_loses_has_no_rate_and_few_trials() {
        let few = Search { trials: 5, ..SEARCH };
        assert_eq!(found(few, -1.0, 1e6), (0.0, 5));
    }

    #[test]
    fn one_hiccup_does_not_count() {
        let mut trials = 0;
        let rate = SEARCH.highest(100.0, |_| {
            trials += 1;
            Ok::<_, Infallible>(trials != 1)
        });
        assert_eq!((rate.unwrap(), trials), (100.0, 2));
    }

    #[test]
    fn a_trial_that_fails_ends_the_search() {
        assert_eq!(SEARCH.highest(100.0, |_| Err("gone")), Err("gone"));
    }
}
