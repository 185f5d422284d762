//! The report as a plot: round trips by percentile above, throughput over time below.

use std::error::Error;

use hdrhistogram::Histogram;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Report, number};

const SIZE: (u32, u32) = (900, 760);
const MARGIN: u32 = 14;
const TEXT: (&str, u32) = ("sans-serif", 15);
const CORRECTED: RGBColor = RGBColor(31, 119, 180);
const SERVICE: RGBColor = RGBColor(255, 127, 14);
/// Percentile steps for each halving of the distance to 100%.
const STEPS: u32 = 8;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// The plot as SVG.
pub(super) fn svg(report: &Report) -> Result<String, Box<dyn Error>> {
    let mut text = String::new();
    draw(report, &mut text)?;
    Ok(text)
}

fn draw(report: &Report, text: &mut String) -> Drawn {
    let all = SVGBackend::with_string(text, SIZE).into_drawing_area();
    all.fill(&WHITE)?;
    let all = all.titled(&report.title, ("sans-serif", 18))?;
    let all = all.titled(&report.header.environment.line(), ("sans-serif", 13))?;
    let (upper, lower) = all.split_vertically(SIZE.1 / 2);
    latency(report, &upper)?;
    throughput(report, &lower)?;
    all.present()?;
    Ok(())
}

/// Round trips in milliseconds over 1/(1-p), both axes logarithmic: each step to the right is a nine more.
fn latency(report: &Report, area: &Area<'_>) -> Drawn {
    let latency = report.latency();
    let (corrected, service) = (curve(&latency.corrected), curve(&latency.service));
    let values = || corrected.iter().chain(&service).map(|(_, value)| *value);
    let (Some(low), Some(high)) = (values().reduce(f64::min), values().reduce(f64::max)) else {
        area.titled("no reply: no round trips", TEXT)?;
        return Ok(());
    };
    let right = corrected.iter().map(|(nines, _)| *nines).fold(10.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .caption("round trip by percentile", TEXT)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(
            (1.0..right * 1.1).log_scale(),
            (low * 0.9..high * 1.1).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("ms")
        .x_label_formatter(&|nines| percentile(*nines))
        .y_label_formatter(&|millis| number::short(*millis))
        .draw()?;
    for (name, color, points) in [
        ("from the intended send time", CORRECTED, corrected),
        ("from the actual send time", SERVICE, service),
    ] {
        chart
            .draw_series(LineSeries::new(points, color.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .draw()?;
    Ok(())
}

/// Packets per second over the time of each run.
fn throughput(report: &Report, area: &Area<'_>) -> Drawn {
    let points = |run: &crate::load::run::Run| -> Vec<(f64, f64)> {
        run.intervals
            .iter()
            .map(|interval| {
                (
                    interval.end.as_secs_f64(),
                    interval.per_second(interval.tally.received),
                )
            })
            .collect()
    };
    let runs: Vec<_> = report.runs.iter().map(points).collect();
    let largest = |part: fn(&(f64, f64)) -> f64| {
        let values = runs.iter().flatten().map(part);
        values.fold(f64::MIN_POSITIVE, f64::max)
    };
    let (end, top) = (largest(|point| point.0), largest(|point| point.1));
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .caption("received per second, each run", TEXT)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..end * 1.02, 0.0..top * 1.1)?;
    chart
        .configure_mesh()
        .x_desc("seconds")
        .y_label_formatter(&|rate| number::short(*rate))
        .draw()?;
    for (index, points) in runs.into_iter().enumerate() {
        let color = Palette99::pick(index).to_rgba();
        chart.draw_series(LineSeries::new(points, color.stroke_width(2)))?;
    }
    Ok(())
}

/// Points (1/(1-p), milliseconds) up to the last one that some packet stands for.
#[expect(clippy::cast_precision_loss, reason = "a plot")]
fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    histogram
        .iter_quantiles(STEPS)
        .filter(|step| step.quantile_iterated_to() < 1.0)
        .map(|step| {
            let nines = 1.0 / (1.0 - step.quantile_iterated_to());
            (nines, step.value_iterated_to() as f64 / 1e6)
        })
        .collect()
}

/// `99.9%` for 1,000.
fn percentile(nines: f64) -> String {
    let percent = 100.0 - 100.0 / nines;
    let text = format!("{percent:.5}");
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nines_are_percentiles() {
        for (nines, text) in [
            (1.0, "0%"),
            (10.0, "90%"),
            (1000.0, "99.9%"),
            (100_000.0, "99.999%"),
        ] {
            assert_eq!(percentile(nines), text);
        }
    }
}
