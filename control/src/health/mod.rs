//! Health checks of the backends of services that configure them.
//!
//! [`Checker`] runs one task for each backend of the desired set. Results are counted in the [`HealthTable`], by pure
//! rules (`tally.rs`); a changed verdict wakes the publisher, and the state decides what it means. Checks know nothing
//! about flows, weights or drains.
//!
//! New backends are checked at once, a thousand within a quarter of a second, and then spread evenly over the interval
//! by their hash, so that checks never come in bursts. While the balancer's own interface is down, nothing is checked:
//! failures would say nothing about the backends.
//!
//! [`PassiveChecker`] does the same by the flows of clients: a backend that fails them is held off (`hold_off.rs`). A
//! backend is up if neither says that it is down.
//!
//! Each check has its own socket and its own limit, so thousands of backends that do not answer delay no other check.
//! Where the process may not have a descriptor for each backend, those that answered last come first (`sockets.rs`).

mod hold_off;
mod passive;
mod probe;
mod sockets;
mod table;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use vl3lb_common::Duration;

use crate::api::CheckResult;
use crate::config::HealthCheck;
use crate::discovery::{BackendSpec, Desired, DesiredReceiver, Eligibility, ServiceSpec};
use crate::network::NetworkReceiver;

pub use passive::PassiveChecker;
pub use probe::{Answer, NetworkProbe, Probe};
pub use sockets::Sockets;
pub use table::{CHECK_BOUNDS, Finding, Findings, HealthTable, Target};
pub use tally::Verdict;

pub(crate) use table::CheckSpec;

/// Time between the first checks of two new backends; less if all of them would take longer than an interval.
const FIRST_APART: Duration = Duration::from_micros(250);

/// Checks backends for as long as it runs.
///
/// Cost: a task of about a kilobyte per backend, and a socket while one waits for its answer.
#[derive(Debug)]
pub struct Checker<P> {
    desired: DesiredReceiver,
    table: Arc<HealthTable>,
    asking: Asking<P>,
    running: HashMap<Target, Running>,
    tasks: JoinSet<()>,
}

/// State that all checks share.
#[derive(Debug, Clone)]
struct Asking<P> {
    probe: P,
    network: NetworkReceiver,
    sockets: Arc<Sockets>,
}

#[derive(Debug)]
struct Running {
    check: HealthCheck,
    task: AbortHandle,
}

impl<P: Probe> Checker<P> {
    /// A checker of the `desired` backends by `probe`, with as many `sockets` at the same time, while the `network` is up.
    pub fn new(
        probe: P,
        sockets: Sockets,
        desired: DesiredReceiver,
        network: NetworkReceiver,
    ) -> (Self, Arc<HealthTable>) {
        let table = Arc::new(HealthTable::new());
        let checker = Self {
            desired,
            table: Arc::clone(&table),
            asking: Asking {
                probe,
                network,
                sockets: Arc::new(sockets),
            },
            running: HashMap::new(),
            tasks: JoinSet::new(),
        };
        (checker, table)
    }

    /// Follows the desired set until its source ends. Dropping the future ends all checks.
    pub async fn run(mut self) {
        loop {
            self.follow();
            tokio::select! {
                changed = self.desired.changed() => {
                    if changed.is_err() { return; }
                }
                Some(ended) = self.tasks.join_next() => {
                    // A check ends only by being cancelled, or by a defect that must not stay unseen.
                    if let Err(error) = ended && error.is_panic() {
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
            }
        }
    }

    /// Starts and cancels checks to match the desired set.
    fn follow(&mut self) {
        let Some(desired) = self.desired.borrow_and_update().clone() else {
            return;
        };
        let specs = specs(&desired);
        self.running.retain(|target, running| {
            let check = specs.get(target).and_then(|spec| spec.check.as_ref());
            let unchanged = check.is_some_and(|check| *check == running.check);
            if !unchanged {
                running.task.abort();
            }
            unchanged
        });
        self.table.follow(&specs);
        let new: Vec<_> = specs
            .into_iter()
            .filter(|(target, _)| !self.running.contains_key(target))
            .filter_map(|(target, spec)| Some((target, spec.check?)))
            .collect();
        let count = u32::try_from(new.len()).unwrap_or(u32::MAX);
        let spread = FIRST_APART.saturating_mul(count);
        for (target, check) in new {
            let task = self.tasks.spawn(follow_one(
                self.asking.clone(),
                Arc::clone(&self.table),
                target.clone(),
                check.clone(),
                spread,
            ));
            self.running.insert(target, Running { check, task });
        }
    }
}

/// The backends to check: all but those that get no flows anyway.
fn specs(desired: &Desired) -> HashMap<Target, CheckSpec> {
    let mut specs = HashMap::new();
    for service in &desired.services {
        let (check, passive) = (&service.health_check, &service.rules.passive_check);
        if check.is_none() && passive.is_none() {
            continue;
        }
        let name: Arc<str> = service.name.as_str().into();
        for backend in service
            .backends
            .iter()
            .filter(|backend| backend.eligibility != Eligibility::Dead)
        {
            let spec = CheckSpec {
                service: Arc::clone(&name),
                check: check.clone(),
                passive: passive.clone(),
            };
            specs.insert(Target::of(service, backend), spec);
        }
    }
    specs
}

impl Target {
    /// A backend of a service.
    pub fn of(service: &ServiceSpec, backend: &BackendSpec) -> Self {
        Self {
            protocol: service.protocol,
            service_port: service.port,
            address: backend.address,
            port: backend.port,
            instance: backend.instance.clone(),
        }
    }

    /// Its offset within an interval, 0 to 1: spread evenly over targets, and constant for each.
    fn offset(&self) -> f64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        #[expect(clippy::cast_precision_loss, reason = "a part of 2^64 is as good")]
        let offset = hasher.finish() as f64 / u64::MAX as f64;
        offset
    }
}

/// Checks one backend for ever: once within `spread` from now, then at its offset in each interval.
async fn follow_one<P: Probe>(
    asking: Asking<P>,
    table: Arc<HealthTable>,
    target: Target,
    check: HealthCheck,
    spread: Duration,
) {
    let address = SocketAddr::new(target.address, check.kind.port().unwrap_or(target.port));
    let start = Instant::now();
    let mut answered = false;
    let mut ask = async || {
        if let Some((answer, took)) = asking.ask(&check, address, answered).await {
            answered = answer.result == CheckResult::Ok;
            table.record(&target, answer, took);
        }
    };
    sleep_until(start + spread.min(check.interval).mul_f64(target.offset())).await;
    ask().await;
    let mut ticks = interval_at(start + check.interval.mul_f64(target.offset()), check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        ask().await;
    }
}

impl<P: Probe> Asking<P> {
    /// One check and its duration; `None` without a network. `answered`: the last one succeeded.
    async fn ask(
        &self,
        check: &HealthCheck,
        address: SocketAddr,
        answered: bool,
    ) -> Option<(Answer, Duration)> {
        let _socket = self.sockets.acquire(answered).await?;
        if !self.is_connected() {
            return None;
        }
        let asked = Instant::now();
        let answer = self.probe.ask(&check.kind, address, check.timeout).await;
        let took = asked.elapsed();
        // The network may have gone meanwhile.
        (answer == Answer::good() || self.is_connected()).then_some((answer, took))
    }

    fn is_connected(&self) -> bool {
        is_connected(&self.network)
    }
}

/// Whether the balancer has a network: without one, failures say nothing about backends.
fn is_connected(network: &NetworkReceiver) -> bool {
    let network = network.borrow();
    network
        .as_ref()
        .is_some_and(|network| network.usable() && network.is_up())
}
