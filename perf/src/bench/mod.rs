//! `vl3-perf report`: what `./run bench` measured, as one report for people.
//!
//! The raw results are the JSON documents of `pipeline`, `compare` and `churn` in one directory; the report and its
//! pictures are written beside them. A document that is missing leaves its part out, and the report says so.

mod chart;
mod markdown;
mod results;
mod targets;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

use results::Results;

/// Where the results are.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ReportArgs {
    /// Directory with pipeline.json, sequential.json, compare.json, compare-tun.json and churn.json; report.md and
    /// pictures go there
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,

    /// Title of the report
    #[arg(long, default_value = "vl3-lb: benchmark")]
    pub(crate) title: String,
}

/// Writes the report. What to say when it is done: where it is, and how many targets are met.
pub(crate) fn run(args: &ReportArgs) -> Result<String, Failure> {
    let results = Results::read(&args.directory)?;
    let mut pictures = Vec::new();
    for chart in chart::all(&results) {
        let name = chart.file_name();
        write(&args.directory, &name, &chart.svg()?)?;
        pictures.push((name, chart.title.clone()));
    }
    let targets = targets::all(&results);
    let text = markdown::write(&args.title, &results, &targets, &pictures);
    write(&args.directory, "report.md", &text)?;
    let met = targets.iter().filter(|target| target.met == Some(true)).count();
    let judged = targets.iter().filter(|target| target.met.is_some()).count();
    Ok(format!(
        "{}: {met} of {judged} targets met, {} not judged\n",
        args.directory.join("report.md").display(),
        targets.len() - judged
    ))
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), Failure> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))
}
