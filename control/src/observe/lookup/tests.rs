use std::num::NonZeroU32;
use std::sync::Arc;

use vl3lb_common::schedule::Pool;
use vl3lb_common::{Generation, Timestamp};

use super::*;
use crate::observe::report::fixture;

const FIRST: BackendSlot = BackendSlot(0);
const SECOND: BackendSlot = BackendSlot(1);
const LEAVING: BackendSlot = BackendSlot(2);

/// The service `finance` with two backends that take flows, of weights 300 and 100, and one that leaves.
struct World {
    report: Report,
    snapshot: Snapshot,
    service: Service,
    answers: Vec<(u16, Selection)>,
    client: &'static str,
}

fn backend(slot: BackendSlot, weight: u16, state: vl3lb_common::BackendState) -> vl3lb_common::Backend {
    vl3lb_common::Backend {
        slot,
        since: Generation(1),
        service: vl3lb_common::ServiceSlot(0),
        address: format!("172.16.1.{}", slot.0 + 2).parse().unwrap(),
        port: 8081,
        protocol: vl3lb_common::Protocol::Tcp,
        weight,
        state,
        mac: None,
    }
}

impl World {
    fn new(scheduler: Scheduler, affinity: bool) -> Self {
        use vl3lb_common::BackendState::{Active, Draining};
        let mut report = fixture::report();
        let backends = [
            backend(FIRST, 300, Active),
            backend(SECOND, 100, Active),
            backend(LEAVING, 100, Draining { since: Timestamp(1) }),
        ];
        let shown = report
            .backends
            .iter()
            .find(|backend| backend.service == "finance")
            .unwrap()
            .clone();
        report.backends = backends
            .iter()
            .map(|backend| Backend {
                address: backend.address,
                weight: backend.weight,
                state: if backend.slot == LEAVING {
                    BackendState::Draining
                } else {
                    BackendState::Up
                },
                check: None,
                next_hop: None,
                drain: None,
                flows: 7,
                ..shown.clone()
            })
            .collect();
        for service in &mut report.services {
            service.affinity_seconds = affinity.then_some(10_800.0);
        }
        let mut snapshot = Snapshot::clone(&fixture::current(fixture::directory()).snapshot);
        let service = Service {
            slot: vl3lb_common::ServiceSlot(0),
            name: "finance".to_owned(),
            protocol: vl3lb_common::Protocol::Tcp,
            port: 8080,
            scheduler,
            affinity: Duration::from_secs(if affinity { 10_800 } else { 0 }),
            source_ranges: Default::default(),
            client_address: vl3lb_common::ClientAddress::None,
            drain: Duration::from_secs(60),
            max_flows: None,
            v4: Arc::new(Pool::build(scheduler, &backends)),
            v6: Arc::new(Pool::Empty),
            backend_sockets: Arc::default(),
        };
        snapshot.backend_slots = backends.map(Some).to_vec();
        Self {
            report,
            snapshot,
            service,
            answers: vec![(0, answer(FIRST))],
            client: "172.16.1.100:40000",
        }
    }

    fn explain(&self) -> Lookup {
        explain(&Facts {
            report: &self.report,
            snapshot: &self.snapshot,
            shown: self
                .report
                .services
                .iter()
                .find(|service| service.name == "finance")
                .unwrap(),
            service: &self.service,
            client: self.client.parse().unwrap(),
            answers: &self.answers,
        })
    }
}

/// The owner's answer, by the scheduler.
const fn answer(slot: BackendSlot) -> Selection {
    Selection {
        owner: true,
        kept: None,
        scheduled: Some(slot),
        choice: Ok(slot),
    }
}

/// `check result: text` of each step.
fn steps(lookup: &Lookup) -> Vec<String> {
    let step = |step: &LookupStep| format!("{} {}: {}", step.check, step.result.name(), step.text);
    lookup.steps.iter().map(step).collect()
}

#[test]
fn the_schedulers_choice_is_explained_with_shares() {
    let world = World::new(Scheduler::Maglev, false);
    let lookup = world.explain();
    assert_eq!(lookup.backend, Some("172.16.1.2:8081".parse().unwrap()));
    assert_eq!((lookup.worker, &lookup.refused), (Some(0), &None));
    assert_eq!(
        steps(&lookup),
        [
            "source_ranges pass: 172.16.0.0/16 contains the client",
            "affinity pass: the service has none",
            "scheduler decides: maglev: 172.16.1.2:8081, by the hash of the client's address and port",
            "next_hop pass: 172.16.1.2:8081 can be reached",
        ]
    );
    let shares: Vec<_> = lookup
        .candidates
        .iter()
        .map(|candidate| candidate.share_ratio)
        .collect();
    assert_eq!(shares, [Some(0.75), Some(0.25), None]);
    assert_eq!(lookup.candidates[2].state, BackendState::Draining);
}

