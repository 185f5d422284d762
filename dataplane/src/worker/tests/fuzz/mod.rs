//! Fuzz target: sequences of packets through workers, beside a reference NAT. See `vl3lb_testbed::fuzz`.
//!
//! Hosts do what hosts do, but for some packets that are sent again, changed, cut or forged. After each packet, all that
//! came out is checked; at the end, all frames must be where they were.

mod check;
mod datagrams;
mod hostile;
mod kernel;
mod model;
mod network;
mod options;
mod piece;
mod quote;
mod seen;
mod sender;
mod whole;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use vl3lb_common::BackendState;
use vl3lb_common::schedule::Scheduler;

use super::*;
use crate::fastpath::FastMemory;
use check::{Outcome, check, check_reset, doubt, is_own_reset};
use model::Nat;
use network::{BACKENDS, Network};
use seen::Seen;
use sender::{Demand, Hosts, Input};

/// Seeds that have failed: a fragment whose first one was dropped opened a flow; bytes behind an IP packet were taken for
/// a part of it by the check of the MTU in this target; the rest of a datagram whose first fragment was dropped reached the
/// next client of its NAT port.
const CORPUS: &[u64] = &[
    7_713_653_584_490_921_986,
    7_714_000_042_322_822_270,
    7_714_007_700_249_510_085,
];
/// Steps of one seed.
const STEPS: u64 = 3_000;

#[test]
fn packet_sequences_are_translated_as_by_the_reference() {
    vl3lb_testbed::fuzz::run("sequences", 10, CORPUS, |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        let packets = world.packets;
        for worker in &mut world.team.workers {
            worker.engine.set_fast_path(None, 1);
        }
        world.team.close();
        packets
    });
}

struct World {
    rng: StdRng,
    network: Network,
    generation: u64,
    team: Team,
    /// The in-kernel path's arrays, in networks that have one.
    kernel: Option<Arc<FastMemory>>,
    nat: Nat,
    hosts: Hosts,
    packets: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let is_crowded = rng.random_range(0..3) == 0;
        let schedulers = [
            Scheduler::Maglev,
            Scheduler::RoundRobin,
            Scheduler::LeastConnections,
        ];
        let network = Network {
            framing: if rng.random() {
                Framing::RawIp
            } else {
                Framing::Ethernet
            },
            nat_ports: (20_000, if is_crowded { 20_031 } else { 23_999 }),
            scheduler: schedulers[rng.random_range(0..schedulers.len())],
            affinity: Duration::from_secs(if rng.random() { 0 } else { 60 }),
            is_narrow: rng.random_range(0..3) == 0,
            states: [BackendState::Active; BACKENDS],
        };
        let workers = rng.random_range(1..=4);
        let flows = if is_crowded { 64 } else { 16_384 };
        let mut team = Team::with(workers, network.framing, flows, |generation| {
            network.snapshot(generation)
        });
        let kernel = (rng.random_range(0..3) == 0).then(|| {
            let records = if is_crowded { 16 } else { 256 };
            Arc::new(FastMemory::anonymous(records, 1).unwrap())
        });
        let after = rng.random_range(1..16);
        for worker in &mut team.workers {
            worker.engine.set_fast_path(kernel.as_ref(), after);
        }
        let nat = Nat::new(is_crowded);
        Self {
            rng,
            hosts: Hosts::new(&network),
            network,
            generation: 1,
            team,
            kernel,
            nat,
            packets: 0,
        }
    }

    fn step(&mut self) {
        let micros = self.rng.random_range(10..1_000);
        self.pass(Duration::from_micros(micros));
        match self.rng.random_range(0..1_000) {
            0..5 => {
                let seconds = self.rng.random_range(1..400);
                self.pass(Duration::from_secs(seconds));
            }
            5..9 => self.publish(),
            _ => {
                let has_backends = self.network.states.contains(&BackendState::Active);
                let next = self
                    .hosts
                    .next(&mut self.rng, &self.nat, has_backends, self.team.now);
                if let Some(input) = next {
                    self.send(&input);
                }
            }
        }
    }

    /// Time without packets.
    fn pass(&mut self, time: Duration) {
        self.team.now = self.team.now + time;
        self.settle();
    }

    /// Backends change their states; what comes out are resets.
    fn publish(&mut self) {
        let draining = BackendState::Draining { since: self.team.now };
        let states = [BackendState::Active, draining, BackendState::Down];
        for state in &mut self.network.states {
            *state = states[self.rng.random_range(0..states.len())];
        }
        if self.rng.random_range(0..4) > 0 {
            self.network.states[0] = BackendState::Active;
        }
        self.generation += 1;
        for inbox in &self.team.inboxes {
            inbox.publish(Arc::new(self.network.snapshot(self.generation)));
        }
        self.nat.doubt_all();
        self.settle();
    }

    /// Steps the workers until none has anything to do.
    fn settle(&mut self) {
        self.team.settle();
        for output in self.team.transmitted().concat() {
            check_reset(&self.nat, &self.network, &output);
        }
    }

    fn send(&mut self, input: &Input) {
        let worker = self.rng.random_range(0..self.team.workers.len());
        let ethernet = self.network.framing == Framing::Ethernet;
        if input.is_hostile {
            for packet in [&input.packet, &input.of] {
                if let Some(seen) = Seen::of(packet, ethernet) {
                    doubt(&mut self.nat, &seen);
                }
            }
        }
        let by_kernel = self
            .kernel
            .as_ref()
            .and_then(|memory| kernel::translated(memory, &self.network, &input.packet, self.team.now));
        let mut out = match by_kernel {
            Some(output) => vec![output],
            None => self.team.send(worker, &input.packet),
        };
        // Before the packet, for which half-open connections have made room.
        for reset in out.extract_if(.., |output| is_own_reset(output, &input.packet, ethernet)) {
            check_reset(&self.nat, &self.network, &reset);
        }
        self.packets += 1;
        let now = self.team.now;
        let (nat, network) = (&mut self.nat, &self.network);
        let outcome = check(nat, network, &input.packet, input.is_sound, &out, now);
        let is_met = match input.demand {
            Demand::None => true,
            Demand::Request => matches!(outcome, Outcome::Request(..)),
            Demand::Reply => matches!(outcome, Outcome::Reply(..)),
        };
        assert!(is_met, "{outcome:?} of {input:?}");
        self.hosts.note(input, &out, outcome);
    }
}
