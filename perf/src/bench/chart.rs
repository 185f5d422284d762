//! Bars with whiskers, as SVG.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::compare::metric::Metric;
use crate::failure::Failure;
use crate::pipeline;
use crate::report::number;
use crate::summary::Summary;

use super::results::Results;

const WIDTH: i32 = 760;
const HEAD: i32 = 56;
const BAR: i32 = 22;
const STEP: i32 = 32;
/// Where names end and bars begin, and how much room the values behind the bars have.
const LEFT: i32 = 180;
const RIGHT: i32 = 110;
const OURS: RGBColor = RGBColor(31, 119, 180);
const OTHERS: RGBColor = RGBColor(160, 160, 160);

/// One plot: a bar for each name, as long as the median, with a whisker from the smallest to the largest value.
pub(super) struct Chart {
    name: String,
    pub(super) title: String,
    /// The machine.
    subtitle: String,
    bars: Vec<(String, Summary)>,
    show: Box<dyn Fn(f64) -> String>,
}

/// The plots of all results that exist.
pub(super) fn all(results: &Results) -> Vec<Chart> {
    let mut charts: Vec<Chart> = [
        (Metric::LossFree, "more is better"),
        (Metric::CpuFull, "less is better"),
        (Metric::LatencyP99, "less is better"),
        (Metric::NewConnections, "more is better"),
        (Metric::Requests, "more is better"),
        (Metric::Bulk, "more is better"),
        (Metric::BulkDown, "more is better"),
        (Metric::Segments, "more is better"),
    ]
    .into_iter()
    .filter_map(|(metric, better)| of_peers(results, metric, better))
    .collect();
    charts.extend(results.pipeline.as_ref().map(of_pipeline));
    charts
}

fn of_peers(results: &Results, metric: Metric, better: &str) -> Option<Chart> {
    let compare = results.compare.as_ref()?;
    let bars: Vec<(String, Summary)> = compare
        .peers
        .iter()
        .filter_map(|peer| Some((peer.name.clone(), compare.summary(&peer.name, metric)?)))
        .collect();
    let environment = &compare.header.environment;
    (!bars.is_empty()).then(|| Chart {
        name: format!("compare-{}", metric.key()),
        title: format!("{} ({better})", metric.title()),
        subtitle: format!("{}, Linux {}", environment.cpu, environment.kernel),
        bars,
        show: Box::new(move |value| metric.show(value)),
    })
}

fn of_pipeline(report: &pipeline::Report) -> Chart {
    let bars = report.results.iter().flat_map(|result| {
        let (flows, costs) = (number::count(result.flows.into()), result.costs);
        [
            ("request", costs.request),
            ("reply", costs.reply),
            ("new flow", costs.new_flow),
        ]
        .map(|(name, cost)| (format!("{flows} flows, {name}"), cost.cycles()))
    });
    Chart {
        name: "pipeline".to_owned(),
        title: "pipeline: cycles per packet (less is better)".to_owned(),
        subtitle: report.header.environment.cpu.clone(),
        bars: bars.collect(),
        show: Box::new(|cycles| format!("{cycles:.0}")),
    }
}

impl Chart {
    pub(super) fn file_name(&self) -> String {
        format!("{}.svg", self.name)
    }

    /// The plot as SVG.
    pub(super) fn svg(&self) -> Result<String, Failure> {
        let mut text = String::new();
        self.draw(&mut text).map_err(Failure::plot(&self.name))?;
        Ok(text)
    }

    #[expect(clippy::cast_possible_truncation, reason = "pixels of a plot")]
    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let height = HEAD + STEP * i32::try_from(self.bars.len())? + 10;
        let area = SVGBackend::with_string(text, (WIDTH.cast_unsigned(), height.cast_unsigned()))
            .into_drawing_area();
        area.fill(&WHITE)?;
        let font = |size: i32| ("sans-serif", size).into_font();
        area.draw(&Text::new(self.title.clone(), (12, 10), font(18)))?;
        area.draw(&Text::new(self.subtitle.clone(), (12, 33), font(13)))?;
        let most = self
            .bars
            .iter()
            .map(|(_, summary)| summary.max)
            .fold(f64::MIN_POSITIVE, f64::max);
        let at = |value: f64| LEFT + (value / most * f64::from(WIDTH - LEFT - RIGHT)) as i32;
        let before = TextStyle::from(font(14)).pos(Pos::new(HPos::Right, VPos::Center));
        let behind = TextStyle::from(font(14)).pos(Pos::new(HPos::Left, VPos::Center));
        for ((name, summary), top) in self.bars.iter().zip((HEAD..).step_by(usize::try_from(STEP)?)) {
            let middle = top + BAR / 2;
            let color = if name.starts_with("vl3-lb") { OURS } else { OTHERS };
            area.draw(&Text::new(name.clone(), (LEFT - 8, middle), before.clone()))?;
            area.draw(&Rectangle::new(
                [(LEFT, top), (at(summary.median), top + BAR)],
                color.filled(),
            ))?;
            let (min, max) = (at(summary.min), at(summary.max));
            area.draw(&PathElement::new([(min, middle), (max, middle)], BLACK))?;
            for end in [min, max] {
                area.draw(&PathElement::new([(end, middle - 4), (end, middle + 4)], BLACK))?;
            }
            area.draw(&Text::new(
                (self.show)(summary.median),
                (max + 8, middle),
                behind.clone(),
            ))?;
        }
        area.present()?;
        Ok(())
    }
}
