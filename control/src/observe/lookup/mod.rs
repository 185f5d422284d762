//! Looks up which backend a new flow would get: asks the workers, and explains their answers.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crossbeam::channel;
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::schedule::Scheduler;
use vl3lb_common::selection_query::{Selection, SelectionQuery};
use vl3lb_common::{BackendSlot, DropReason, Service, Snapshot};

use crate::api::{
    self, Backend, BackendState, Lookup, LookupCandidate, LookupClient, LookupResult, LookupStep, Report,
};
use crate::number::{age_seconds, flows};

/// Pause before the next try at a worker whose queue of queries is full.
const RETRY: Duration = Duration::from_millis(5);

/// The answer of each worker about a client of `service`; workers that do not answer within `timeout` are left out.
///
/// Blocks for `timeout` at most.
pub fn ask(
    dataplane: &dyn Dataplane,
    service: &Service,
    client: LookupClient,
    timeout: Duration,
) -> Vec<(u16, Selection)> {
    let deadline = Instant::now() + timeout;
    let workers = u16::try_from(dataplane.stats().len()).unwrap_or(u16::MAX);
    let answers: Vec<_> = (0..workers)
        .map(|worker| {
            let (answer, answers) = channel::bounded(1);
            let query = || SelectionQuery {
                service: service.slot,
                client: client.address,
                client_port: client.port.unwrap_or(0),
                answer: answer.clone(),
            };
            while !dataplane.query_selection(worker, query()) && Instant::now() + RETRY < deadline {
                std::thread::sleep(RETRY);
            }
            (worker, answers)
        })
        .collect();
    answers
        .into_iter()
        .filter_map(|(worker, answers)| Some((worker, answers.recv_deadline(deadline).ok()?)))
        .collect()
}

/// The inputs of an explanation.
#[derive(Debug)]
pub struct Facts<'a> {
    pub report: &'a Report,
    pub snapshot: &'a Snapshot,
    /// As shown, and as the workers use it.
    pub shown: &'a api::Service,
    pub service: &'a Service,
    pub client: LookupClient,
    pub answers: &'a [(u16, Selection)],
}

/// Explains the workers' answers. Pure.
pub fn explain(facts: &Facts<'_>) -> Lookup {
    let Facts { service, client, .. } = facts;
    let decisive = facts.decisive();
    let refusal = decisive.and_then(|(_, answer)| answer.choice.err());
    let backend = decisive.and_then(|(_, answer)| facts.endpoint(answer.choice.ok()?));
    let mut steps = Vec::new();
    facts.admission(refusal, &mut steps);
    if !matches!(
        refusal,
        Some(DropReason::SourceNotAllowed | DropReason::BackendLoop)
    ) {
        facts.selection(decisive.map(|(_, answer)| answer), &mut steps);
    }
    Lookup {
        service: service.name.clone(),
        protocol: service.protocol,
        client: client.address,
        client_port: client.port,
        backend,
        refused: refusal.map(|reason| reason.name().to_owned()),
        worker: decisive.map(|(worker, _)| worker),
        steps,
        candidates: facts.candidates(),
    }
}

