//! Hands packets over from the worker that received them to the worker that owns their flow.
//!
//! Each pair of workers has a bounded ring with one writer and one reader. A packet is handed over completely or not at
//! all, without a copy. A sleeping receiver is woken once per burst.

use std::sync::Arc;

use vl3lb_common::sync::ArrayQueue;

use crate::port::{Frame, fitting_frames};

use super::doorbell::Doorbell;

/// One worker's ends of the rings to and from all others.
#[derive(Debug)]
pub(crate) struct Handoff<F> {
    worker: usize,
    /// Row by row: the ring from worker `i` to worker `j` is at `i * workers + j`.
    rings: Arc<[ArrayQueue<F>]>,
    bells: Arc<[Arc<Doorbell>]>,
    /// The workers that were sent packets since the last [`Self::ring`].
    sent: Vec<bool>,
    /// By sender: the head of a packet whose last frame is not in the ring yet.
    partial: Vec<Vec<F>>,
}

/// Rings of `frames` frames between all workers, one for each of `bells`. Returns each worker's
/// ends.
pub(crate) fn mesh<F: Frame>(bells: &[Arc<Doorbell>], frames: usize) -> Vec<Handoff<F>> {
    let workers = bells.len();
    let rings: Arc<[_]> = (0..workers * workers)
        .map(|index| {
            // No worker sends to itself.
            let own = index / workers == index % workers;
            ArrayQueue::new(if own { 1 } else { frames })
        })
        .collect();
    let bells: Arc<[_]> = bells.into();
    (0..workers)
        .map(|worker| Handoff {
            worker,
            rings: Arc::clone(&rings),
            bells: Arc::clone(&bells),
            sent: vec![false; workers],
            partial: (0..workers).map(|_| Vec::new()).collect(),
        })
        .collect()
}

impl<F: Frame> Handoff<F> {
    /// The number of workers, this one included.
    pub(crate) fn workers(&self) -> usize {
        self.bells.len()
    }

    /// Hands all frames of one packet over to worker `to`. False if its ring is too full, or if there
    /// is no such other worker; then `packet` is as it was.
    pub(crate) fn send(&mut self, to: u16, packet: &mut Vec<F>) -> bool {
        let to = usize::from(to);
        let workers = self.bells.len();
        if to >= workers || to == self.worker {
            return false;
        }
        let ring = &self.rings[self.worker * workers + to];
        // Only this worker adds to the ring, so the room cannot shrink.
        if ring.capacity() - ring.len() < packet.len() {
            return false;
        }
        for frame in packet.drain(..) {
            let pushed = ring.push(frame);
            debug_assert!(pushed.is_ok(), "the ring has room for the packet");
        }
        self.sent[to] = true;
        true
    }

    /// Passes packets from the front of `packets` on to worker `to`, as many as fit whole.
    pub(crate) fn send_all(&mut self, to: u16, packets: &mut Vec<F>) {
        let to = usize::from(to);
        let workers = self.bells.len();
        if to >= workers || to == self.worker {
            return;
        }
        let ring = &self.rings[self.worker * workers + to];
        let fits = fitting_frames(packets, ring.capacity() - ring.len());
        for frame in packets.drain(..fits) {
            let pushed = ring.push(frame);
            debug_assert!(pushed.is_ok(), "the ring has room for the packets");
        }
        self.sent[to] |= fits > 0;
    }

    /// Wakes sleeping workers that were sent packets. Once per burst.
    pub(crate) fn ring(&mut self) {
        for (sent, bell) in self.sent.iter_mut().zip(self.bells.iter()) {
            if std::mem::take(sent) {
                bell.ring();
            }
        }
    }

    /// Appends whole packets from other workers, at most about `budget` frames from each. Returns
    /// the number of frames appended.
    pub(crate) fn receive(&mut self, packets: &mut Vec<F>, budget: usize) -> usize {
        let before = packets.len();
        let workers = self.bells.len();
        for from in (0..workers).filter(|&from| from != self.worker) {
            let ring = &self.rings[from * workers + self.worker];
            let partial = &mut self.partial[from];
            for _ in 0..budget {
                let Some(frame) = ring.pop() else { break };
                let last = !frame.continues();
                partial.push(frame);
                if last {
                    packets.append(partial);
                }
            }
        }
        packets.len() - before
    }

