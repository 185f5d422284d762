//! `vl3-perf load` and `vl3-perf latency`: several runs of one plan, with progress, and their report.

pub(crate) mod args;
mod progress;

use serde_json::json;

use crate::failure::Failure;
use crate::interrupt;
use crate::load::pacing::Rate;
use crate::load::plan::{Plan, Protocol};
use crate::load::run;
use crate::report::environment::Environment;
use crate::report::header::Header;
use crate::report::{Focus, Report, Verdict, number};
use args::SessionArgs;
use progress::Progress;

/// Runs the load, writes the requested files, and returns the text for stdout and the verdict.
///
/// # Errors
///
/// Nothing was measured, or a file cannot be written.
pub(crate) fn run(session: &SessionArgs, focus: Focus) -> Result<(String, Verdict), Failure> {
    let plan = &session.plan;
    let stop = interrupt::flag()?;
    let title = title(plan, session.runs);
    let mut progress = Progress::new(plan, session.runs, &title);
    let mut report = Report {
        header: Header::new(Environment::here()),
        parameters: parameters(plan, session.runs),
        title,
        runs: Vec::new(),
        fail_if: session.fail_if.clone(),
        focus,
    };
    for number in 0..session.runs {
        progress.start(number);
        let mut seeded = plan.clone();
        seeded.seed = plan.seed.wrapping_add(number.into());
        let run = run::run(&seeded, &mut |interval| progress.show(interval), &stop)?;
        let environment = &mut report.header.environment;
        environment.engine = Some(run.used.engine.to_owned());
        environment.engine_reason = Some(run.used.reason.clone());
        environment.interface.clone_from(&run.used.interface);
        environment.mode.clone_from(&run.used.mode);
        let interrupted = run.interrupted;
        report.runs.push(run);
        if interrupted {
            break;
        }
    }
    progress.finish();
    if let Some(path) = &session.hgrm {
        report.write_hgrm(path)?;
    }
    if let Some(path) = &session.plot {
        report.write_plot(path)?;
    }
    let text = if session.json {
        report.to_json()
    } else {
        report.to_text()
    };
    Ok((text, report.verdict()))
}

/// The load in one line: `172.16.1.103:8080 udp 64B  1000 flows  rate 500k/s  5 runs x 10s after 2s warm-up`.
fn title(plan: &Plan, runs: u32) -> String {
    let Plan {
        target,
        duration,
        warm_up,
        ..
    } = plan;
    let (protocol, flows) = match plan.protocol {
        Protocol::Udp => ("udp", "flows".to_owned()),
        Protocol::TcpPackets => ("tcp-packets", "flows".to_owned()),
        Protocol::Tcp => {
            let requests = plan.requests_per_connection();
            let requests = requests.map_or_else(
                || "kept open".to_owned(),
                |requests| format!("{requests} requests each"),
            );
            ("tcp", format!("connections, {requests}"))
        }
    };
    let rate = match plan.rate {
        Rate::Fixed(rate) => format!("rate {}/s", number::short(rate)),
        Rate::Ramp { from, to } => format!("ramp {}/s..{}/s", number::short(from), number::short(to)),
        Rate::FlatOut => "flat out".to_owned(),
    };
    format!(
        "{target} {protocol} {}B  {} {flows}  {rate}  {runs} x {} after {} warm-up",
        plan.size(),
        plan.flows(),
        humantime::format_duration(*duration),
        humantime::format_duration(*warm_up),
    )
}

fn parameters(plan: &Plan, runs: u32) -> serde_json::Value {
    let (rate, ramp) = match plan.rate {
        Rate::Fixed(rate) => (Some(rate), None),
        Rate::Ramp { from, to } => (None, Some([from, to])),
        Rate::FlatOut => (None, None),
    };
    let tcp = plan.protocol == Protocol::Tcp;
    json!({
        "target": plan.target,
        "protocol": plan.protocol,
        "requestsPerConnection": tcp.then(|| plan.requests_per_connection()),
        "close": tcp.then_some(plan.close),
        "sizeBytes": plan.size(),
        "flows": plan.flows(),
        "zipf": plan.zipf,
        "ratePerSecond": rate,
        "rampPerSecond": ramp,
        "flatOut": plan.rate == Rate::FlatOut,
        "durationSeconds": plan.duration.as_secs_f64(),
        "warmUpSeconds": plan.warm_up.as_secs_f64(),
        "timeoutSeconds": plan.timeout.as_secs_f64(),
        "intervalSeconds": plan.interval.as_secs_f64(),
        "count": plan.count,
        "threads": plan.threads,
        "sources": plan.sources,
        "oneWay": plan.one_way,
        "runs": runs,
        "seed": plan.seed,
    })
}
