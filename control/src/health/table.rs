//! The results of health checks: written by the checks, read by the publisher and the reports.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::{BackendCheck, CheckCount, CheckResult, Distribution};
use tokio::sync::watch;
use tokio::time::Instant;
use vl3lb_common::stats::Histogram;
use vl3lb_common::{Duration, Protocol};

use super::hold_off::{HoldOff, NewFlows};
use super::probe::Answer;
use super::tally::{Tally, Thresholds, Verdict};
use crate::config::{CheckKind, HealthCheck, PassiveCheck};

/// Upper bounds of the duration of a check, in microseconds.
pub const CHECK_BOUNDS: [u64; 12] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
];

/// The backend of a service that a check is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Of the service.
    pub protocol: Protocol,
    /// Of the service.
    pub service_port: u16,
    pub address: IpAddr,
    /// Of the backend.
    pub port: u16,
    /// The owner of the address: a verdict on one instance does not apply to the next.
    pub instance: Option<Arc<str>>,
}

/// How to check a target, and for which service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckSpec {
    pub(crate) service: Arc<str>,
    /// `None`: only the flows of clients count.
    pub(crate) check: Option<HealthCheck>,
    pub(crate) passive: Option<PassiveCheck>,
}

/// The verdict on a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub verdict: Verdict,
    /// The last check: `tcp connect refused (3 of 3)`. Empty before the first.
    pub why: String,
}

/// Findings by target; a target without checks has none.
pub type Findings = HashMap<Target, Finding>;