impl Facts<'_> {
    /// The answer that counts: of the worker that opens the flow. `None` if that, or its choice, depends on the client's
    /// port, which is not given.
    fn decisive(&self) -> Option<(u16, &Selection)> {
        let by_port = self.client.port.is_none() && self.service.affinity.is_zero();
        // Refused whatever the port is.
        let refused = |answer: &Selection| {
            matches!(
                answer.choice,
                Err(DropReason::SourceNotAllowed | DropReason::NoBackend)
            )
        };
        if by_port {
            let (worker, answer) = self.answers.first()?;
            let is_only = self.answers.len() == 1 && self.service.scheduler != Scheduler::Maglev;
            return (is_only || refused(answer)).then_some((*worker, answer));
        }
        let owner = self.answers.iter().find(|(_, answer)| answer.owner);
        owner.map(|(worker, answer)| (*worker, answer))
    }

    fn endpoint(&self, slot: BackendSlot) -> Option<SocketAddr> {
        let backend = self.snapshot.backend(slot)?;
        Some(SocketAddr::new(backend.address, backend.port))
    }

    fn named(&self, slot: BackendSlot) -> String {
        let endpoint = self.endpoint(slot);
        endpoint.map_or_else(
            || "a backend that has left".to_owned(),
            |endpoint| endpoint.to_string(),
        )
    }

    /// Whether the client may use the service.
    fn admission(&self, refusal: Option<DropReason>, steps: &mut Vec<LookupStep>) {
        let ranges = &self.shown.source_ranges;
        let address = self.client.address;
        let within = ranges.iter().find(|range| range.contains(&address));
        steps.push(match (refusal, within) {
            (Some(DropReason::SourceNotAllowed), _) => step(
                "source_ranges",
                LookupResult::Refuses,
                format!("{address} is in none of {}", listed(ranges.iter())),
            ),
            (_, Some(range)) => step(
                "source_ranges",
                LookupResult::Pass,
                format!("{range} contains the client"),
            ),
            (_, None) => step(
                "source_ranges",
                LookupResult::Pass,
                "all clients are allowed".to_owned(),
            ),
        });
        if refusal == Some(DropReason::BackendLoop) {
            steps.push(step(
                "backend_loop",
                LookupResult::Refuses,
                format!(
                    "{} is a backend of the service, which would answer itself",
                    self.client
                ),
            ));
        }
    }

    /// Affinity, scheduler, limit and next hop; `answer` is the decisive one.
    fn selection(&self, answer: Option<&Selection>, steps: &mut Vec<LookupStep>) {
        let kept = self.affinity(answer, steps);
        let scheduler = self.service.scheduler.name();
        let Some(answer) = answer else {
            steps.push(step("scheduler", LookupResult::Pass, self.undecided()));
            return;
        };
        let choice = match answer.choice {
            Err(DropReason::NoBackend) => {
                let family = if self.client.address.is_ipv4() {
                    "IPv4"
                } else {
                    "IPv6"
                };
                let text = format!("{scheduler}: no {family} backend takes new flows");
                steps.push(step("scheduler", LookupResult::Refuses, text));
                return;
            }
            choice => choice,
        };
        let by_affinity = kept.filter(|&slot| choice == Ok(slot) || is_next_hop(choice));
        let first = by_affinity.or(answer.scheduled);
        if by_affinity.is_none()
            && let Some(first) = answer.scheduled
        {
            let how = match self.service.scheduler {
                Scheduler::Maglev if self.service.affinity.is_zero() => {
                    "by the hash of the client's address and port"
                }
                Scheduler::Maglev => "by the hash of the client's address",
                Scheduler::RoundRobin => "the next one of this worker's turn",
                Scheduler::LeastConnections => "the fewest flows of this worker for its weight",
            };
            let text = format!("{scheduler}: {}, {how}", self.named(first));
            steps.push(step("scheduler", LookupResult::Decides, text));
        }
        self.limit(first, choice, steps);
        match choice {
            Err(reason @ (DropReason::NeighborUnresolved | DropReason::NoRoute)) => {
                steps.push(step(
                    "next_hop",
                    LookupResult::Refuses,
                    reason.remedy().to_owned(),
                ));
            }
            Ok(slot) => steps.push(step(
                "next_hop",
                LookupResult::Pass,
                format!("{} can be reached", self.named(slot)),
            )),
            Err(_) => {}
        }
    }

    /// The affinity entry; the backend that it names if flows may go there.
    fn affinity(&self, answer: Option<&Selection>, steps: &mut Vec<LookupStep>) -> Option<BackendSlot> {
        let Some(seconds) = self.shown.affinity_seconds else {
            steps.push(step(
                "affinity",
                LookupResult::Pass,
                "the service has none".to_owned(),
            ));
            return None;
        };
        let time = age_seconds(seconds);
        let (result, text) = match answer.and_then(|answer| answer.kept) {
            None => (
                LookupResult::Pass,
                format!("no entry: the client has had no flow for {time}"),
            ),
            Some((slot, false)) => (
                LookupResult::Pass,
                format!("the client had {}, which takes no new flows", self.named(slot)),
            ),
            Some((slot, true))
                if answer.is_some_and(|answer| answer.choice == Ok(slot) || is_next_hop(answer.choice)) =>
            {
                (
                    LookupResult::Decides,
                    format!(
                        "the client keeps {} until {time} after its last flow",
                        self.named(slot)
                    ),
                )
            }
            Some((slot, true)) => (
                LookupResult::Pass,
                format!("the client had {}, which is full", self.named(slot)),
            ),
        };
        steps.push(step("affinity", result, text));
        answer?
            .kept
            .filter(|&(_, takes_flows)| takes_flows)
            .map(|(slot, _)| slot)
    }

    /// The limit of flows per backend.
    fn limit(
        &self,
        first: Option<BackendSlot>,
        choice: Result<BackendSlot, DropReason>,
        steps: &mut Vec<LookupStep>,
    ) {
        let Some(limit) = self.service.max_flows else {
            return;
        };
        let rule = format!("maxFlowsPerBackend {limit}");
        steps.push(match choice {
            Err(DropReason::BackendsFull) => step(
                "limit",
                LookupResult::Refuses,
                format!("{rule}: all backends are full"),
            ),
            Ok(slot) if first.is_some_and(|first| first != slot) => step(
                "limit",
                LookupResult::Decides,
                format!("{rule}: that one is full, so {} gets the flow", self.named(slot)),
            ),
            _ => step("limit", LookupResult::Pass, format!("{rule}: there is room")),
        });
    }

    /// What the scheduler would do, as the client's port is not known.
    fn undecided(&self) -> String {
        let scheduler = self.service.scheduler.name();
        if self.answers.is_empty() {
            return format!("{scheduler}: no worker answered");
        }
        if self.service.scheduler == Scheduler::Maglev {
            return format!(
                "{scheduler}: depends on the client's port, by the shares below; give it as ADDRESS:PORT"
            );
        }
        let of = |(worker, answer): &(u16, Selection)| match answer.choice {
            Ok(slot) => format!("worker {worker} {}", self.named(slot)),
            Err(reason) => format!("worker {worker} {}", reason.name()),
        };
        let each = listed(self.answers.iter().map(of));
        format!("{scheduler}: depends on the worker, which the client's port decides: {each}")
    }

    /// All backends of the service of the client's family.
    fn candidates(&self) -> Vec<LookupCandidate> {
        let pool = self.service.pool(self.client.address);
        let is_v4 = |address: IpAddr| address.is_ipv4() == self.client.address.is_ipv4();
        let backends = self.snapshot.backend_slots.iter().flatten();
        let own: Vec<_> = backends
            .filter(|backend| backend.service == self.service.slot && is_v4(backend.address))
            .collect();
        let taking = own.iter().filter(|backend| pool.contains(backend.slot));
        let sum: f64 = taking.map(|backend| f64::from(backend.weight)).sum();
        let shown = |backend: &&Backend| backend.service == self.service.name && is_v4(backend.address);
        self.report
            .backends
            .iter()
            .filter(shown)
            .map(|backend| {
                let same = own
                    .iter()
                    .filter(|own| SocketAddr::new(own.address, own.port) == backend.endpoint());
                let weight = same
                    .filter(|own| pool.contains(own.slot))
                    .map(|own| own.weight)
                    .next();
                let share_ratio = weight.map(|weight| f64::from(weight) / sum);
                LookupCandidate {
                    backend: backend.endpoint(),
                    state: backend.state,
                    weight: backend.weight,
                    share_ratio,
                    flows: backend.flows,
                    note: self.note(backend, share_ratio.is_some()),
                }
            })
            .collect()
    }

    fn note(&self, backend: &Backend, takes_flows: bool) -> String {
        let full = self
            .service
            .max_flows
            .filter(|limit| backend.flows >= u64::from(limit.get()));
        match (takes_flows, backend.state) {
            (true, _) if full.is_some() => format!("full: {}", flows(backend.flows)),
            (true, _) => backend.note(self.report.time),
            (false, _) if backend.weight == 0 => "weight 0: gets no new flows".to_owned(),
            (false, BackendState::Up) if backend.backup => {
                "backup: gets flows while no other backend does".to_owned()
            }
            (false, BackendState::Unknown) => "not checked yet: others are up".to_owned(),
            (false, _) => backend.note(self.report.time),
        }
    }
}

const fn is_next_hop(choice: Result<BackendSlot, DropReason>) -> bool {
    matches!(choice, Err(DropReason::NeighborUnresolved | DropReason::NoRoute))
}

fn step(check: &str, result: LookupResult, text: String) -> LookupStep {
    LookupStep {
        check: check.to_owned(),
        result,
        text,
    }
}

fn listed(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
