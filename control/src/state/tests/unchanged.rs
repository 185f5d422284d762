//! Skipping unchanged services does not change the result of an update.

use super::*;
use crate::config::HealthCheck;
use crate::health::{Finding, Target, Verdict};

impl State {
    /// Makes every service dirty.
    fn forget_applied(&mut self) {
        self.address_owners = AddressOwners::default();
        for (_, service) in self.services.iter_mut() {
            service.applied.clear();
            service.stale = true;
        }
    }
}

/// A backend: host, instance, weight, its eligibility, and something about it that is only shown.
type Spec = (u8, Option<u8>, u16, Eligibility, u8);

#[derive(Debug, Clone)]
enum Step {
    /// One service becomes this one, with checks or without.
    Want(u8, Vec<Spec>, bool),
    /// One service is not desired any more.
    Drop(u8),
    /// One service is desired twice.
    Twice(u8, Vec<Spec>),
    /// One service gets another name, perhaps of another one.
    Rename(u8, u8),
    /// All is read again, and the same.
    ReadAgain,
    Wait(u64),
    EndFlows(usize),
    OpenFlows(usize),
    /// One address is a backend's or the balancer's own.
    Own(u8),
    /// One neighbour is known or not.
    Neighbor(u8, bool),
    Verdict(u8, u8, Verdict),
}

const SERVICES: std::ops::Range<u8> = 0..4;

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    let eligibility = prop_oneof![
        4 => Just(Eligibility::NewFlows),
        1 => Just(Eligibility::ExistingFlows),
        1 => Just(Eligibility::Dead),
    ];
    let instance = prop::option::of(0_u8..3);
    prop::collection::vec((2_u8..8, instance, 0_u16..3, eligibility, 0_u8..2), 0..6)
}

fn step() -> impl Strategy<Value = Step> {
    let verdicts = vec![Verdict::Unknown, Verdict::Up, Verdict::Down];
    prop_oneof![
        6 => (SERVICES, specs(), prop::bool::weighted(0.2)).prop_map(|(at, specs, check)| Step::Want(at, specs, check)),
        1 => SERVICES.prop_map(Step::Drop),
        1 => (SERVICES, specs()).prop_map(|(at, specs)| Step::Twice(at, specs)),
        1 => (SERVICES, SERVICES).prop_map(|(at, name)| Step::Rename(at, name)),
        1 => Just(Step::ReadAgain),
        2 => (1_u64..90).prop_map(Step::Wait),
        3 => (0_usize..16).prop_map(Step::EndFlows),
        3 => (0_usize..16).prop_map(Step::OpenFlows),
        1 => (2_u8..10).prop_map(Step::Own),
        1 => (2_u8..8, any::<bool>()).prop_map(|(host, known)| Step::Neighbor(host, known)),
        2 => (SERVICES, 2_u8..8, prop::sample::select(verdicts))
            .prop_map(|(at, host, verdict)| Step::Verdict(at, host, verdict)),
    ]
}

fn built(at: u8, specs: &[Spec]) -> ServiceSpec {
    let backends = specs
        .iter()
        .map(|&(host, instance, weight, eligibility, shown)| BackendSpec {
            instance: instance.map(|instance| format!("i{instance}").into()),
            eligibility,
            changed: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(shown.into())),
            pod: Some(Arc::new(crate::discovery::PodPlace {
                pod: format!("p{shown}"),
                node: None,
            })),
            ..backend(host, weight)
        });
    let service = service(&format!("s{at}"), 8080 + u16::from(at), backends.collect());
    Arc::unwrap_or_clone(service)
}

/// The desired set and all other inputs.
#[derive(Default)]
struct Surroundings {
    desired: BTreeMap<u8, Vec<Arc<ServiceSpec>>>,
    own: u8,
    unknown: BTreeSet<u8>,
}

impl Surroundings {
    fn take(&mut self, step: &Step, worlds: &mut [World; 2]) {
        match step {
            Step::Want(at, specs, check) => {
                let mut service = built(*at, specs);
                service.health_check = check.then(HealthCheck::tcp);
                self.desired.insert(*at, vec![Arc::new(service)]);
            }
            Step::Drop(at) => {
                self.desired.remove(at);
            }
            Step::Twice(at, specs) => self
                .desired
                .entry(*at)
                .or_default()
                .push(Arc::new(built(*at, specs))),
            Step::Rename(at, name) => {
                for service in self.desired.get_mut(at).into_iter().flatten() {
                    Arc::make_mut(service).name = format!("s{name}");
                }
            }
            Step::ReadAgain => {
                for service in self.desired.values_mut().flatten() {
                    *service = Arc::new(ServiceSpec::clone(service));
                }
            }
            Step::Own(host) => self.own = *host,
            Step::Neighbor(host, true) => {
                self.unknown.remove(host);
            }
            Step::Neighbor(host, false) => {
                self.unknown.insert(*host);
            }
            _ => {}
        }
        for world in worlds {
            match step {
                Step::Wait(seconds) => world.seconds += seconds,
                Step::EndFlows(index) => world.worker.backend(backend_slot(*index)).nat_ports.set(0),
                Step::OpenFlows(index) => {
                    let slot = backend_slot(*index);
                    let backend = world.last.as_ref().and_then(|last| last.snapshot.backend(slot));
                    if backend.is_some_and(|backend| backend.state.takes_new_flows()) {
                        world.worker.backend(slot).nat_ports.set(1);
                    }
                }
                Step::Verdict(at, host, verdict) => {
                    for instance in [None, Some("i0"), Some("i1"), Some("i2")] {
                        let target = Target {
                            protocol: Protocol::Tcp,
                            service_port: 8080 + u16::from(*at),
                            address: address(*host),
                            port: 8081,
                            instance: instance.map(Arc::from),
                        };
                        let finding = Finding {
                            verdict: *verdict,
                            why: format!("{verdict:?}"),
                        };
                        Arc::make_mut(&mut world.health).insert(target, finding);
                    }
                }
                _ => {}
            }
            let neighbors = (2_u8..8).filter(|host| !self.unknown.contains(host));
            let neighbors = neighbors.map(|host| (address(host), MacAddr([host; 6])));
            let route = Route {
                kind: RouteKind::Unicast,
                destination: address(0),
                prefix_length: 24,
                gateway: None,
                metric: 0,
                mtu: None,
            };
            world.network.addresses = vec![address(self.own)];
            world.network.next_hops = NextHops::new(
                Link::Ethernet(MacAddr([1; 6])),
                1,
                vec![route],
                neighbors.collect(),
            );
        }
    }

