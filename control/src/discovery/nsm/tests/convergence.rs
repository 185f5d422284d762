//! The backends depend on what is there, and not on the order of events.

use proptest::prelude::*;

use super::super::inventory::{LONG_DOWN, UNCONFIRMED};
use super::*;

const ENDPOINTS: [&str; 3] = ["nse-0", "nse-1", "nse-2"];

/// Something that a stream reports. Clients and addresses are numbers; each client has an address of its own at each
/// endpoint.
#[derive(Debug, Clone)]
enum Step {
    Request {
        client: u8,
        selected: bool,
        state: i32,
    },
    Close(u8),
    /// The stream ends; events until its successor's list are missed.
    Lose,
    Reconnect,
    Unregister,
    Register,
    Wait(u64),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        6 => (0_u8..5, any::<bool>(), 0_i32..4)
            .prop_map(|(client, selected, state)| Step::Request { client, selected, state }),
        3 => (0_u8..5).prop_map(Step::Close),
        1 => Just(Step::Lose),
        2 => Just(Step::Reconnect),
        1 => Just(Step::Unregister),
        2 => Just(Step::Register),
        1 => (0_u64..100).prop_map(Step::Wait),
    ];
    (0..ENDPOINTS.len(), step)
}

/// What the managers really have, and which streams are open.
#[derive(Default)]
struct Truth {
    connections: [BTreeMap<u8, Wire>; ENDPOINTS.len()],
    open: [bool; ENDPOINTS.len()],
    listed: [bool; ENDPOINTS.len()],
}

fn wire(endpoint: usize, client: u8) -> Wire {
    let address = format!("172.16.{endpoint}.{client}/32");
    Wire::new(&format!("c{client}"), ENDPOINTS[endpoint], &[&address])
}

fn registrations(truth: &Truth) -> Vec<Registration> {
    let listed = (0..ENDPOINTS.len()).filter(|endpoint| truth.listed[*endpoint]);
    listed.map(registration).collect()
}

/// Each endpoint has a manager of its own.
fn registration(endpoint: usize) -> Registration {
    remote(ENDPOINTS[endpoint], &format!("tcp://10.0.0.{endpoint}:5001"))
}

fn apply(scene: &mut Scene, truth: &mut Truth, endpoint: usize, step: Step) {
    let name = ENDPOINTS[endpoint];
    let now = scene.now;
    match step {
        Step::Request {
            client,
            selected,
            state,
        } => {
            let app = if selected { "finance" } else { "ledger" };
            let mut wire = wire(endpoint, client).label("app", app);
            wire.0.state = state;
            truth.connections[endpoint].insert(client, wire.clone());
            if truth.open[endpoint] {
                scene.update(name, [wire]);
            }
        }
        Step::Close(client) => {
            truth.connections[endpoint].remove(&client);
            if truth.open[endpoint] {
                scene.delete(name, &format!("c{client}"));
            }
        }
        Step::Lose => {
            truth.open[endpoint] = false;
            scene.lose(name);
        }
        Step::Reconnect => {
            let is_monitored = scene
                .inventory
                .monitored()
                .any(|(monitored, _)| **monitored == *name);
            if is_monitored {
                truth.open[endpoint] = true;
                let connections = truth.connections[endpoint].values().cloned();
                let read = |wire: Wire| Some((wire.0.id.clone(), wire.read(name).ok()?));
                scene
                    .inventory
                    .replace(name, connections.filter_map(read).collect(), now);
            }
        }
        Step::Unregister => {
            truth.listed[endpoint] = false;
            scene.inventory.unregister(name, now);
        }
        Step::Register => {
            truth.listed[endpoint] = true;
            scene.inventory.register(registration(endpoint), now);
        }
        Step::Wait(seconds) => scene.advance(Duration::from_secs(seconds)),
    }
    // A monitor ends with its endpoint.
    let monitored: Vec<Arc<str>> = scene
        .inventory
        .monitored()
        .map(|(name, _)| Arc::clone(name))
        .collect();
    for (endpoint, name) in ENDPOINTS.into_iter().enumerate() {
        truth.open[endpoint] &= monitored.iter().any(|monitored| **monitored == *name);
    }
}

/// The selected clients of all listed endpoints.
fn expected(truth: &Truth) -> Vec<String> {
    let mut addresses = Vec::new();
    for (endpoint, connections) in truth.connections.iter().enumerate() {
        for (client, wire) in connections {
            if truth.listed[endpoint] && wire.0.labels["app"] == "finance" {
                addresses.push(format!("172.16.{endpoint}.{client}"));
            }
        }
    }
    addresses
}

proptest! {
    #[test]
    fn backends_are_the_clients_that_are_there_in_whatever_order_they_came(
        steps in prop::collection::vec(step(), 0..80)
    ) {
        let mut scene = Scene::new();
        scene.inventory = Inventory::default();
        scene.service.health_check = Some(HealthCheck::tcp());
        let mut truth = Truth::default();
        for (endpoint, step) in steps {
            apply(&mut scene, &mut truth, endpoint, step);
            // Resolving at any time must not change the outcome.
            scene.backends();
        }
        // All streams are lost once, and return.
        for endpoint in 0..ENDPOINTS.len() {
            apply(&mut scene, &mut truth, endpoint, Step::Lose);
        }
        scene.list(registrations(&truth));
        for endpoint in (0..ENDPOINTS.len()).filter(|endpoint| truth.listed[*endpoint]).collect::<Vec<_>>() {
            apply(&mut scene, &mut truth, endpoint, Step::Reconnect);
        }
        scene.advance(UNCONFIRMED + LONG_DOWN);
        prop_assert_eq!(scene.backends(), expected(&truth));
        for _ in 0..4 {
            if let Some(deadline) = scene.inventory.deadline(scene.now) {
                let left = deadline - scene.now;
                scene.advance(left);
            }
        }
        prop_assert_eq!(scene.inventory.deadline(scene.now), None, "nothing is left to wait for");
    }

    #[test]
    fn an_address_has_one_owner_and_keeps_it_while_that_works(
        steps in prop::collection::vec((0_u8..4, 0_u8..3, any::<bool>()), 0..60)
    ) {
        let mut scene = Scene::new();
        let mut owners: BTreeMap<std::net::IpAddr, Arc<str>> = BTreeMap::new();
        let mut held: BTreeMap<u8, std::net::IpAddr> = BTreeMap::new();
        for (client, address, closes) in steps {
            if closes {
                held.remove(&client);
                scene.delete("nse-0", &format!("c{client}"));
            } else {
                let text = format!("172.16.1.{address}");
                held.insert(client, text.parse().unwrap());
                scene.update("nse-0", [Wire::new(&format!("c{client}"), "nse-0", &[&format!("{text}/32")])]);
            }
            let specs = scene.specs();
            let mut addresses: Vec<_> = specs.iter().map(|backend| backend.address).collect();
            addresses.dedup();
            let mut expected: Vec<_> = held.values().copied().collect();
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(addresses, expected, "one backend for each address");
            for backend in &specs {
                let instance = backend.instance.clone().unwrap();
                if let Some(before) = owners.insert(backend.address, Arc::clone(&instance))
                    && before != instance
                {
                    let still = held.iter().any(|(client, address)| {
                        *address == backend.address && before.starts_with(&format!("c{client}/"))
                    });
                    prop_assert!(!still, "{} moved from {before} to {instance}", backend.address);
                }
            }
            owners.retain(|address, _| specs.iter().any(|backend| backend.address == *address));
        }
    }
}
