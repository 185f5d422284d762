//! The life of a balancer: start in order, follow signals, drain, stop in order.
//!
//! Start: configuration, log, privileges, data plane, then the control side that feeds and reports it.
//! Balancing starts with the first complete set of services; until then `/readyz` is 503.
//! SIGTERM, SIGINT or SIGQUIT: not ready at once, then out of the DNS answers of every balancer if there are other
//! balancers, flows may finish within a limit, then the data plane detaches and the vL3 network is left; a second
//! signal ends the wait.

mod descriptors;
mod drain;
mod nsm;
mod plane;
mod privileges;
mod signals;
mod telemetry;
mod watch;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::api::Time;
use crate::cli::args::ConfigArgs;
use crate::cli::{Failure, FailureKind, load_config};
use crate::config::Config;
use crate::log::Log;
use crate::version;
use tracing::{error, info, warn};

use signals::Signals;
use wire::Control;

/// The vL3 network forgets a client that has not left in time when its tokens expire. With the longest drain this is
/// less than the 30 s that Kubernetes grants by default.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);
/// Flow-table readers and file accesses that are still busy get this long at the end.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);

/// Balances until a signal ends it.
///
/// Errors: what was refused at the start, or what failed for good while running; once the log runs
/// the error is logged.
pub fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let loaded = load_config(args.config.as_deref())?;
    let config = Arc::new(loaded.config);
    let format = args.log_format.map_or(config.log_format, Into::into);
    // Before the log, whose traces go over its connections.
    let runtime = runtime()?;
    let traces = telemetry::Sender::new(&config, &runtime).map_err(refused)?;
    let log = Log::start(config.log_level, format, traces.layer()).map_err(refused)?;
    introduce(&config, args);
    for note in &loaded.notes {
        warn!("{note}");
    }
    let done = start(config, args.config.clone(), &runtime, &log);
    // What is left of the traces goes to the collector while there are connections.
    drop(traces);
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    done.map_err(|failure| {
        let hint = failure.hint.as_deref().unwrap_or_default();
        let separator = if hint.is_empty() { "" } else { "; " };
        error!("{}{separator}{hint}", failure.error);
        Failure::new(failure.kind, "")
    })
}

fn refused(error: impl ToString) -> Failure {
    Failure::new(FailureKind::Refused, error.to_string())
}

fn failed(error: impl ToString) -> Failure {
    Failure::new(FailureKind::Answered, error.to_string())
}

/// The first lines of the log.
fn introduce(config: &Config, args: &ConfigArgs) {
    info!("vl3-lb {}", version::LONG);
    match &args.config {
        Some(path) => info!("configuration: {} and the environment", path.display()),
        None => info!("configuration: the environment"),
    }
    // One line: for machines it is one message, and people have `vl3-lb check`.
    let resolved = serde_json::to_string(config).unwrap_or_default();
    info!("resolved configuration: {resolved}");
}

/// The threads of the control side.
fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_name("vl3lb-control")
        .enable_all()
        .build()
        .map_err(|error| failed(format!("start the control side's threads: {error}")))
}

/// Checks the privileges, then runs the balancer.
fn start(config: Arc<Config>, path: Option<PathBuf>, runtime: &Runtime, log: &Log) -> Result<(), Failure> {
    privileges::check(&config)?;
    descriptors::raise_limit();
    runtime.block_on(balance(config, path, log))
}

async fn balance(config: Arc<Config>, path: Option<PathBuf>, log: &Log) -> Result<(), Failure> {
    let start_time = Time::now();
    // First, so that a signal during the start is not lost.
    let mut signals = Signals::subscribe().map_err(failed)?;
    let plane = plane::new(&config);
    let control = Control::start(&config, path, start_time, &plane).await;
    let done = match control {
        Ok(mut control) => {
            let done = watch::watch(
                &mut control.supervisor,
                &mut signals,
                &plane,
                &control.reload,
                log,
            )
            .await;
            drain::drain(&control.reporter, control.membership.as_ref(), &mut signals).await;
            // The data plane stops first, while metrics can still be read.
            plane::stop(plane).await;
            // After a failure the restarted container continues with the connection.
            if let Some(nsm) = control.nsm.filter(|_| done.is_ok()) {
                nsm.leave(LEAVE_LIMIT).await;
            }
            done
        }
        Err(failure) => {
            plane::stop(plane).await;
            Err(failure)
        }
    };
    if done.is_ok() {
        info!("stopped");
    }
    done
}
