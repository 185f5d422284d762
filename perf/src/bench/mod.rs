//! `vl3-perf report`: the results of `./run bench` as one report.
//!
//! The results are the JSON documents of `pipeline`, `compare`, `churn` and `flood` in one directory; the report and its plots
//! are written beside them. The report names the documents that are missing.

mod chart;
mod markdown;
mod results;
mod targets;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use crate::failure::Failure;
use crate::report::save;

use results::Results;

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReportArgs {
    /// Directory with pipeline.json, sequential.json, compare.json, compare-tun.json, churn.json and flood.json, to which
    /// report.md and plots are added
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,

    /// Title of the report
    #[arg(long, default_value = "vl3-lb: benchmark")]
    pub(crate) title: String,
}

/// Writes the report. Returns the text for stdout: the file, and the number of targets met.
pub(crate) fn run(args: &ReportArgs) -> Result<String, Failure> {
    let results = Results::read(&args.directory)?;
    let mut plots = Vec::new();
    for chart in chart::all(&results) {
        let name = chart.file_name();
        save(&args.directory.join(&name), chart.svg()?)?;
        plots.push((name, chart.title.clone()));
    }
    let targets = targets::all(&results);
    let path = args.directory.join("report.md");
    save(&path, markdown::write(&args.title, &results, &targets, &plots))?;
    let met = targets.iter().filter(|target| target.met == Some(true)).count();
    let judged = targets.iter().filter(|target| target.met.is_some()).count();
    Ok(format!(
        "{}: {met} of {judged} targets met, {} not judged\n",
        path.display(),
        targets.len() - judged
    ))
}
