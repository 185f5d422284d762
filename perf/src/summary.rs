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

#[cfg(test)]
mod tests {
    use super::*;

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
