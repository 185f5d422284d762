//! The counters of vl3-lb during a flood.

use std::collections::BTreeMap;
use std::path::Path;

use crate::compare::admin::Admin;
use crate::compare::error::CompareError;
use crate::compare::peer::vl3lb;

/// Reads the counters of a peer that is vl3-lb; those of others are empty.
#[derive(Debug)]
pub(super) struct Source(Option<Admin>);

/// Counters by name and labels, as in the metrics: `vl3lb_drop_packets_total{service="web",reason="table_full"}`.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Counters(BTreeMap<String, f64>);

impl Source {
    /// Of the peer with this directory.
    pub(super) fn of(peer: &str, directory: &Path) -> Self {
        let is_own = peer.starts_with(vl3lb::NAME);
        Self(is_own.then(|| Admin::new(vl3lb::socket(directory))))
    }

    pub(super) fn read(&self) -> Result<Counters, CompareError> {
        self.0.as_ref().map_or_else(
            || Ok(Counters::default()),
            |admin| Ok(Counters::parse(&admin.metrics()?)),
        )
    }
}

impl Counters {
    /// Reads the text of the metrics.
    fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let counters = lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            let value = name.ends_with("_total").then(|| value.parse().ok());
            Some((series.to_owned(), value??))
        });
        Self(counters.collect())
    }

    /// Those that have grown, by how much.
    pub(super) fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let counters = self.0.iter();
        let grown = counters.map(|(series, value)| {
            let before = before.0.get(series).copied().unwrap_or_default();
            (series.clone(), value - before)
        });
        grown.filter(|(_, growth)| *growth > 0.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_grew_are_found() {
        let before = Counters::parse("# TYPE a counter\na_total{x=\"b c\"} 3\nb_total 5\ngauge 7\n");
        let after = Counters::parse("a_total{x=\"b c\"} 4.5\nb_total 5\nnew_total 2\ngauge 9\n# EOF\n");
        let grown = after.since(&before);
        let expected = [("a_total{x=\"b c\"}", 1.5), ("new_total", 2.0)];
        assert_eq!(grown, expected.map(|(series, by)| (series.to_owned(), by)).into());
    }
}