#[test]
fn affinity_is_named_with_what_it_leads_to() {
    let mut world = World::new(Scheduler::RoundRobin, true);
    let affinity = |world: &World| steps(&world.explain())[1].clone();
    assert_eq!(
        affinity(&world),
        "affinity pass: no entry: the client has had no flow for 3h00m"
    );
    let kept = |slot, takes_flows| Selection {
        kept: Some((slot, takes_flows)),
        ..answer(SECOND)
    };
    world.answers = vec![(0, kept(SECOND, true))];
    assert_eq!(
        affinity(&world),
        "affinity decides: the client keeps 172.16.1.3:8081 until 3h00m after its last flow"
    );
    assert!(world.explain().steps.iter().all(|step| step.check != "scheduler"));
    world.answers = vec![(0, kept(LEAVING, false))];
    assert_eq!(
        affinity(&world),
        "affinity pass: the client had 172.16.1.4:8081, which takes no new flows"
    );
    assert!(world.explain().steps.iter().any(|step| step.check == "scheduler"));
    world.service.max_flows = NonZeroU32::new(7);
    world.answers = vec![(0, kept(FIRST, true))];
    assert_eq!(
        affinity(&world),
        "affinity pass: the client had 172.16.1.2:8081, which is full"
    );
}

#[test]
fn a_full_backend_is_passed_over_and_said_so() {
    let mut world = World::new(Scheduler::LeastConnections, false);
    world.service.max_flows = NonZeroU32::new(7);
    world.answers = vec![(
        0,
        Selection {
            choice: Ok(SECOND),
            ..answer(FIRST)
        },
    )];
    let lookup = world.explain();
    assert_eq!(lookup.backend, Some("172.16.1.3:8081".parse().unwrap()));
    assert!(steps(&lookup).contains(
        &"limit decides: maxFlowsPerBackend 7: that one is full, so 172.16.1.3:8081 gets the flow".to_owned()
    ));
    assert_eq!(lookup.candidates[0].note, "full: 7 flows");
    world.answers = vec![(
        0,
        Selection {
            choice: Err(DropReason::BackendsFull),
            ..answer(FIRST)
        },
    )];
    let full = world.explain();
    assert_eq!(
        (full.backend, full.refused.as_deref()),
        (None, Some("backends_full"))
    );
}

#[test]
fn refusals_end_with_the_check_that_refuses() {
    let refused = |reason: DropReason| {
        let mut world = World::new(Scheduler::Maglev, false);
        world.client = "10.0.0.1:40000";
        world.answers = vec![(
            0,
            Selection {
                choice: Err(reason),
                ..answer(FIRST)
            },
        )];
        let lookup = world.explain();
        assert_eq!(lookup.refused.as_deref(), Some(reason.name()));
        let last = lookup.steps.last().unwrap();
        assert_eq!(last.result, LookupResult::Refuses, "{lookup:?}");
        (last.check.clone(), last.text.clone())
    };
    let (check, text) = refused(DropReason::SourceNotAllowed);
    assert_eq!(check, "source_ranges");
    assert_eq!(text, "10.0.0.1 is in none of 172.16.0.0/16, 2001:db8::/32");
    assert_eq!(refused(DropReason::BackendLoop).0, "backend_loop");
    assert_eq!(
        refused(DropReason::NoBackend).1,
        "maglev: no IPv4 backend takes new flows"
    );
    assert_eq!(refused(DropReason::NeighborUnresolved).0, "next_hop");
}

#[test]
fn without_a_port_only_what_does_not_depend_on_it_is_decided() {
    let undecided = |scheduler| {
        let mut world = World::new(scheduler, false);
        world.client = "172.16.1.100";
        world.answers = vec![
            (0, answer(FIRST)),
            (
                1,
                Selection {
                    owner: false,
                    ..answer(SECOND)
                },
            ),
        ];
        let lookup = world.explain();
        assert_eq!((lookup.backend, lookup.worker), (None, None));
        lookup.steps.last().unwrap().text.clone()
    };
    assert!(undecided(Scheduler::Maglev).contains("depends on the client's port"));
    assert!(undecided(Scheduler::RoundRobin).ends_with("worker 0 172.16.1.2:8081, worker 1 172.16.1.3:8081"));
    // With affinity, and with one worker by turns, it is decided.
    for (scheduler, affinity) in [(Scheduler::Maglev, true), (Scheduler::RoundRobin, false)] {
        let mut world = World::new(scheduler, affinity);
        world.client = "172.16.1.100";
        assert_eq!(
            world.explain().backend,
            Some("172.16.1.2:8081".parse().unwrap()),
            "{scheduler:?}"
        );
    }
}

#[test]
fn the_worker_that_opens_the_flow_has_the_say() {
    let mut world = World::new(Scheduler::RoundRobin, false);
    world.answers = vec![
        (
            0,
            Selection {
                owner: false,
                ..answer(SECOND)
            },
        ),
        (1, answer(FIRST)),
    ];
    let lookup = world.explain();
    assert_eq!(
        (lookup.worker, lookup.backend),
        (Some(1), Some("172.16.1.2:8081".parse().unwrap()))
    );
}

#[test]
fn workers_are_asked_and_silent_ones_are_left_out() {
    let live = fixture::live(2);
    *live.recorder.selections.lock().unwrap() = vec![answer(FIRST)];
    let world = World::new(Scheduler::RoundRobin, false);
    let client = "172.16.1.100:40000".parse().unwrap();
    let answers = ask(
        &*live.reporter.dataplane(),
        &world.service,
        client,
        Duration::from_millis(50),
    );
    assert_eq!(answers, [(0, answer(FIRST))]);
}
