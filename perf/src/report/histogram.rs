//! Histograms in the formats of HdrHistogram.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer};

/// Percentile lines for each halving of the distance to 100%, as the other implementations have by default.
const LINES_PER_HALVING: u32 = 5;

/// The compressed V2 encoding in base64, as in HdrHistogram's logs.
pub(super) fn base64(histogram: &Histogram<u64>) -> String {
    let mut bytes = Vec::new();
    V2DeflateSerializer::new()
        .serialize(histogram, &mut bytes)
        .expect("a Vec takes all bytes");
    STANDARD.encode(bytes)
}

/// The percentile distribution as text (`.hgrm`), in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a minute in nanoseconds at most")]
pub(super) fn percentile_text(histogram: &Histogram<u64>) -> String {
    let mut text = String::new();
    let mut line = |arguments: std::fmt::Arguments<'_>| {
        writeln!(text, "{arguments}").expect("a String takes all text");
    };
    line(format_args!(
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    ));
    let mut last = 0.0;
    for step in histogram.iter_quantiles(LINES_PER_HALVING) {
        let (value, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        let count = histogram.count_between(0, step.value_iterated_to());
        if quantile < 1.0 {
            let rest = 1.0 / (1.0 - quantile);
            line(format_args!(
                "{value:>12.6} {quantile:>2.12} {count:>10} {rest:>14.2}"
            ));
        } else if last < 1.0 {
            line(format_args!("{value:>12.6} {quantile:>2.12} {count:>10}"));
        }
        last = quantile;
    }
    line(format_args!(
        "#[Mean    = {:>12.6}, StdDeviation   = {:>12.6}]",
        histogram.mean() / 1e6,
        histogram.stdev() / 1e6
    ));
    line(format_args!(
        "#[Max     = {:>12.6}, Total count    = {:>12}]",
        histogram.max() as f64 / 1e6,
        histogram.len()
    ));
    line(format_args!(
        "#[Buckets = {:>12}, SubBuckets     = {:>12}]",
        histogram.buckets(),
        2048
    ));
    text
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;

    use super::*;
    use crate::load::latency::Latency;

    fn filled() -> Histogram<u64> {
        let mut histogram = Latency::new().corrected;
        (1..=1000).for_each(|millis| histogram.record(millis * 1_000_000).unwrap());
        histogram
    }

    #[test]
    fn base64_can_be_read_back() {
        let bytes = STANDARD.decode(base64(&filled())).unwrap();
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut bytes.as_slice()).unwrap();
        assert_eq!(read, filled());
    }

    #[test]
    fn the_text_has_percentiles_counts_and_the_end() {
        let text = percentile_text(&filled());
        let median = text
            .lines()
            .find(|line| line.contains(" 0.500000000000 "))
            .unwrap_or_else(|| panic!("{text}"));
        assert!(
            median.contains(" 500 ") && median.trim_start().starts_with("500."),
            "{median}"
        );
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }
}