    /// All frames that are still on their way to this worker, also parts of packets. For the end, when
    /// the others have stopped.
    pub(crate) fn drain(&mut self) -> Vec<F> {
        let mut frames = Vec::new();
        self.receive(&mut frames, usize::MAX);
        frames.extend(self.partial.iter_mut().flat_map(|partial| partial.drain(..)));
        frames
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::testing::{MemFrame, frame, frames_of};

    fn mesh_of(workers: usize, frames: usize) -> Vec<Handoff<MemFrame>> {
        let bells: Vec<_> = (0..workers).map(|_| Arc::new(Doorbell::new().unwrap())).collect();
        mesh(&bells, frames)
    }

    fn bytes_of(frames: &[MemFrame]) -> Vec<&[u8]> {
        frames.iter().map(MemFrame::bytes).collect()
    }

    #[test]
    fn a_packet_is_handed_over_whole_or_not_at_all() {
        let mut ends = mesh_of(2, 3);
        let [first, second] = &mut ends[..] else {
            unreachable!()
        };
        let mut packet = frames_of(b"abcd", 2);
        assert!(first.send(1, &mut packet));
        assert!(packet.is_empty());
        let mut packet = frames_of(b"efgh", 2);
        assert!(!first.send(1, &mut packet), "two frames, room for one");
        assert_eq!(packet.len(), 2);
        assert!(first.send(1, &mut vec![frame(b"i")]));
        let mut received = Vec::new();
        assert_eq!(second.receive(&mut received, 64), 3);
        assert_eq!(bytes_of(&received), [&b"ab"[..], b"cd", b"i"]);
    }

    #[test]
    fn a_packet_is_held_until_it_is_complete() {
        let mut ends = mesh_of(3, 8);
        assert!(ends[0].send(2, &mut frames_of(b"abc", 1)));
        assert!(ends[1].send(2, &mut vec![frame(b"x")]));
        let mut received = Vec::new();
        ends[2].receive(&mut received, 2);
        assert_eq!(bytes_of(&received), [&b"x"[..]]);
        ends[2].receive(&mut received, 2);
        assert_eq!(bytes_of(&received), [&b"x"[..], b"a", b"b", b"c"]);
    }

    #[test]
    fn a_worker_sends_neither_to_itself_nor_to_a_missing_one() {
        let mut ends = mesh_of(2, 8);
        for to in [0, 2, u16::MAX] {
            let mut packet = vec![frame(b"x")];
            assert!(!ends[0].send(to, &mut packet));
            assert_eq!(packet.len(), 1);
        }
    }

    /// Two threads on real cores: the receiver sleeps whenever it finds nothing, as a worker does.
    #[test]
    fn no_wake_up_and_no_packet_is_lost_between_threads() {
        const PACKETS: usize = 100_000;
        let bells: Vec<_> = (0..2).map(|_| Arc::new(Doorbell::new().unwrap())).collect();
        let mut ends = mesh::<MemFrame>(&bells, 8).into_iter();
        let (mut sender, mut receiver) = (ends.next().unwrap(), ends.next().unwrap());
        let bell = Arc::clone(&bells[1]);
        let receiving = std::thread::spawn(move || {
            let mut received = Vec::new();
            while received.len() < PACKETS {
                if receiver.receive(&mut received, 64) > 0 {
                    continue;
                }
                bell.arm();
                if receiver.receive(&mut received, 64) == 0 {
                    let limit = Timespec {
                        tv_sec: 20,
                        tv_nsec: 0,
                    };
                    let woken = poll(&mut [PollFd::new(&*bell, PollFlags::IN)], Some(&limit)).unwrap();
                    assert_eq!(woken, 1, "asleep after {} packets", received.len());
                }
                bell.disarm();
            }
            received
        });
        for number in 0..PACKETS {
            let mut packet = vec![frame(&number.to_be_bytes())];
            while !sender.send(1, &mut packet) {
                assert!(!receiving.is_finished(), "the receiver has given up");
                std::hint::spin_loop();
            }
            sender.ring();
        }
        let received = receiving.join().unwrap();
        let in_order = (0..PACKETS)
            .zip(&received)
            .all(|(number, frame)| *frame.bytes() == number.to_be_bytes());
        assert!(in_order && received.len() == PACKETS);
    }

    proptest! {
        /// Packets of one to five frames through a small ring: all that were accepted arrive once,
        /// whole and in order.
        #[test]
        fn accepted_packets_arrive_once_whole_and_in_order(
            steps in prop::collection::vec((1_usize..=5, prop::bool::ANY, 1_usize..8), 1..200),
        ) {
            let mut ends = mesh_of(2, 12);
            let [sender, receiver] = &mut ends[..] else { unreachable!() };
            let mut accepted = Vec::new();
            let mut received = Vec::new();
            for (number, (length, read, budget)) in steps.into_iter().enumerate() {
                let bytes = vec![u8::try_from(number % 251).unwrap(); length];
                let mut packet = frames_of(&bytes, 1);
                if sender.send(1, &mut packet) {
                    accepted.push(bytes);
                } else {
                    prop_assert_eq!(packet.len(), length);
                }
                if read {
                    receiver.receive(&mut received, budget);
                }
            }
            received.extend(receiver.drain());
            let mut arrived = vec![Vec::new()];
            for frame in received {
                arrived.last_mut().unwrap().extend_from_slice(frame.bytes());
                if !frame.continues() {
                    arrived.push(Vec::new());
                }
            }
            prop_assert_eq!(arrived.pop(), Some(Vec::new()));
            prop_assert_eq!(arrived, accepted);
        }
    }
}
