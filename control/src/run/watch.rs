//! The wait while a balancer runs: for a signal, or for a part that failed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cli::Failure;
use crate::log::Log;
use crate::supervise::Supervisor;
use tokio::sync::Notify;
use tokio::time::interval;
use tracing::info;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_dataplane::Plane;

use super::failed;
use super::signals::{Request, Signals};

/// Time between two checks of the workers and of the log's suppressed lines.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Follows signals until one asks to stop.
///
/// Errors: a task or a worker that ended.
pub(super) async fn watch(
    supervisor: &mut Supervisor,
    signals: &mut Signals,
    plane: &Arc<Plane>,
    reload: &Notify,
    log: &Log,
) -> Result<(), Failure> {
    let mut checks = interval(CHECK_INTERVAL);
    log.throttle();
    loop {
        tokio::select! {
            request = signals.next() => match request {
                Request::Stop(name) => {
                    info!("{name}: shutting down");
                    return Ok(());
                }
                Request::Reload => {
                    info!("SIGHUP: reading the configuration again");
                    reload.notify_one();
                }
                Request::LogEverything => log.trace(),
                Request::LogAsConfigured => log.configured(),
            },
            failure = supervisor.failure() => return Err(failed(failure)),
            _ = checks.tick() => {
                log.write_summaries(Instant::now());
                plane.healthy().map_err(failed)?;
            }
        }
    }
}
