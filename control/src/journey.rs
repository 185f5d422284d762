//! The whole way of a desired set, for fuzz targets: reconciled, published, and shown in report and metrics.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use vl3lb_common::Timestamp;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::stats::WorkerStats;

use crate::config::{ADDRESS_MARK, Metrics};
use crate::discovery::Desired;
use crate::metrics;
use crate::network::NetworkView;
use crate::observe::report::fixture::{self, Live};
use crate::publisher::Current;
use crate::state::{Inputs, State, TimePoint, Update};

/// Snapshots until a set is at rest: changes, what was freed, what got the freed slots.
const ROUNDS: u64 = 8;

/// A balancer whose only worker uses each snapshot at once.
pub(crate) struct Journey {
    state: State,
    network: Arc<NetworkView>,
    worker: Arc<WorkerStats>,
    seconds: u64,
    live: Live,
}

impl Journey {
    pub(crate) fn new(nat_ports: NatPorts) -> Self {
        Self {
            state: State::new(nat_ports),
            network: Arc::new(fixture::network()),
            worker: Arc::default(),
            seconds: 1,
            live: fixture::live(1),
        }
    }

    /// Time passes, of which drains end.
    pub(crate) const fn wait(&mut self, seconds: u64) {
        self.seconds += seconds;
    }

    /// Takes `desired` the whole way, and returns what was published last, if anything changed.
    ///
    /// # Panics
    ///
    /// When a step cannot carry what an earlier one accepted, or when the same set changes something for ever.
    pub(crate) fn take(&mut self, desired: &Desired) -> Option<Update> {
        let mut last = None;
        for _ in 0..ROUNDS {
            let Some(update) = self.update(desired) else {
                return last;
            };
            self.show(&update);
            self.worker.generation.set(update.snapshot.generation.0);
            last = Some(update);
        }
        panic!("the same set changes something for ever: {desired:?}");
    }

    fn update(&mut self, desired: &Desired) -> Option<Update> {
        self.state.update(Inputs {
            desired,
            network: &self.network,
            health: &Arc::default(),
            now: TimePoint {
                monotonic: Timestamp(self.seconds * 1_000_000_000),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds),
            },
            workers: &[Arc::clone(&self.worker)],
        })
    }

    /// In JSON and as metrics, for which the names of services have to be good.
    fn show(&self, update: &Update) {
        self.live.current.send_replace(Some(Arc::new(Current {
            snapshot: Arc::clone(&update.snapshot),
            directory: Arc::clone(&update.directory),
            published: SystemTime::UNIX_EPOCH,
            applied_in: Duration::ZERO,
        })));
        let report = self.live.reporter.report();
        let names = report.services.iter().map(|service| service.name.as_str());
        let mut seen = HashSet::new();
        for name in names {
            let (shared, _) = name.split_once(ADDRESS_MARK).unwrap_or((name, ""));
            let is_good = shared.split('.').count() <= 2 && shared.split('.').all(is_label);
            assert!(is_good, "{name:?} is no DNS label, nor one with a namespace");
            assert!(seen.insert(name), "two services are called {name}");
        }
        serde_json::to_string(&report.status).expect("the status in JSON");
        serde_json::to_string(&report.services).expect("the services in JSON");
        serde_json::to_string(&report.backends).expect("the backends in JSON");
        let text = metrics::render(Arc::new(report), Metrics::default()).expect("the metrics");
        let is_sample =
            |line: &str| line.starts_with("# ") || line.starts_with("vl3lb_") || line.starts_with("process_");
        let strange = text.lines().find(|line| !is_sample(line));
        assert_eq!(strange, None, "a line of the metrics");
        assert!(text.ends_with("# EOF\n"));
    }
}

fn is_label(name: &str) -> bool {
    let is_good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(is_good)
}