/// The results of all checks.
///
/// A backend keeps its counts while it is checked, also when its other settings change; a service keeps them
/// while one of its name is checked.
#[derive(Debug)]
pub struct HealthTable {
    notes: Mutex<Notes>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Notes {
    targets: HashMap<Target, Note>,
    /// `None` once a verdict or the targets changed.
    findings: Option<Arc<Findings>>,
    services: HashMap<Arc<str>, [Histogram<{ CHECK_BOUNDS.len() + 1 }>; CheckResult::COUNT]>,
}

#[derive(Debug)]
struct Note {
    spec: CheckSpec,
    tally: Tally,
    hold_off: HoldOff,
    last: Option<(Answer, Duration)>,
}

impl HealthTable {
    /// A table without targets.
    pub fn new() -> Self {
        Self {
            notes: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    /// Notified when a verdict changes.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// All findings, the same `Arc` while no verdict and no target changes.
    ///
    /// Cost: O(backends that are checked) after a change, else none.
    pub fn findings(&self) -> Arc<Findings> {
        let mut notes = self.lock();
        let Notes {
            targets, findings, ..
        } = &mut *notes;
        let findings = findings.get_or_insert_with(|| {
            let findings = targets.iter().map(|(target, note)| {
                let finding = Finding {
                    verdict: note.verdict(),
                    why: note.why(),
                };
                (target.clone(), finding)
            });
            Arc::new(findings.collect())
        });
        Arc::clone(findings)
    }

    /// The checks of each target, for reports. Cost: O(backends that are checked).
    pub fn checks(&self) -> HashMap<Target, BackendCheck> {
        let notes = self.lock();
        let checks = notes.targets.iter();
        checks
            .map(|(target, note)| (target.clone(), note.shown()))
            .collect()
    }

    /// Checks of the backends of `service` by result, including results that never occurred.
    pub fn results(&self, service: &str) -> Vec<CheckCount> {
        let notes = self.lock();
        let histograms = notes.services.get(service);
        let results = CheckResult::ALL.into_iter().enumerate();
        results
            .map(|(index, result)| {
                let (counts, sum) = histograms.map_or(([0; _], 0), |histograms| {
                    (histograms[index].counts(), histograms[index].sum_micros())
                });
                let checks_total = counts.iter().sum();
                let durations = || Distribution::from_buckets(&counts, &CHECK_BOUNDS, sum);
                CheckCount {
                    result,
                    checks_total,
                    duration_seconds: (checks_total > 0).then(durations),
                }
            })
            .collect()
    }

    /// Replaces the set of targets. Those that stay keep their counts.
    pub(crate) fn follow(&self, specs: &HashMap<Target, CheckSpec>) {
        let mut notes = self.lock();
        let Notes {
            targets,
            findings,
            services,
        } = &mut *notes;
        if targets.len() != specs.len() || !specs.keys().all(|target| targets.contains_key(target)) {
            *findings = None;
        }
        targets.retain(|target, _| specs.contains_key(target));
        for (target, spec) in specs {
            match targets.get_mut(target) {
                Some(note) => {
                    if note.spec.check.is_some() != spec.check.is_some() {
                        // Results of checks that are no more, or not yet.
                        (note.tally, note.last) = (Tally::default(), None);
                        *findings = None;
                    }
                    if spec.passive.is_none() && note.hold_off != HoldOff::default() {
                        note.hold_off = HoldOff::default();
                        *findings = None;
                    }
                    note.spec.clone_from(spec);
                }
                None => {
                    let note = Note {
                        spec: spec.clone(),
                        tally: Tally::default(),
                        hold_off: HoldOff::default(),
                        last: None,
                    };
                    targets.insert(target.clone(), note);
                }
            }
        }
        let names: HashSet<&Arc<str>> = specs.values().map(|spec| &spec.service).collect();
        services.retain(|name, _| names.contains(name));
    }

    /// Records the result of a check; ignored if the target is no longer checked.
    pub(crate) fn record(&self, target: &Target, answer: Answer, took: Duration) {
        let mut notes = self.lock();
        let Notes {
            targets,
            findings,
            services,
        } = &mut *notes;
        let Some(note) = targets.get_mut(target) else {
            return;
        };
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let histograms = services.entry(Arc::clone(&note.spec.service)).or_default();
        histograms[answer.result as usize].observe(micros, &CHECK_BOUNDS);
        let Some(check) = &note.spec.check else {
            return;
        };
        let thresholds = Thresholds {
            rise: check.rise,
            fall: check.fall,
        };
        let turned = match answer.result {
            CheckResult::Error => false,
            result => note.tally.record(result == CheckResult::Ok, thresholds),
        };
        note.last = Some((answer, took));
        if turned {
            *findings = None;
        }
        drop(notes);
        if turned {
            self.changed.send_replace(());
        }
    }

    /// Records what new flows the backend has failed and answered since the last time; ignored without a passive check.
    pub(super) fn observe(&self, target: &Target, flows: NewFlows, now: Instant) {
        let mut notes = self.lock();
        let Notes {
            targets, findings, ..
        } = &mut *notes;
        let Some(note) = targets.get_mut(target) else {
            return;
        };
        let Some(rule) = &note.spec.passive else {
            return;
        };
        if note.hold_off.observe(flows, now, rule) {
            *findings = None;
            drop(notes);
            self.changed.send_replace(());
        }
    }

    /// The table is consistent after every step, so a panic elsewhere leaves it usable.
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for HealthTable {
    fn default() -> Self {
        Self::new()
    }
}

impl Note {
    fn verdict(&self) -> Verdict {
        match &self.spec.check {
            _ if self.hold_off.is_held() => Verdict::Down,
            Some(_) => self.tally.verdict(),
            None => Verdict::Up,
        }
    }

    /// The last check, or the flows of clients while they decide.
    fn why(&self) -> String {
        let passive = self.hold_off.why();
        if let Some(why) = passive.filter(|_| self.hold_off.is_held() || self.verdict() == Verdict::Up) {
            return why;
        }
        let Some((answer, _)) = &self.last else {
            return String::new();
        };
        let needed = self.tally.needed();
        let counted = self.tally.consecutive().min(needed);
        format!("{} ({counted} of {needed})", self.described(answer))
    }

    /// A result with its kind of check: `tcp connect refused`, `http unexpected: status 503, allowed 200-399`.
    fn described(&self, answer: &Answer) -> String {
        let kind = self.spec.check.as_ref().map(|check| &check.kind);
        let verb = if matches!(kind, Some(CheckKind::Tcp(_))) {
            " connect"
        } else {
            ""
        };
        format!("{}{verb} {}", self.kind(), answer.text)
    }

    fn kind(&self) -> &'static str {
        let check = self.spec.check.as_ref();
        check.map_or("passive", |check| check.kind.name())
    }

    fn shown(&self) -> BackendCheck {
        let last = self.last.as_ref();
        BackendCheck {
            kind: self.kind().to_owned(),
            on_hold: self.hold_off.why().filter(|_| self.hold_off.is_held()),
            last_result: last.map(|(answer, _)| answer.result),
            last_error: last
                .filter(|(answer, _)| answer.result != CheckResult::Ok)
                .map(|(answer, _)| self.described(answer)),
            duration_seconds: last.map(|(_, took)| took.as_secs_f64()),
            consecutive: self.tally.consecutive(),
            needed: self.tally.needed(),
        }
    }
}
