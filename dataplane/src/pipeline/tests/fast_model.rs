//! The program of the in-kernel path against the worker's own tables, under anything that may happen to a flow.

use proptest::prelude::*;

use super::fast::{Fast, UDP_SERVICE};
use super::*;
use crate::flow::RequestKey;

#[derive(Debug, Clone)]
enum Action {
    Request(u16),
    Reply(u16),
    Tend,
    Pass(u64),
    Backends(u8),
    Restart,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (0_u16..80).prop_map(Action::Request),
        8 => (0_u16..80).prop_map(Action::Reply),
        4 => Just(Action::Tend),
        1 => (0_u64..200).prop_map(Action::Pass),
        1 => (0_u8..6).prop_map(Action::Backends),
        1 => Just(Action::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// More clients than NAT ports, backends that come and go, timeouts, and few records: whatever the program takes, it
    /// sends where the worker's own table says, and every packet is counted once.
    #[test]
    fn the_program_does_what_the_worker_would_do(
        workers in 1_u16..3,
        actions in prop::collection::vec(action(), 1..300),
    ) {
        let setup = Setup {
            workers,
            backends: vec![
                ("172.16.1.2:8081", BackendState::Active),
                ("172.16.1.3:8081", BackendState::Active),
            ],
            ..Setup::default()
        };
        let mut fast = Fast::new(setup, 24, 1);
        let mut seen: HashMap<u16, Seen> = HashMap::new();
        let mut forwarded = 0_u64;
        for action in actions {
            match action {
                Action::Request(client) => {
                    let packet = fast.world.client_udp(&format!("172.16.1.100:{}", 40_000 + client), b"request");
                    if let Some(target) = fast.kernel(&packet) {
                        forwarded += 1;
                        let of = Seen::of(&packet, true);
                        let want = fast.world.engines.iter().find_map(|engine| {
                            let table = engine.tables.flows.table();
                            let key = RequestKey {
                                client: to_octets(of.source.ip()),
                                client_port: of.source.port(),
                                local: table.find_local(&to_octets(of.destination.ip()))?,
                                service_port: of.destination.port(),
                                protocol: Protocol::Udp.number(),
                            };
                            let entry = table.entry(table.request(&key, Timestamp(0))?);
                            engine.policy.usable_backend(entry).ok()?;
                            let backend = table.endpoint(entry);
                            Some((backend.address, backend.port))
                        });
                        prop_assert_eq!(Some(target), want);
                    } else if let (Verdict::Transmit, out) = fast.world.send(&packet) {
                        forwarded += 1;
                        seen.insert(client, Seen::of(&out, true));
                    }
                }
                Action::Reply(client) => {
                    let Some(at_backend) = seen.get(&client) else { continue };
                    let packet = fast.world.backend_udp(at_backend, b"reply");
                    if let Some(target) = fast.kernel(&packet) {
                        forwarded += 1;
                        let of = Seen::of(&packet, true);
                        let want = fast.world.engines.iter().find_map(|engine| {
                            let table = engine.tables.flows.table();
                            let key = ReplyKey {
                                backend: to_octets(of.source.ip()),
                                backend_port: of.source.port(),
                                local: table.find_local(&to_octets(of.destination.ip()))?,
                                nat_port: of.destination.port(),
                                protocol: Protocol::Udp.number(),
                            };
                            let entry = table.entry(table.reply(&key, Timestamp(0))?);
                            engine.policy.usable_backend(entry).ok()?;
                            Some((entry.client, entry.client_port))
                        });
                        prop_assert_eq!(Some(target), want);
                    } else if let (Verdict::Transmit, _) = fast.world.send(&packet) {
                        forwarded += 1;
                    }
                }
                Action::Tend => fast.tend(),
                Action::Pass(seconds) => {
                    fast.world.pass(Duration::from_secs(seconds));
                    fast.tend();
                    fast.world.sweep();
                }
                Action::Backends(choice) => {
                    let state = |bit: u8| match (choice >> bit) % 3 {
                        0 => BackendState::Active,
                        1 => BackendState::Down,
                        _ => BackendState::Draining { since: Timestamp(0) },
                    };
                    fast.world.publish_backends(vec![
                        ("172.16.1.2:8081", state(0)),
                        ("172.16.1.3:8081", state(1)),
                    ]);
                }
                Action::Restart => {
                    for engine in &mut fast.world.engines {
                        engine.set_fast_path(None, 1);
                        engine.set_fast_path(Some(&fast.memory), 1);
                    }
                }
            }
        }
        for engine in &mut fast.world.engines {
            engine.set_fast_path(None, 1);
        }
        let counted: u64 = fast.world.stats.iter().map(|stats| {
            let service = stats.service(UDP_SERVICE);
            service.inbound.packets.get() + service.outbound.packets.get()
        }).sum();
        prop_assert_eq!(counted, forwarded);
    }
}
