//! Flows in the in-kernel path: into it, out of it, and what the worker makes of what its program did.

use vl3lb_common::Backend;
use vl3lb_common::flow_query::{FlowRecord, FlowState};
use vl3lb_common::stats::CloseCause;

use super::*;
use crate::fastpath::FastMemory;
use crate::fastpath::tests::program::{self, Program, Target, Tuple as Headers};

const CLIENT: &str = "172.16.1.100:40000";
pub(super) const UDP_SERVICE: ServiceSlot = ServiceSlot(1);

/// A world with an in-kernel path, whose program is a few lines of Rust.
pub(super) struct Fast {
    pub(super) world: World,
    pub(super) memory: Arc<FastMemory>,
}

impl Fast {
    pub(super) fn new(setup: Setup, flows: u32, after: u32) -> Self {
        let memory = Arc::new(FastMemory::anonymous(flows, 2).unwrap());
        let mut world = World::new(setup);
        for engine in &mut world.engines {
            engine.set_fast_path(Some(&memory), after);
        }
        Self { world, memory }
    }

    pub(super) fn tend(&mut self) {
        for engine in &mut self.world.engines {
            engine.tend_fast_path(self.world.now, true);
        }
    }

    fn program(&self, packet: &[u8]) -> Program {
        let seen = Seen::of(packet, self.world.ethernet());
        let ip = if self.world.ethernet() { 14 } else { 0 };
        let is_v4 = packet[ip] >> 4 == 4;
        let headers = Headers {
            source: to_octets(seen.source.ip()),
            destination: to_octets(seen.destination.ip()),
            ports: (seen.source.port(), seen.destination.port()),
            protocol: packet[ip + if is_v4 { 9 } else { 6 }],
        };
        Program::new(0, headers, (packet.len() - ip) as u64, self.world.now.0)
    }

    /// What the program does with a packet.
    pub(super) fn kernel(&self, packet: &[u8]) -> Option<Target> {
        self.program(packet).run(&self.memory, &OwnerKey::from_seed(7))
    }

    /// The only flow.
    fn flow(&mut self) -> FlowRecord {
        let now = self.world.now;
        let mut flows = self.world.engines[0].flow_slice(0, 10_000, now).flows;
        assert_eq!(flows.len(), 1);
        flows.remove(0)
    }

    /// A UDP flow that is promoted: a request and a reply.
    fn promoted_udp(setup: Setup) -> (Self, [Vec<u8>; 2]) {
        let mut fast = Self::new(setup, 16, 1);
        let request = fast.world.client_udp(CLIENT, b"request");
        let seen = fast.world.forward(&request);
        let reply = fast.world.backend_udp(&seen, b"the reply");
        fast.world.forward(&reply);
        fast.tend();
        assert!(fast.kernel(&request).is_some() && fast.kernel(&reply).is_some());
        (fast, [request, reply])
    }
}

#[test]
fn a_flow_is_promoted_after_so_many_packets() {
    let mut fast = Fast::new(Setup::default(), 16, 8);
    let seen = fast.world.connect(CLIENT);
    let mut sent = 2;
    let target = loop {
        fast.tend();
        let packet = fast.world.client_tcp(CLIENT, flags::ACK, b"data");
        if let Some(target) = fast.kernel(&packet) {
            break target;
        }
        fast.world.forward(&packet);
        sent += 1;
    };
    assert_eq!(sent, 8);
    assert_eq!(
        target,
        (to_octets(seen.destination.ip()), seen.destination.port())
    );
    assert!(fast.flow().fast);
    assert_eq!(fast.world.stats[0].fast_path.flows.get(), 1);
}

/// Packets that come first are sent first, but a worker that is behind for good gets rid of its flows.
#[test]
fn a_flow_is_promoted_when_no_packet_waits_or_packets_always_wait() {
    let mut fast = Fast::new(Setup::default(), 16, 1);
    fast.tend();
    let request = fast.world.client_udp(CLIENT, b"request");
    let seen = fast.world.forward(&request);
    let reply = fast.world.backend_udp(&seen, b"reply");
    fast.world.forward(&reply);
    for millisecond in 0..3 {
        fast.world.engines[0].tend_fast_path(fast.world.now, false);
        assert_eq!(
            fast.kernel(&request).is_some(),
            millisecond == 2,
            "{millisecond} ms"
        );
        fast.world.pass(Duration::from_millis(1));
    }
}

