//! What `bpf/fastpath.h` does with a packet, a step at a time.

use std::sync::atomic::Ordering;

use vl3lb_common::hash::OwnerKey;
use vl3lb_common::sync::atomic::AtomicU64;

use super::super::layout::{
    BACKEND, BYTES, CLIENT, HOPS, LOCAL, MTUS, NUMBERS, PACKETS, PORTS, PROTOCOL, USED, WINDOWS, index_word,
    pair, side, unpaired, word, words,
};
use super::super::memory::FastMemory;
use crate::flow::Direction;

/// The addresses and ports of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
    pub(crate) ports: (u16, u16),
    pub(crate) protocol: u8,
}

/// Where a packet was sent: address and port.
pub(crate) type Target = ([u8; 16], u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Enter,
    Find,
    Compare {
        record: u32,
        direction: Direction,
    },
    Address {
        record: u32,
        direction: Direction,
    },
    Port {
        record: u32,
        direction: Direction,
        address: [u8; 16],
    },
    Count {
        record: u32,
        direction: Direction,
        target: Target,
    },
    Leave {
        target: Option<Target>,
    },
    Done {
        target: Option<Target>,
    },
}

/// A TCP segment with nothing but the ACK flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
    pub(crate) payload: u32,
}

impl Segment {
    /// `vl3lb_fast_follow`: the numbers of a direction after this segment.
    fn follow(self, record: &[AtomicU64], direction: Direction) -> (u32, u32) {
        let both = |at: usize| unpaired(record[at].load(Ordering::Relaxed));
        let later = |a: u32, b: u32| if a.wrapping_sub(b).cast_signed() > 0 { a } else { b };
        let (mut own_end, mut acknowledged) = both(side(direction) + NUMBERS);
        let (other_end, other_acknowledged) = both(side(direction.opposite()) + NUMBERS);
        let (window, other_window) = match (both(WINDOWS), direction) {
            ((of_client, of_backend), Direction::In) => (of_client, of_backend),
            ((of_client, of_backend), Direction::Out) => (of_backend, of_client),
        };
        let end = later(own_end, other_acknowledged);
        let other_end = later(other_end, acknowledged);
        let next = self.sequence.wrapping_add(self.payload);
        let moved = next.wrapping_sub(end);
        let gap = self.acknowledgment.wrapping_sub(other_end);
        if self.sequence == end {
            own_end = next;
            if gap.cast_signed() > 0 && gap <= window {
                acknowledged = self.acknowledgment;
            }
        } else if moved.cast_signed() > 0
            && moved <= other_window
            && gap.cast_signed().unsigned_abs() <= window
        {
            own_end = next;
        }
        (own_end, acknowledged)
    }
}

/// What the program makes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translated {
    pub(crate) target: Target,
    pub(crate) source_port: u16,
    /// Where the frame goes.
    pub(crate) mac: [u8; 6],
}

/// A packet on its way through the program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    cpu: usize,
    packet: Tuple,
    bytes: u64,
    used: u64,
    /// TCP: the numbers to be noted, as the real program would.
    pub(crate) numbers: Option<(u32, u32)>,
    /// TCP: what the numbers to be noted follow from, instead.
    pub(crate) segment: Option<Segment>,
    /// The record by which the packet was translated.
    taken: Option<(u32, Direction)>,
    /// Packets longer than the record's MTU are left.
    judges_length: bool,
    pub(crate) step: Step,
}

impl Program {
    pub(crate) const fn new(cpu: usize, packet: Tuple, bytes: u64, used: u64) -> Self {
        Self {
            cpu,
            packet,
            bytes,
            used,
            numbers: None,
            segment: None,
            taken: None,
            judges_length: false,
            step: Step::Enter,
        }
    }

    pub(crate) const fn packet(&self) -> Tuple {
        self.packet
    }

    /// Runs to the end. `Some` if the program took the packet.
    pub(crate) fn run(mut self, memory: &FastMemory, key: &OwnerKey) -> Option<Target> {
        loop {
            if let Step::Done { target } = self.step {
                return target;
            }
            self.advance(memory, key);
        }
    }

    /// Runs to the end. `Some` if the program took the packet: where it goes, and with what source.
    pub(crate) fn translate(mut self, memory: &FastMemory, key: &OwnerKey) -> Option<Translated> {
        self.judges_length = true;
        while !matches!(self.step, Step::Done { .. }) {
            self.advance(memory, key);
        }
        let Step::Done { target: Some(target) } = self.step else {
            return None;
        };
        let (record, direction) = self.taken?;
        let (source_port, _) = ports(memory, record, direction.opposite());
        Some(Translated {
            target,
            source_port,
            mac: mac(memory, record, direction),
        })
    }

