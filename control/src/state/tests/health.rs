//! What health checks mean for backends and their services.

use super::*;
use crate::config::HealthCheck;
use crate::health::{Finding, Target, Verdict};

/// Backends of `finance`, whose health is checked.
fn checked(backends: &[(u8, Eligibility)]) -> Desired {
    let mut desired = pods(
        &backends
            .iter()
            .map(|&(host, eligibility)| (host, "a", eligibility))
            .collect::<Vec<_>>(),
    );
    changed(&mut desired, 0).health_check = Some(HealthCheck::tcp());
    desired
}

pub(super) fn all(hosts: &[u8]) -> Desired {
    checked(
        &hosts
            .iter()
            .map(|&host| (host, Eligibility::NewFlows))
            .collect::<Vec<_>>(),
    )
}

fn target(host: u8) -> Target {
    Target {
        protocol: Protocol::Tcp,
        service_port: 8080,
        address: address(host),
        port: 8081,
        instance: Some("a".into()),
    }
}

impl World {
    pub(super) fn find(&mut self, host: u8, verdict: Verdict) {
        let why = match verdict {
            Verdict::Unknown => "",
            Verdict::Up => "tcp connect ok (2 of 2)",
            Verdict::Down => "tcp connect refused (3 of 3)",
        };
        let why = why.to_owned();
        Arc::make_mut(&mut self.health).insert(target(host), Finding { verdict, why });
    }

    pub(super) fn events(&self) -> Vec<String> {
        let changes = &self.last.as_ref().unwrap().changes;
        changes.events.iter().map(Event::to_string).collect()
    }

    pub(super) fn hosts(&self) -> Vec<u8> {
        let slots = self.eligible();
        (2..10)
            .filter(|&host| self.slot(host).is_some_and(|slot| slots.contains(&slot)))
            .collect()
    }
}

#[test]
fn backends_that_are_up_are_preferred() {
    use Verdict::{Down, Unknown, Up};
    for (what, findings, want) in [
        ("nobody has answered: all", [None, None, None], &[2, 3, 4][..]),
        ("one is up: it alone", [Some(Up), None, Some(Unknown)], &[2]),
        ("two are up", [Some(Up), Some(Up), None], &[2, 3]),
        (
            "one is down, the others have not answered",
            [Some(Down), None, None],
            &[3, 4],
        ),
        ("down and up", [Some(Down), Some(Up), None], &[3]),
        ("all are down: nobody", [Some(Down), Some(Down), Some(Down)], &[]),
    ] {
        let mut world = World::new();
        world.network.next_hops = NextHops::new(Link::RawIp, 1, Vec::new(), [].into());
        for (host, verdict) in (2..).zip(findings) {
            if let Some(verdict) = verdict {
                world.find(host, verdict);
            }
        }
        assert!(world.update(&all(&[2, 3, 4])), "{what}");
        assert_eq!(world.hosts(), want, "{what}");
        assert!(!world.update(&all(&[2, 3, 4])), "{what}: stable");
    }
}

#[test]
fn a_dead_backend_keeps_its_slot() {
    let mut world = World::new();
    world.find(2, Verdict::Up);
    world.find(3, Verdict::Up);
    world.update(&all(&[2, 3]));
    let slot = world.slot(2).unwrap();
    world.set_flows(2, 5);
    for _ in 0..3 {
        world.find(2, Verdict::Down);
        assert!(world.update(&all(&[2, 3])));
        assert_eq!(world.state_of(2), Some(BackendState::Down));
        assert_eq!(
            world.events(),
            [
                "backend finance/172.16.1.2:8081 up -> down: tcp connect refused (3 of 3)",
                "service finance ok -> degraded: 1 of 2 backends up"
            ]
        );
        // Its flows have ended; the slot is not for others.
        world.set_flows(2, 0);
        assert!(!world.update(&all(&[2, 3])));
        assert!(!world.state.is_draining());
        world.find(2, Verdict::Up);
        assert!(world.update(&all(&[2, 3])));
        assert_eq!(
            (world.slot(2), world.state_of(2)),
            (Some(slot), Some(BackendState::Active))
        );
        assert_eq!(
            world.events(),
            [
                "backend finance/172.16.1.2:8081 down -> up: tcp connect ok (2 of 2)",
                "service finance degraded -> ok: 2 of 2 backends up"
            ]
        );
    }
    let entry = world.directory().backend(slot).unwrap();
    assert_eq!(entry.transitions, 7);
}

