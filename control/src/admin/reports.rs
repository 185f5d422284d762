//! Reports for requests, built off the runtime's threads.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinError, spawn_blocking};

use crate::api::Report;
use crate::observe::report::Reporter;

/// Builds one report at a time, and shares it among all requests that waited for it. So many requests at
/// once cost two reports, and none of them holds up DNS, checks or probes.
#[derive(Debug, Clone)]
pub(super) struct Reports {
    reporter: Arc<Reporter>,
    pub(super) last: Arc<Mutex<Last>>,
}

/// When the last report was begun, and the report while somebody uses it.
#[derive(Debug, Default)]
pub(super) struct Last(Option<(Instant, Weak<Report>)>);

impl Reports {
    pub(super) fn new(reporter: Arc<Reporter>) -> Self {
        Self {
            reporter,
            last: Arc::default(),
        }
    }

    /// A report that was begun after this call. Errors: a panic while it was built.
    pub(super) async fn get(&self) -> Result<Arc<Report>, JoinError> {
        let asked = Instant::now();
        let last = Arc::clone(&self.last).lock_owned().await;
        if let Some((begun, report)) = &last.0
            && *begun >= asked
            && let Some(report) = report.upgrade()
        {
            return Ok(report);
        }
        let reporter = Arc::clone(&self.reporter);
        // The lock goes with the work, which does not end with a request that is given up.
        spawn_blocking(move || build(&reporter, last)).await
    }
}

fn build(reporter: &Reporter, mut last: OwnedMutexGuard<Last>) -> Arc<Report> {
    let begun = Instant::now();
    let report = Arc::new(reporter.report());
    last.0 = Some((begun, Arc::downgrade(&report)));
    report
}