/// Syslog, for example, where no backend ever replies.
#[test]
fn of_a_udp_flow_without_a_reply_the_program_takes_requests() {
    let mut fast = Fast::new(Setup::default(), 16, 1);
    let request = fast.world.client_udp(CLIENT, b"request");
    let seen = fast.world.forward(&request);
    fast.tend();
    for _ in 0..5 {
        assert!(fast.kernel(&request).is_some());
    }
    let flow = fast.flow();
    assert_eq!((flow.packets_in, flow.state), (6, FlowState::Unreplied));
    // The first reply changes the state, and then both directions are promoted.
    let reply = fast.world.backend_udp(&seen, b"reply");
    assert_eq!(fast.kernel(&reply), None);
    fast.world.forward(&reply);
    assert_eq!(fast.kernel(&request), None, "taken back by the reply");
    assert_eq!(fast.flow().state, FlowState::Established);
    fast.tend();
    assert!(fast.kernel(&request).is_some() && fast.kernel(&reply).is_some());
    let flow = fast.flow();
    assert_eq!((flow.packets_in, flow.packets_out), (7, 2));
}

#[test]
fn a_tcp_flow_that_is_not_established_is_never_promoted() {
    let mut fast = Fast::new(Setup::default(), 16, 1);
    let syn = fast.world.client_tcp("172.16.1.100:40001", flags::SYN, b"");
    fast.world.forward(&syn);
    fast.tend();
    assert_eq!(fast.kernel(&syn), None);
}

#[test]
fn what_the_program_did_is_counted_as_if_the_worker_had_done_it() {
    let (mut fast, [request, reply]) = Fast::promoted_udp(Setup::default());
    for _ in 0..8 {
        assert!(fast.kernel(&request).is_some());
    }
    assert!(fast.kernel(&reply).is_some());
    let flow = fast.flow();
    let lengths = [&request, &reply].map(|packet| packet.len() as u64 - 14);
    // One of each was the worker's, and one of each the check of `promoted_udp`.
    assert_eq!((flow.packets_in, flow.bytes_in), (10, 10 * lengths[0]));
    assert_eq!((flow.packets_out, flow.bytes_out), (3, 3 * lengths[1]));
    let stats = &fast.world.stats[0];
    let service = stats.service(UDP_SERVICE);
    let backend = stats.backend(flow.backend_slot);
    for traffic in [&service.inbound, &backend.inbound] {
        assert_eq!(
            (traffic.packets.get(), traffic.bytes.get()),
            (10, 10 * lengths[0])
        );
    }
    for traffic in [&service.outbound, &backend.outbound] {
        assert_eq!((traffic.packets.get(), traffic.bytes.get()), (3, 3 * lengths[1]));
    }
    assert_eq!(stats.fast_path.traffic[0].packets.get(), 9);
    assert_eq!(stats.fast_path.traffic[1].packets.get(), 2);
}

#[test]
fn a_flow_that_is_used_in_the_kernel_alone_does_not_expire() {
    let (mut fast, [request, _]) = Fast::promoted_udp(Setup::default());
    for _ in 0..10 {
        fast.world.pass(Duration::from_secs(200));
        assert!(fast.kernel(&request).is_some());
        fast.world.pass(Duration::from_millis(500));
        fast.tend();
        fast.world.sweep();
        assert_eq!(fast.world.flows(), 1);
    }
    // Also where nobody has looked meanwhile.
    fast.world.pass(Duration::from_secs(299));
    assert!(fast.kernel(&request).is_some());
    fast.world.pass(Duration::from_secs(2));
    fast.world.sweep();
    assert_eq!(fast.flow().idle_micros, 2_000_000);
    fast.world.pass(Duration::from_secs(299));
    fast.world.sweep();
    assert_eq!(fast.world.flows(), 0);
    assert_eq!(fast.kernel(&request), None);
}

