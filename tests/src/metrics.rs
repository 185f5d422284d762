//! Reads `/metrics`.

use std::collections::{BTreeMap, BTreeSet};

/// One scrape.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Parses OpenMetrics text; panics at an invalid line.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| parse_sample(line).unwrap_or_else(|| panic!("not a metrics line: {line}")))
            .collect();
        Self { samples }
    }

    /// The sum over all samples of `name` that have these labels; `None` if there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let matching: Vec<f64> = self
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| {
                labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
            })
            .map(|sample| sample.value)
            .collect();
        (!matching.is_empty()).then(|| matching.iter().sum())
    }

    /// Like [`find`](Self::find), with 0 for a series that does not exist (yet).
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or(0.0)
    }

    /// A series that is there more than once, which a Prometheus server rejects.
    pub fn repeated(&self) -> Option<String> {
        let mut seen = BTreeSet::new();
        let mut samples = self.samples.iter();
        let repeated = samples.find(|sample| !seen.insert((&sample.name, &sample.labels)))?;
        Some(format!("{} {:?}", repeated.name, repeated.labels))
    }

    /// Packets dropped for `reason` so far.
    pub fn drops(&self, reason: &str) -> f64 {
        self.sum("vl3lb_drop_packets_total", &[("reason", reason)])
    }

    /// All drop reasons with a count above zero.
    pub fn all_drops(&self) -> BTreeMap<String, f64> {
        let mut drops = BTreeMap::new();
        for sample in &self.samples {
            if sample.name == "vl3lb_drop_packets_total" && sample.value > 0.0 {
                let reason = sample.labels.get("reason").cloned().unwrap_or_default();
                *drops.entry(reason).or_insert(0.0) += sample.value;
            }
        }
        drops
    }
}

fn parse_sample(line: &str) -> Option<Sample> {
    // Label values of ours hold neither quotes nor braces.
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = rest.split_once('}')?;
            (name, labels, rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            (name, "", rest)
        }
    };
    let labels = labels
        .split("\",")
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (key, value) = label.split_once("=\"")?;
            Some((key.to_owned(), value.trim_end_matches('"').to_owned()))
        })
        .collect::<Option<_>>()?;
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels_that_are_not_given() {
        let metrics = Metrics::parse(
            "# TYPE vl3lb_drop_packets counter\n\
             vl3lb_drop_packets_total{service=\"\",reason=\"malformed\"} 2\n\
             vl3lb_drop_packets_total{service=\"a,b\",reason=\"malformed\"} 3\n\
             vl3lb_ready 1\n\
             # EOF\n",
        );
        assert_eq!(metrics.drops("malformed"), 5.0);
        assert_eq!(
            metrics.find("vl3lb_drop_packets_total", &[("service", "a,b")]),
            Some(3.0)
        );
        assert_eq!(metrics.find("vl3lb_ready", &[]), Some(1.0));
        assert_eq!(metrics.find("vl3lb_draining", &[]), None);
    }
}
