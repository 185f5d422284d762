//! Every interleaving of packets with a flow that is taken back and whose record and NAT port another flow gets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use vl3lb_common::hash::OwnerKey;

use super::super::memory::{FastMemory, Look, Wait};
use super::super::{FastTable, Promotion};
use super::program::{Program, Step, Target, Tuple};
use super::promotion;

const NAT_PORT: u16 = 20_000;
const A: u32 = 3;
const B: u32 = 9;

/// What the worker does, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Open,
    Close,
    Wait,
    /// The counters of A are final, its NAT port is free.
    Finish,
    Reuse,
    Done,
}

struct World {
    memory: Arc<FastMemory>,
    table: FastTable,
    key: OwnerKey,
    flows: [Promotion; 2],
    programs: Vec<Program>,
    work: Work,
    wait: Option<Wait>,
    /// Packets sent as those of A, before and after it was finished.
    sent_as_a: u64,
    counted_for_a: u64,
    is_finished: bool,
    /// Several steps of a program are one.
    coarse: bool,
    waits: bool,
    faults: Vec<&'static str>,
}

fn packet(flow: &Promotion, is_reply: bool) -> Tuple {
    let (source, ports) = if is_reply {
        (flow.backend, (flow.backend_port, flow.nat_port))
    } else {
        (flow.client, (flow.client_port, flow.service_port))
    };
    Tuple {
        source,
        destination: flow.local,
        ports,
        protocol: flow.protocol,
    }
}

impl World {
    fn new(packets: &[(bool, bool)], coarse: bool, waits: bool) -> Self {
        let memory = Arc::new(FastMemory::anonymous(1, 2).unwrap());
        let key = OwnerKey::from_seed(7);
        let flows = [promotion(100, NAT_PORT), promotion(200, NAT_PORT)];
        Self {
            table: FastTable::new(Arc::clone(&memory), key, (0, 1), 16),
            programs: packets
                .iter()
                .enumerate()
                .map(|(cpu, &(of_b, is_reply))| {
                    Program::new(cpu, packet(&flows[usize::from(of_b)], is_reply), 60, 1)
                })
                .collect(),
            memory,
            key,
            flows,
            work: Work::Open,
            wait: None,
            sent_as_a: 0,
            counted_for_a: 0,
            is_finished: false,
            coarse,
            waits,
            faults: Vec::new(),
        }
    }

    /// Who can do something: the worker is 0.
    fn actors(&self) -> Vec<usize> {
        let programs = self.programs.iter().enumerate();
        let running = programs.filter(|(_, program)| !matches!(program.step, Step::Done { .. }));
        (self.work != Work::Done && !self.is_waiting_in_vain())
            .then_some(0)
            .into_iter()
            .chain(running.map(|(at, _)| at + 1))
            .collect()
    }

    /// A look that would show what the last one did.
    fn is_waiting_in_vain(&self) -> bool {
        self.work == Work::Wait && self.wait.as_ref().is_some_and(|wait| wait.is_same(&self.memory))
    }

    fn act(&mut self, actor: usize) {
        match actor.checked_sub(1) {
            None => self.worker(),
            Some(program) => self.program(program),
        }
    }

    fn worker(&mut self) {
        self.work = match self.work {
            Work::Open => {
                self.table.open(A, &self.flows[0]).unwrap();
                Work::Close
            }
            Work::Close => {
                self.table.close(A);
                if self.waits { Work::Wait } else { Work::Finish }
            }
            Work::Wait => {
                let wait = self.wait.get_or_insert_with(Wait::begin);
                if wait.look(&self.memory) == Look::Over {
                    Work::Finish
                } else {
                    Work::Wait
                }
            }
            Work::Finish => {
                let usage = self.table.release_closing(A);
                self.counted_for_a = usage.packets[0] + usage.packets[1];
                self.is_finished = true;
                Work::Reuse
            }
            Work::Reuse => {
                self.table.open(B, &self.flows[1]).unwrap();
                Work::Done
            }
            Work::Done => Work::Done,
        };
    }

