//! Packets from and to clients in the balancer's own network namespace.

use super::*;

const CLIENT: &str = "172.16.1.103:40000";

fn question() -> Vec<u8> {
    builder::udp(Addresses::raw(CLIENT, SERVICE), b"question")
}

#[test]
fn replies_and_resets_to_local_clients_are_delivered() {
    for workers in [1, 3] {
        let mut team = Team::new(workers);
        for worker in 0..usize::from(workers) {
            team.port(worker).set_serves_local();
        }
        assert!(team.port(0).push_local(&question()));
        team.settle();
        let out = team.transmitted().concat();
        assert_eq!(out.len(), 1);
        assert_eq!(team.send(0, &reply(&out[0])), [[0_u8; 0]; 0]);
        let syn = builder::tcp(Addresses::raw(CLIENT, NO_BACKENDS), &Tcp::flags(flags::SYN), b"");
        assert!(team.port(0).push_local(&syn));
        team.settle();
        assert!(team.transmitted().concat().is_empty());
        let delivered: Vec<_> = (0..usize::from(workers))
            .flat_map(|worker| team.port(worker).take_delivered())
            .collect();
        let ports: Vec<_> = delivered.iter().map(|packet| ports(packet)).collect();
        assert_eq!(ports, [(8080, 40_000), (9090, 40_000)]);
        assert_eq!(team.sum(|stats| &stats.transmitted), 3);
        team.close();
    }
}

#[test]
fn what_the_kernel_does_not_take_is_no_traffic() {
    let mut team = Team::new(1);
    assert!(team.port(0).push_local(&question()));
    team.settle();
    let out = team.transmitted().concat();
    assert!(team.send(0, &reply(&out[0])).is_empty());
    assert_eq!(team.drops(DropReason::TxRefused), 1);
    assert_eq!(team.stats[0].service(ServiceSlot(1)).outbound.packets.get(), 0);
    team.close();
}