#[test]
fn a_new_backend_gets_no_flows_before_its_first_finding() {
    let mut world = World::new();
    world.find(2, Verdict::Up);
    world.update(&all(&[2]));
    world.update(&all(&[2, 3]));
    assert_eq!(world.state_of(3), Some(BackendState::Unknown));
    assert_eq!(world.hosts(), [2]);
    world.find(3, Verdict::Up);
    world.update(&all(&[2, 3]));
    assert_eq!(world.hosts(), [2, 3]);
}

#[test]
fn findings_are_ignored_while_a_backend_drains() {
    let mut world = World::new();
    let (ready, unready) = (all(&[2]), checked(&[(2, Eligibility::ExistingFlows)]));
    world.find(2, Verdict::Up);
    world.update(&ready);
    world.set_flows(2, 5);
    world.update(&unready);
    for verdict in [Verdict::Down, Verdict::Up, Verdict::Down] {
        world.find(2, verdict);
        assert!(!world.update(&unready), "{verdict:?}");
        assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
    }
    assert!(world.update(&ready));
    assert_eq!(world.state_of(2), Some(BackendState::Down));
    // Dead stays dead, whatever the source says of its readiness.
    assert!(!world.update(&unready));
    assert_eq!(world.state_of(2), Some(BackendState::Down));
    // Removed, it has nothing to drain.
    world.update(&all(&[]));
    assert_eq!(world.state_of(2), Some(BackendState::Gone));
    world.set_flows(2, 0);
    world.update(&all(&[]));
    assert_eq!(world.slot(2), None);
}

#[test]
fn a_removed_backend_drains_with_any_finding() {
    let mut world = World::new();
    world.find(2, Verdict::Up);
    world.update(&all(&[2]));
    world.set_flows(2, 5);
    world.find(2, Verdict::Down);
    world.update(&all(&[]));
    assert!(matches!(world.state_of(2), Some(BackendState::Draining { .. })));
    assert!(!world.update(&all(&[])));
}

#[test]
fn enabling_or_disabling_checks_changes_no_state() {
    let mut world = World::new();
    let mut unchecked = all(&[2]);
    changed(&mut unchecked, 0).health_check = None;
    world.update(&unchecked);
    world.update(&all(&[2]));
    assert_eq!(world.state_of(2), Some(BackendState::Active));
    world.find(2, Verdict::Down);
    world.update(&all(&[2]));
    assert_eq!(world.state_of(2), Some(BackendState::Down));
    world.update(&unchecked);
    assert_eq!(
        world.state_of(2),
        Some(BackendState::Active),
        "nobody looks any more"
    );
}

#[test]
fn a_new_instance_does_not_inherit_findings() {
    let mut world = World::new();
    world.find(2, Verdict::Down);
    let mut next = pods(&[(2, "b", Eligibility::NewFlows)]);
    changed(&mut next, 0).health_check = Some(HealthCheck::tcp());
    world.update(&next);
    assert_eq!(world.state_of(2), Some(BackendState::Unknown));
}

#[test]
fn an_outage_and_its_end_are_one_event_each() {
    let mut world = World::new();
    world.find(2, Verdict::Up);
    world.update(&all(&[2, 3]));
    let transitions = |world: &World| -> Vec<(&'static str, ServiceState)> {
        let changes = &world.last.as_ref().unwrap().changes;
        let events = changes.events.iter();
        events
            .filter_map(|event| match event {
                Event::Service { from, to, .. } => Some((*from, *to)),
                _ => None,
            })
            .collect()
    };
    assert_eq!(
        transitions(&world),
        [],
        "one that has not answered yet is no fault"
    );
    world.find(2, Verdict::Down);
    world.update(&all(&[2, 3]));
    assert_eq!(
        transitions(&world),
        [("ok", ServiceState::Degraded)],
        "it may answer yet"
    );
    world.find(3, Verdict::Down);
    world.update(&all(&[2, 3]));
    assert_eq!(transitions(&world), [("degraded", ServiceState::Down)]);
    assert_eq!(
        world.directory().services[0].as_ref().unwrap().state,
        ServiceState::Down
    );
    world.update(&all(&[2]));
    assert_eq!(transitions(&world), []);
    world.find(2, Verdict::Up);
    world.update(&all(&[2]));
    assert_eq!(transitions(&world), [("down", ServiceState::Ok)]);
}