    fn program(&mut self, at: usize) {
        let program = &mut self.programs[at];
        program.advance(&self.memory, &self.key);
        while self.coarse
            && matches!(
                program.step,
                Step::Compare { .. } | Step::Port { .. } | Step::Count { .. }
            )
        {
            program.advance(&self.memory, &self.key);
        }
        if let Step::Leave { target: Some(target) } = program.step {
            let packet = program.packet();
            self.judge(packet, target);
        }
    }

    /// A packet was translated and counted.
    fn judge(&mut self, packet: Tuple, target: Target) {
        let [a, b] = self.flows;
        let is_to = |flow: &Promotion| {
            if packet.source == a.backend {
                target == (flow.client, flow.client_port)
            } else {
                target == (flow.backend, flow.backend_port) && packet.source == flow.client
            }
        };
        let is_of_b = packet.source == b.client;
        if is_to(&a) && !is_of_b {
            self.sent_as_a += 1;
            if self.is_finished {
                self.faults.push("sent with a NAT port that was free");
            }
        } else if !is_to(&b) {
            self.faults.push("sent to somebody else");
        }
    }

    fn end(&mut self) {
        if self.sent_as_a != self.counted_for_a {
            self.faults.push("the counters of A are wrong");
        }
        if (0..2).any(|cpu| self.memory.round(cpu).load(Ordering::Relaxed) % 2 == 1) {
            self.faults.push("a number stays odd");
        }
    }
}

/// Runs all schedules. Returns their number and the faults of all.
fn explore(packets: &[(bool, bool)], coarse: bool, waits: bool) -> (u64, Vec<&'static str>) {
    // For each step of the schedule: the choice, and how many there were.
    let mut schedule: Vec<(usize, usize)> = Vec::new();
    let (mut runs, mut faults) = (0, Vec::new());
    loop {
        let mut world = World::new(packets, coarse, waits);
        let mut step = 0;
        loop {
            let actors = world.actors();
            if actors.is_empty() {
                break;
            }
            if step == schedule.len() {
                schedule.push((0, actors.len()));
            }
            world.act(actors[schedule[step].0]);
            step += 1;
        }
        assert_eq!(world.work, Work::Done, "the worker does not wait for ever");
        world.end();
        runs += 1;
        faults.append(&mut world.faults);
        while let Some((choice, of)) = schedule.pop() {
            if choice + 1 < of {
                schedule.push((choice + 1, of));
                break;
            }
        }
        if schedule.is_empty() {
            faults.sort_unstable();
            faults.dedup();
            return (runs, faults);
        }
    }
}

const REQUEST_OF_A: (bool, bool) = (false, false);
const REQUEST_OF_B: (bool, bool) = (true, false);
const REPLY: (bool, bool) = (false, true);

#[test]
fn no_packet_is_translated_for_another_flow_in_any_order() {
    let mut all = 0;
    for packet in [REQUEST_OF_A, REQUEST_OF_B, REPLY] {
        let (runs, faults) = explore(&[packet], false, true);
        assert_eq!(faults, Vec::<&str>::new(), "{packet:?}");
        all += runs;
    }
    for packets in [[REQUEST_OF_A, REPLY], [REQUEST_OF_B, REPLY], [REPLY, REPLY]] {
        let (runs, faults) = explore(&packets, true, true);
        assert_eq!(faults, Vec::<&str>::new(), "{packets:?}");
        all += runs;
    }
    assert!(all > 1_000, "{all} orders");
}

/// The model sees what the wait is for.
#[test]
fn without_the_wait_the_model_finds_all_faults() {
    let (_, faults) = explore(&[REPLY], false, false);
    assert_eq!(
        faults,
        [
            "sent to somebody else",
            "sent with a NAT port that was free",
            "the counters of A are wrong"
        ]
    );
    let (_, faults) = explore(&[REQUEST_OF_A], false, false);
    assert_eq!(
        faults,
        [
            "sent with a NAT port that was free",
            "the counters of A are wrong"
        ]
    );
}