    fn desired(&self) -> Desired {
        Desired {
            services: self.desired.values().flatten().cloned().collect(),
            ..Desired::default()
        }
    }
}

/// The visible parts of an update.
fn shown(update: &Update) -> String {
    let Update {
        snapshot,
        directory,
        changes,
    } = update;
    let pools = snapshot.service_slots.iter().flatten().map(|service| {
        let picks = (0..64).map(|hash| service.v4.pick(hash * 997, hash, |_| 0));
        picks.collect::<Vec<_>>()
    });
    let pools: Vec<_> = pools.collect();
    let keys: BTreeMap<_, _> = snapshot
        .services
        .iter()
        .map(|(key, slot)| (format!("{key:?}"), slot))
        .collect();
    format!(
        "{:?}\n{pools:?}\n{keys:?}\n{directory:?}\n{changes:?}",
        snapshot.backend_slots
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn skipping_unchanged_services_changes_no_result(steps in prop::collection::vec(step(), 1..40)) {
        let mut worlds = [World::new(), World::new()];
        let mut surroundings = Surroundings { own: 103, ..Surroundings::default() };
        for step in steps {
            surroundings.take(&step, &mut worlds);
            let desired = surroundings.desired();
            let [world, careful] = &mut worlds;
            careful.state.forget_applied();
            let changed = world.update(&desired);
            prop_assert_eq!(changed, careful.update(&desired), "{:?}", step);
            if let (Some(update), Some(same)) = (&world.last, &careful.last) {
                prop_assert_eq!(shown(update), shown(same), "{:?}", step);
            }
            let ending = world.state.backends.iter().filter(|(_, backend)| backend.is_ending());
            let ending: BTreeSet<_> = ending.map(|(index, _)| index).collect();
            prop_assert_eq!(&ending, &world.state.draining);
        }
    }
}

fn two(first: &[u8], second: &[u8]) -> Desired {
    let specs = |hosts: &[u8]| hosts.iter().map(|&host| backend(host, 1)).collect();
    Desired {
        services: vec![
            service("a", 8080, specs(first)),
            service("b", 8081, specs(second)),
        ],
        ..Desired::default()
    }
}

#[test]
fn an_unchanged_service_keeps_its_pool() {
    let mut world = World::new();
    world.update(&two(&[2, 3], &[4]));
    let pools = |world: &World| {
        let services = world.snapshot().service_slots.iter().flatten();
        services
            .map(|service| Arc::clone(&service.v4))
            .collect::<Vec<_>>()
    };
    let before = pools(&world);
    assert!(world.update(&two(&[2, 3], &[4, 5])));
    let after = pools(&world);
    assert!(Arc::ptr_eq(&before[0], &after[0]));
    assert!(!Arc::ptr_eq(&before[1], &after[1]));
}

#[test]
fn equal_content_changes_nothing() {
    let mut world = World::new();
    world.update(&two(&[2, 3], &[4]));
    assert!(!world.update(&two(&[2, 3], &[4])));
}

#[test]
fn an_unchanged_service_loses_a_backend_replaced_in_another_service() {
    let pod = |instance: &str| BackendSpec {
        instance: Some(instance.into()),
        ..backend(2, 1)
    };
    let kept = service("a", 8080, vec![pod("old")]);
    let other = |backends| Desired {
        services: vec![Arc::clone(&kept), service("b", 8081, backends)],
        ..Desired::default()
    };
    let mut world = World::new();
    world.update(&other(Vec::new()));
    world.set_flows(2, 1);
    let slot = world.slot(2).unwrap();
    world.update(&other(vec![pod("young")]));
    assert_eq!(world.snapshot().backend(slot).unwrap().state, BackendState::Gone);
    // The address is the first one's again.
    world.update(&other(Vec::new()));
    assert_eq!(
        world.snapshot().backend(slot).unwrap().state,
        BackendState::Active
    );
}