    fn is_too_long(&self, memory: &FastMemory, record: u32, direction: Direction) -> bool {
        let bytes = memory.record(record)[MTUS].load(Ordering::Relaxed).to_ne_bytes();
        let at = 2 * direction as usize;
        let mtu = u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        self.judges_length && self.bytes > mtu.into()
    }

    pub(crate) fn advance(&mut self, memory: &FastMemory, key: &OwnerKey) {
        let round = memory.round(self.cpu);
        let packet = &self.packet;
        self.step = match self.step {
            Step::Enter => {
                round.fetch_add(1, Ordering::SeqCst);
                Step::Find
            }
            Step::Find => {
                let (source, destination) = packet.ports;
                let hash = key.tuple_hash(&packet.source, source, destination, packet.protocol);
                let (_, bucket) = memory.bucket(hash);
                bucket
                    .iter()
                    .map(|place| place.load(Ordering::Relaxed))
                    .filter(|&word| word >> 32 == hash & 0xffff_ffff)
                    .find_map(|word| {
                        let record = u32::try_from((word & 0xffff_ffff) >> 1).unwrap().checked_sub(1)?;
                        [Direction::In, Direction::Out]
                            .into_iter()
                            .find(|&direction| index_word(hash, record, direction) == word)
                            .map(|direction| Step::Compare { record, direction })
                    })
                    .unwrap_or(Step::Leave { target: None })
            }
            Step::Compare { record, direction } => {
                if is_key(memory, record, direction, packet) && !self.is_too_long(memory, record, direction) {
                    Step::Address { record, direction }
                } else {
                    Step::Leave { target: None }
                }
            }
            Step::Address { record, direction } => Step::Port {
                record,
                direction,
                address: address(memory, record, peer(direction.opposite())),
            },
            Step::Port {
                record,
                direction,
                address,
            } => {
                let (_, receiver) = ports(memory, record, direction.opposite());
                Step::Count {
                    record,
                    direction,
                    target: (address, receiver),
                }
            }
            Step::Count {
                record,
                direction,
                target,
            } => {
                let at = side(direction);
                let words = memory.record(record);
                words[at + PACKETS].fetch_add(1, Ordering::Relaxed);
                words[at + BYTES].fetch_add(self.bytes, Ordering::Relaxed);
                words[at + USED].store(self.used, Ordering::Relaxed);
                self.taken = Some((record, direction));
                let followed = self.segment.map(|segment| segment.follow(words, direction));
                if let Some((end, acknowledged)) = self.numbers.or(followed) {
                    words[at + NUMBERS].store(pair(end, acknowledged), Ordering::Relaxed);
                }
                Step::Leave { target: Some(target) }
            }
            Step::Leave { target } => {
                round.fetch_add(1, Ordering::SeqCst);
                Step::Done { target }
            }
            done @ Step::Done { .. } => done,
        };
    }
}

/// The MAC address that a record has for a direction.
pub(crate) fn mac(memory: &FastMemory, record: u32, direction: Direction) -> [u8; 6] {
    let word = memory.record(record)[HOPS + direction as usize].load(Ordering::Relaxed);
    let [mac @ .., _, _] = word.to_ne_bytes();
    mac
}

/// The record's word of the sender of a direction.
const fn peer(direction: Direction) -> usize {
    match direction {
        Direction::In => CLIENT,
        Direction::Out => BACKEND,
    }
}

fn address(memory: &FastMemory, record: u32, at: usize) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (piece, word) in bytes.chunks_exact_mut(8).zip(&memory.record(record)[at..]) {
        piece.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
    }
    bytes
}

/// The ports of a direction's packets before translation: the balancer's, the sender's.
fn ports(memory: &FastMemory, record: u32, direction: Direction) -> (u16, u16) {
    let bytes = memory.record(record)[PORTS].load(Ordering::Relaxed).to_ne_bytes();
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    match direction {
        Direction::In => (port(2), port(0)),
        Direction::Out => (port(4), port(6)),
    }
}

fn is_key(memory: &FastMemory, record: u32, direction: Direction, packet: &Tuple) -> bool {
    let (own, sender) = ports(memory, record, direction);
    let protocol = memory.record(record)[PROTOCOL].load(Ordering::Relaxed);
    address(memory, record, peer(direction)) == packet.source
        && words(packet.destination) == words(address(memory, record, LOCAL))
        && (sender, own) == packet.ports
        && protocol == word([packet.protocol, 0, 0, 0, 0, 0, 0, 0])
}
