//! Several measurements of one number.

use serde::{Deserialize, Serialize};

/// Median, smallest and largest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// Of one measurement.
    pub(crate) const fn single(value: f64) -> Self {
        Self {
            median: value,
            min: value,
            max: value,
        }
    }

    /// `None` without a measurement.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max })
    }
}

/// Bounds of the median of what is measured, with a confidence of at least 95%, whatever its distribution: two of the
/// measurements, by the binomial distribution of how many lie below the median. Needs six measurements: `None` with fewer.
pub(crate) fn median_interval(mut values: Vec<f64>) -> Option<(f64, f64)> {
    values.sort_by(f64::total_cmp);
    let mut outside: usize = 0;
    // That so few of the measurements lie on one side of the median.
    let mut tail = 0.0;
    let mut probability = 0.5_f64.powi(i32::try_from(values.len()).ok()?);
    for (below, rest) in (0_u32..).zip((1..=values.len()).rev()) {
        tail += probability;
        if tail > 0.025 {
            break;
        }
        outside += 1;
        #[expect(clippy::cast_precision_loss, reason = "a number of measurements")]
        let rest = rest as f64;
        probability *= rest / f64::from(below + 1);
    }
    let low = values.get(outside.checked_sub(1)?)?;
    let high = values.get(values.len() - outside)?;
    Some((*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_of_the_median_has_the_ranks_of_the_sign_test() {
        // The largest rank whose binomial tail, of the ranks below it, is at most 2.5%.
        for (count, rank) in [(6_u8, 1), (8, 1), (9, 2), (12, 3), (20, 6), (24, 7), (48, 17)] {
            let values: Vec<f64> = (1..=count).rev().map(f64::from).collect();
            let high = f64::from(count) + 1.0 - f64::from(rank);
            assert_eq!(median_interval(values), Some((rank.into(), high)), "{count}");
        }
        assert_eq!(median_interval(vec![1.0; 5]), None);
        assert_eq!(median_interval(Vec::new()), None);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        for (values, median, min, max) in [
            (vec![3.0], 3.0, 3.0, 3.0),
            (vec![5.0, 1.0, 3.0], 3.0, 1.0, 5.0),
            (vec![4.0, 1.0, 2.0, 9.0], 3.0, 1.0, 9.0),
        ] {
            assert_eq!(
                Summary::of(values.clone()),
                Some(Summary { median, min, max }),
                "{values:?}"
            );
        }
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
