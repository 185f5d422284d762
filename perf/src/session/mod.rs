//! `vl3-perf load` and `vl3-perf latency`: several runs of one plan, with progress, and their report.

pub(crate) mod args;
mod progress;

use serde_json::json;

use crate::failure::Failure;
use crate::interrupt;
use crate::load::pacing::Rate;
use crate::load::pattern::Spread;
use crate::load::plan::{Plan, Traffic};
use crate::load::run;
use crate::report::environment::Environment;
use crate::report::{Focus, Report, Verdict, number};
use args::Request;
use progress::Progress;

/// Carries `request` out, writes the files it asks for and returns what goes to stdout, and the verdict.
///
/// # Errors
///
/// Nothing was measured, or a file cannot be written.
pub(crate) fn run(request: &Request, focus: Focus) -> Result<(String, Verdict), Failure> {
    let plan = &request.plan;
    let stop = interrupt::flag()?;
    let title = title(plan, request.runs);
    let mut progress = Progress::new(plan, request.runs, &title);
    let mut report = Report {
        command: std::env::args().collect(),
        environment: Environment::here(),
        parameters: parameters(plan, request.runs),
        title,
        runs: Vec::new(),
        fail_if: request.fail_if.clone(),
        focus,
    };
    for number in 0..request.runs {
        progress.start(number);
        let seeded = Plan {
            seed: plan.seed.wrapping_add(number.into()),
            ..plan.clone()
        };
        let run = run::run(&seeded, &mut |interval| progress.show(interval), &stop)?;
        report.environment.engine = Some(run.used.engine.to_owned());
        report.environment.engine_reason = Some(run.used.reason.clone());
        report.environment.interface.clone_from(&run.used.interface);
        report.environment.mode.clone_from(&run.used.mode);
        let interrupted = run.interrupted;
        report.runs.push(run);
        if interrupted {
            break;
        }
    }
    progress.finish();
    if let Some(path) = &request.hgrm {
        report.write_hgrm(path)?;
    }
    if let Some(path) = &request.plot {
        report.write_plot(path)?;
    }
    let text = if request.json {
        report.to_json()
    } else {
        report.to_text()
    };
    Ok((text, report.verdict()))
}

/// The load in words: `udp 64B  1000 flows  rate 500k/s  5 runs x 10s after 2s warm-up`.
fn title(plan: &Plan, runs: u32) -> String {
    let traffic = match plan.traffic {
        Traffic::Udp => "udp",
        Traffic::TcpPackets => "tcp-packets",
        Traffic::Tcp { .. } => "tcp",
    };
    let flows = match plan.traffic {
        Traffic::Tcp { per_connection, .. } => {
            let each = per_connection.map_or_else(
                || "kept open".to_owned(),
                |requests| format!("{requests} requests each"),
            );
            format!("{} connections, {each}", plan.flows)
        }
        Traffic::Udp | Traffic::TcpPackets => format!("{} flows", plan.flows),
    };
    let rate = match plan.rate {
        Rate::Fixed(rate) => format!("rate {}/s", number::short(rate)),
        Rate::Ramp { from, to } => format!("ramp {}/s..{}/s", number::short(from), number::short(to)),
        Rate::FlatOut => "flat out".to_owned(),
    };
    let time = |duration: std::time::Duration| humantime::format_duration(duration).to_string();
    format!(
        "{} {traffic} {}B  {flows}  {rate}  {runs} x {} after {} warm-up",
        plan.target,
        plan.size,
        time(plan.duration),
        time(plan.warm_up),
    )
}

fn parameters(plan: &Plan, runs: u32) -> serde_json::Value {
    let (traffic, requests, close) = match plan.traffic {
        Traffic::Udp => ("udp", None, None),
        Traffic::TcpPackets => ("tcp-packets", None, None),
        Traffic::Tcp {
            per_connection,
            close,
        } => ("tcp", per_connection, Some(close)),
    };
    let (rate, ramp) = match plan.rate {
        Rate::Fixed(rate) => (Some(rate), None),
        Rate::Ramp { from, to } => (None, Some([from, to])),
        Rate::FlatOut => (None, None),
    };
    json!({
        "target": plan.target.to_string(),
        "protocol": traffic,
        "requestsPerConnection": requests,
        "close": close,
        "sizeBytes": plan.size,
        "flows": plan.flows,
        "zipf": match plan.spread { Spread::Uniform => None, Spread::Zipf(exponent) => Some(exponent) },
        "ratePerSecond": rate,
        "rampPerSecond": ramp,
        "flatOut": plan.rate == Rate::FlatOut,
        "durationSeconds": plan.duration.as_secs_f64(),
        "warmUpSeconds": plan.warm_up.as_secs_f64(),
        "timeoutSeconds": plan.timeout.as_secs_f64(),
        "intervalSeconds": plan.interval.as_secs_f64(),
        "count": plan.count,
        "threads": plan.threads,
        "sources": plan.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "oneWay": plan.one_way,
        "runs": runs,
        "seed": plan.seed,
    })
}