/// The worker's numbers are far behind when the connection ends: the program's count.
#[test]
fn fin_and_rst_are_judged_by_what_the_program_has_seen() {
    for bits in [flags::FIN | flags::ACK, flags::RST] {
        let mut fast = Fast::new(Setup::default(), 16, 1);
        fast.world.connect(CLIENT);
        fast.tend();
        for _ in 0..50 {
            let packet = fast.world.client_tcp(CLIENT, flags::ACK, &[7; 1_400]);
            let client = CLIENT.parse().unwrap();
            let conversation = fast.world.conversations.borrow()[&client];
            let mut program = fast.program(&packet);
            program.numbers = Some((
                conversation.next(Direction::In),
                conversation.next(Direction::Out),
            ));
            assert!(program.run(&fast.memory, &OwnerKey::from_seed(7)).is_some());
        }
        let last = fast.world.client_tcp(CLIENT, bits, b"");
        fast.world.forward(&last);
        let flow = fast.flow();
        assert_eq!(flow.fast, bits != flags::RST);
        let want = if bits == flags::RST {
            FlowState::Reset
        } else {
            FlowState::HalfClosed
        };
        assert_eq!(flow.state, want);
        assert_eq!(flow.packets_in, 2 + 50 + 1);
    }
}

#[test]
fn a_half_closed_flow_stays_and_the_last_acknowledgment_is_the_workers() {
    let mut fast = Fast::new(Setup::default(), 16, 1);
    let seen = fast.world.connect(CLIENT);
    fast.tend();
    let fin = fast.world.client_tcp(CLIENT, flags::FIN | flags::ACK, b"");
    fast.world.forward(&fin);
    let data = fast.world.backend_tcp(&seen, flags::ACK, b"download");
    assert!(fast.kernel(&data).is_some());
    fast.world.forward(&data);
    let fin = fast.world.backend_tcp(&seen, flags::FIN | flags::ACK, b"");
    fast.world.forward(&fin);
    let ack = fast.world.client_tcp(CLIENT, flags::ACK, b"");
    assert_eq!(fast.kernel(&ack), None);
    fast.world.forward(&ack);
    assert_eq!(fast.flow().state, FlowState::Closing);
    let service = fast.world.stats[0].service(ServiceSlot(0));
    assert_eq!(service.flows_closed[CloseCause::Fin as usize].get(), 1);
}

/// A sender that knows the addresses and nothing else cannot push a flow out of the kernel.
#[test]
fn forged_segments_leave_a_flow_in_the_kernel() {
    let mut fast = Fast::new(Setup::default(), 16, 1);
    fast.world.connect(CLIENT);
    fast.tend();
    for bits in [flags::RST, flags::SYN, flags::FIN | flags::ACK] {
        let header = Tcp {
            flags: bits,
            sequence: 4_000_000,
            acknowledgment: 77,
            options: &[],
        };
        let forged = builder::tcp(fast.world.addresses(CLIENT, "172.16.1.103:8080"), &header, b"");
        fast.world.forward(&forged);
        assert!(fast.flow().fast, "{bits}");
    }
}

