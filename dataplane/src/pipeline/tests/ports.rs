//! NAT ports that become the kernel's or a service's while flows have them.

use vl3lb_common::PortSet;
use vl3lb_common::stats::CloseCause;

use super::*;
use crate::testing::MemPort;
use flags::{ACK, RST, SYN};

fn kernel_ports(ports: &[u16]) -> Arc<PortSet> {
    let mut set = PortSet::default();
    for &port in ports {
        set.insert(port);
    }
    Arc::new(set)
}

fn closed(world: &World, cause: CloseCause) -> u64 {
    let services = world
        .stats
        .iter()
        .flat_map(|stats| [0, 1].map(|slot| stats.service(ServiceSlot(slot))));
    services
        .map(|service| service.flows_closed[cause as usize].get())
        .sum()
}

/// A service at TCP and UDP port `port`, with the backends of the others.
fn add_service(world: &mut World, port: u16) {
    world.publish(|snapshot| {
        let others: Vec<_> = snapshot
            .services
            .iter()
            .map(|(key, slot)| (*key, *slot))
            .collect();
        for (key, slot) in others {
            snapshot.services.insert(ServiceKey { port, ..key }, slot);
        }
    });
}

#[test]
fn a_port_of_the_kernel_is_no_nat_port() {
    for workers in [1, 3] {
        let mut world = World::new(Setup {
            workers,
            flows: 1_000 * u32::from(workers),
            ..Setup::default()
        });
        let taken: Vec<u16> = (NAT_PORTS.0..=NAT_PORTS.1).filter(|port| port % 7 != 0).collect();
        world.publish(|snapshot| snapshot.kernel_ports = kernel_ports(&taken));
        let mut ports = std::collections::HashSet::new();
        for client in 0..200 {
            let syn = world.client_tcp(&format!("172.16.1.100:{}", 40_000 + client), SYN, b"");
            let (verdict, out) = world.send(&syn);
            if verdict == Verdict::Transmit {
                ports.insert(Seen::of(&out, true).source.port());
            }
        }
        let want = (NAT_PORTS.0..=NAT_PORTS.1).filter(|port| port % 7 == 0).collect();
        assert_eq!(ports, want, "{workers} workers");
    }
}

#[test]
fn a_flow_ends_at_both_ends_when_a_program_takes_its_port() {
    let mut world = World::new(Setup::default());
    let client = "172.16.1.100:40000";
    let seen = world.connect(client);
    let other = world.connect("172.16.1.100:40001");
    world.publish(|snapshot| snapshot.kernel_ports = kernel_ports(&[seen.source.port()]));
    assert!(world.engines[0].is_urgent(), "at once");
    world.sweep();
    assert_eq!((world.flows(), closed(&world, CloseCause::PortTaken)), (1, 1));
    let mut port = MemPort::new(4);
    let mut out = Vec::new();
    world.engines[0].reset_orphans(&mut port, &mut out);
    let resets: Vec<Seen> = out.iter().map(|frame| Seen::of(frame.bytes(), true)).collect();
    assert_eq!(resets.len(), 2);
    assert!(resets.iter().all(|reset| reset.tcp_flags == RST | ACK));
    assert_eq!(resets[0].destination, seen.destination);
    assert_eq!(resets[1].destination.to_string(), client);
    let data = world.backend_tcp(&other, ACK, b"x");
    assert_eq!(world.forward(&data).destination.to_string(), "172.16.1.100:40001");
    // The client gets another port.
    let again = world.connect(client);
    assert_ne!(again.source.port(), seen.source.port());
    world.publish(|snapshot| snapshot.kernel_ports = kernel_ports(&[]));
    assert!(!world.engines[0].is_urgent(), "nothing is taken");
}

#[test]
fn a_flow_goes_on_when_its_port_becomes_a_services() {
    for workers in [1, 3] {
        for enters in 0..workers {
            let mut world = World::new(Setup {
                workers,
                ..Setup::default()
            });
            world.enters = enters;
            let client = "172.16.1.100:40000";
            let seen = world.connect(client);
            let datagram = world.client_udp(client, b"q");
            let asked = world.forward(&datagram);
            for port in [seen.source.port(), asked.source.port()] {
                add_service(&mut world, port);
            }
            world.sweep();
            let data = world.backend_tcp(&seen, ACK, b"x");
            assert_eq!(world.forward(&data).destination.to_string(), client);
            let answer = world.backend_udp(&asked, b"a");
            assert_eq!(world.forward(&answer).destination.to_string(), client);
            // Who has no flow at the port opens one of the service, or is refused.
            let service = seen.source.to_string();
            let syn = builder::tcp(
                world.addresses("172.16.1.105:50000", &service),
                &Conversation::default().header(Direction::In, SYN, 0),
                b"",
            );
            assert_eq!(world.forward(&syn).destination, seen.destination);
            let stray = builder::tcp(
                world.addresses("172.16.1.106:50000", &service),
                &Conversation::default().header(Direction::In, ACK, 0),
                b"",
            );
            assert_eq!(world.send(&stray).0, Verdict::Reject);
            assert_eq!(world.drops(), [DropReason::NotSyn], "{workers} workers, {enters}");
        }
    }
}
