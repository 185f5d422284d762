//! What holds whatever happens.

use super::*;

/// One step of a random life.
#[derive(Debug, Clone)]
enum Step {
    /// The backends of two services become these, by host.
    Want(BTreeSet<u8>, Option<BTreeSet<u8>>),
    Wait(u64),
    /// All flows on the n-th backend end, or some are opened if it takes any.
    EndFlows(usize),
    OpenFlows(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let hosts = || prop::collection::btree_set(2_u8..10, 0..6);
    prop_oneof![
        3 => (hosts(), prop::option::of(hosts())).prop_map(|(a, b)| Step::Want(a, b)),
        1 => (1_u64..90).prop_map(Step::Wait),
        2 => (0_usize..16).prop_map(Step::EndFlows),
        2 => (0_usize..16).prop_map(Step::OpenFlows),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_of_desired_sets_keeps_the_invariants(steps in prop::collection::vec(step(), 1..40)) {
        let mut world = World::new();
        let mut desired = Desired::default();
        // Owners of slots that have flows: they may not change hands.
        let mut owners: BTreeMap<BackendSlot, (IpAddr, ServiceSlot)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Want(first, second) => {
                    let specs = |hosts: BTreeSet<u8>| hosts.into_iter().map(|host| backend(host, 1)).collect();
                    desired.services = vec![service("a", 8080, specs(first))];
                    desired.services.extend(second.map(|hosts| service("b", 8081, specs(hosts))));
                }
                Step::Wait(seconds) => world.seconds += seconds,
                Step::EndFlows(index) => {
                    let slot = backend_slot(index);
                    world.worker.backend(slot).nat_ports.set(0);
                    owners.remove(&slot);
                }
                Step::OpenFlows(index) => {
                    let slot = backend_slot(index);
                    let Some(last) = &world.last else { continue };
                    let Some(backend) = last.snapshot.backend(slot) else { continue };
                    if backend.state == BackendState::Active {
                        world.worker.backend(slot).nat_ports.set(1);
                        owners.insert(slot, (backend.address, backend.service));
                    }
                }
            }
            let before = world.state.generation();
            let changed = world.update(&desired);
            prop_assert_eq!(changed, world.state.generation() > before);
            // Freeing a slot is a second step; after it everything is at rest.
            world.update(&desired);
            prop_assert!(!world.update(&desired), "the same again changes nothing");
            let Some(last) = &world.last else { continue };
            let snapshot = &last.snapshot;

            for (slot, owner) in &owners {
                let backend = snapshot.backend(*slot).expect("a slot with flows is not freed");
                prop_assert_eq!(&(backend.address, backend.service), owner);
            }
            let mut identities = BTreeSet::new();
            for (index, backend) in snapshot.backend_slots.iter().enumerate() {
                let Some(backend) = backend else { continue };
                prop_assert_eq!(backend.slot.index(), index);
                prop_assert!(identities.insert((backend.service.0, backend.address)), "one backend, one slot");
                let service = snapshot.service_slots[backend.service.index()].as_ref().unwrap();
                if backend.state != BackendState::Active {
                    prop_assert!(owners.contains_key(&backend.slot), "leaving, and without flows");
                    let picked = (0..2000).filter_map(|hash| service.v4.pick(hash, hash, |_| 0));
                    prop_assert!(picked.into_iter().all(|slot| slot != backend.slot));
                }
                if let BackendState::Draining { since } = backend.state {
                    let passed = Timestamp(world.seconds * 1_000_000_000).since(since);
                    prop_assert!(passed < Duration::from_secs(DRAIN));
                }
            }
            let active: BTreeSet<_> = last
                .directory
                .active_backends()
                .map(|entry| (last.directory.service(entry.service).unwrap().port, entry.address))
                .collect();
            let want: BTreeSet<_> = desired
                .services
                .iter()
                .flat_map(|service| service.backends.iter().map(|backend| (service.port, backend.address)))
                .collect();
            prop_assert_eq!(active, want);
        }
    }
}

/// Backends of a service with weights, with a next hop each.
fn weighted() -> impl Strategy<Value = BTreeMap<u8, u16>> {
    prop::collection::btree_map(2_u8..30, 1_u16..4, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Balancers do not talk about flows: a client that another balancer gets next time still finds the
    /// backend that it had.
    #[test]
    fn balancers_with_different_histories_map_clients_alike(
        pasts in [prop::collection::vec(weighted(), 0..6), prop::collection::vec(weighted(), 0..6)],
        last in weighted(),
    ) {
        let finance = |backends: &BTreeMap<u8, u16>| Desired {
            services: vec![service(
                "finance",
                8080,
                backends.iter().map(|(&host, &weight)| backend(host, weight)).collect(),
            )],
            ..Desired::default()
        };
        let mut chosen = Vec::new();
        for (balancer, past) in pasts.iter().enumerate() {
            let mut world = World::new();
            // Two balancers have two addresses; backends on a raw-IP link need no neighbours.
            world.network.addresses = vec![address(200 + u8::try_from(balancer).unwrap())];
            world.network.next_hops = NextHops::new(Link::RawIp, 1, Vec::new(), [].into());
            for backends in past {
                world.update(&finance(backends));
                // Old backends keep their slots, so those of the next ones differ.
                for slot in world.snapshot().backend_slots.iter().flatten() {
                    world.worker.backend(slot.slot).nat_ports.set(1);
                }
            }
            let mut desired = finance(&last);
            if balancer == 1 {
                changed(&mut desired, 0).backends.reverse();
            }
            world.update(&desired);
            let snapshot = world.snapshot();
            let key = ServiceKey { address: world.network.addresses[0], port: 8080, protocol: Protocol::Tcp };
            let pool = &snapshot.service(&key).unwrap().v4;
            let clients = (0..2000_u16).map(|port| vl3lb_common::hash::selection_hash(&[7; 16], port));
            let backends: Vec<_> = clients
                .map(|hash| pool.pick(hash, 0, |_| 0).map(|slot| snapshot.backend(slot).unwrap().address))
                .collect();
            prop_assert_eq!(backends[0].is_none(), last.is_empty());
            chosen.push(backends);
        }
        prop_assert_eq!(&chosen[0], &chosen[1]);
    }
}