/// A change of the snapshot.
type Change = (&'static str, fn(&mut Snapshot));

#[test]
fn a_snapshot_takes_flows_back_before_it_is_in_use() {
    fn backend(snapshot: &mut Snapshot) -> impl Iterator<Item = &mut Backend> {
        snapshot.backend_slots.iter_mut().flatten()
    }
    let changes: [Change; 6] = [
        ("backend down", |snapshot| {
            backend(snapshot).for_each(|backend| backend.state = BackendState::Down);
        }),
        ("drain over", |snapshot| {
            backend(snapshot).for_each(|backend| backend.state = BackendState::Gone);
        }),
        ("backend gone", |snapshot| snapshot.backend_slots.fill(None)),
        ("neighbour lost", |snapshot| {
            backend(snapshot).for_each(|backend| backend.mac = None);
        }),
        ("service gone", |snapshot| {
            snapshot.services.clear();
            snapshot.service_slots.fill(None);
        }),
        ("address gone", |snapshot| {
            snapshot.addresses = vec!["172.16.1.200".parse().unwrap()];
        }),
    ];
    for (what, change) in changes {
        let (mut fast, packets) = Fast::promoted_udp(Setup::default());
        fast.world.publish(change);
        for packet in &packets {
            assert_eq!(fast.kernel(packet), None, "{what}");
        }
    }
}

#[test]
fn a_snapshot_that_changes_nothing_for_a_flow_leaves_it_in_the_kernel() {
    let changes: [Change; 4] = [
        ("nothing", |_| {}),
        ("drain", |snapshot| {
            for backend in snapshot.backend_slots.iter_mut().flatten() {
                backend.state = BackendState::Draining { since: Timestamp(0) };
            }
        }),
        ("another MAC address", |snapshot| {
            for backend in snapshot.backend_slots.iter_mut().flatten() {
                backend.mac = Some(MacAddr([2, 0, 0, 0, 0, 0x77]));
            }
        }),
        ("another address", |snapshot| {
            snapshot.addresses.push("172.16.1.200".parse().unwrap());
        }),
    ];
    for (what, change) in changes {
        let (mut fast, packets) = Fast::promoted_udp(Setup::default());
        fast.world.publish(change);
        for packet in &packets {
            assert!(fast.kernel(packet).is_some(), "{what}");
        }
        let mac = fast
            .world
            .snapshot
            .backend_slots
            .iter()
            .flatten()
            .next()
            .unwrap()
            .mac;
        assert_eq!(
            program::mac(&fast.memory, 0, Direction::In),
            mac.unwrap().0,
            "{what}"
        );
    }
}

#[test]
fn a_client_that_moves_to_another_neighbour_is_the_workers() {
    let (mut fast, [mut request, reply]) = Fast::promoted_udp(Setup::default());
    request[11] ^= 1;
    fast.world.forward(&request);
    assert_eq!(fast.kernel(&reply), None);
    let seen = fast.world.forward(&reply);
    assert_eq!(seen.macs.unwrap().1.0[5], CLIENT_MAC.0[5] ^ 1);
}

#[test]
fn flows_leave_with_the_attachment() {
    let (mut fast, packets) = Fast::promoted_udp(Setup::default());
    fast.world.engines[0].set_fast_path(None, 1);
    for packet in &packets {
        assert_eq!(fast.kernel(packet), None);
        fast.world.forward(packet);
    }
    assert!(!fast.flow().fast);
    assert_eq!(fast.world.stats[0].fast_path.flows.get(), 0);
    assert_eq!(fast.flow().packets_in, 3);
}

/// The end is emitted and counted with all packets of the program.
#[test]
fn the_end_of_a_flow_counts_its_last_packets() {
    let (mut fast, [request, _]) = Fast::promoted_udp(Setup::default());
    assert!(fast.kernel(&request).is_some());
    let id = fast.world.engines[0].tables.flows.fast_flow_at(0).unwrap();
    fast.world.engines[0]
        .tables
        .flows
        .end(id, CloseCause::Evicted, fast.world.now);
    let service = fast.world.stats[0].service(UDP_SERVICE);
    assert_eq!(service.inbound.packets.get(), 3);
    assert_eq!(service.flows_closed[CloseCause::Evicted as usize].get(), 1);
    assert_eq!(fast.kernel(&request), None);
}

#[test]
fn an_idle_flow_makes_room_for_others() {
    let (mut fast, [request, _]) = Fast::promoted_udp(Setup::default());
    for look in 0..100 {
        // Neither queries nor sweeps count as looks.
        fast.flow();
        fast.world.sweep();
        let is_idle = look > 50;
        assert_eq!(fast.flow().fast, look < 71, "{look}");
        if !is_idle {
            assert!(fast.kernel(&request).is_some());
        }
        fast.world.pass(Duration::from_millis(500));
        fast.tend();
    }
    fast.world.forward(&request);
    fast.tend();
    assert!(fast.flow().fast);
}
