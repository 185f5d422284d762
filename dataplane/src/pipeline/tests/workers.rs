//! Several workers: packets find the one that owns their flow.

use super::*;

#[test]
fn packets_of_a_flow_meet_at_its_owner_wherever_they_come_in() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    for port in 40_000..40_030 {
        for client in [format!("172.16.1.100:{port}"), format!("[2001:db8::64]:{port}")] {
            let seen = world.connect(&client);
            let data = world.backend_tcp(&seen, flags::ACK, b"x");
            assert_eq!(world.forward(&data).destination.to_string(), client);
        }
    }
    assert_eq!(world.flows(), 60);
    assert!(
        world
            .engines
            .iter()
            .all(|engine| engine.tables.flows.table().len() > 5),
        "every worker has its part"
    );
}

#[test]
fn errors_find_the_owner_of_the_flow_they_are_about() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    for port in 40_000..40_010 {
        let client = format!("172.16.1.100:{port}");
        let seen = world.connect(&client);
        let request = world.client_tcp(&client, flags::ACK, b"x");
        let reply = world.backend_tcp(&seen, flags::ACK, b"x");
        for packet in [request, reply] {
            let (_, sent) = world.send(&packet);
            let error = builder::icmp_error(
                world.addresses("172.16.1.1:0", "172.16.1.103:0"),
                3,
                1,
                0,
                &sent[14..],
            );
            assert_eq!(world.send(&error).0, Verdict::Transmit);
        }
    }
}

#[test]
fn workers_hand_out_disjoint_nat_ports() {
    let mut world = World::new(Setup {
        workers: 3,
        ..Setup::default()
    });
    let mut used = std::collections::HashSet::new();
    for port in 0..40 {
        let seen = world.connect(&format!("172.16.1.100:{}", 40_000 + port));
        assert!(used.insert((seen.source, seen.destination)));
    }
}
