//! All interleavings of workers and control side, by the model checker. See `vl3lb_common::sync`.
//!
//! The eventfd is the kernel's, which the model does not know: it is as it is in the interleaving that is tried.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_common::next_hop::Link;
use vl3lb_common::sync::ArrayQueue;

use super::doorbell::Doorbell;
use super::handoff::{Handoff, mesh};
use super::inbox::Inbox;
use crate::port::Frame;
use crate::testing::world;
use crate::testing::{MemFrame, frame, frames_of};

/// Whether a sleep on `bell` would end at once.
fn is_awake(bell: &Doorbell) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::new(bell, PollFlags::IN)], Some(&now)).unwrap() == 1
}

fn bells(count: usize) -> Vec<Arc<Doorbell>> {
    (0..count).map(|_| Arc::new(Doorbell::new().unwrap())).collect()
}

/// What a worker does before it sleeps: it arms the bell and looks once more. Whether `look` found something; if not, the
/// worker sleeps.
fn look_before_sleep(bell: &Doorbell, mut look: impl FnMut() -> bool) -> bool {
    if look() {
        return true;
    }
    bell.arm();
    let has_found = look();
    if has_found {
        bell.disarm();
    }
    has_found
}

/// When all others are done: the end of a sleep, and what `look` finds then.
fn wake(bell: &Doorbell, mut look: impl FnMut() -> bool) {
    assert!(is_awake(bell), "asleep for ever");
    bell.disarm();
    assert!(look(), "woken for nothing");
}

fn receive(end: &mut Handoff<MemFrame>, received: &mut Vec<MemFrame>) -> bool {
    end.receive(received, 8) > 0
}

#[test]
fn a_packet_wakes_the_worker_and_arrives_whole() {
    loom::model(|| {
        let bells = bells(2);
        let mut ends = mesh::<MemFrame>(&bells, 2).into_iter();
        let (mut sender, mut receiver) = (ends.next().unwrap(), ends.next().unwrap());
        let sending = loom::thread::spawn(move || {
            assert!(sender.send(1, &mut frames_of(b"ab", 1)));
            sender.ring();
        });
        let mut received = Vec::new();
        let has_found = look_before_sleep(&bells[1], || receive(&mut receiver, &mut received));
        sending.join().unwrap();
        if has_found {
            receive(&mut receiver, &mut received);
        } else {
            wake(&bells[1], || receive(&mut receiver, &mut received));
        }
        let bytes: Vec<_> = received.iter().map(MemFrame::bytes).collect();
        assert_eq!(bytes, [b"a", b"b"]);
        assert!(received[0].continues() && !received[1].continues());
    });
}

#[test]
fn a_full_ring_takes_a_packet_whole_or_not_at_all() {
    loom::model(|| {
        let bells = bells(2);
        let mut ends = mesh::<MemFrame>(&bells, 2).into_iter();
        let (mut sender, mut receiver) = (ends.next().unwrap(), ends.next().unwrap());
        assert!(sender.send(1, &mut vec![frame(b"x")]));
        let sending = loom::thread::spawn(move || {
            let mut packet = frames_of(b"ab", 1);
            let is_sent = sender.send(1, &mut packet);
            assert_eq!(packet.len(), if is_sent { 0 } else { 2 });
            is_sent
        });
        let mut received = Vec::new();
        receive(&mut receiver, &mut received);
        let is_sent = sending.join().unwrap();
        received.extend(receiver.drain());
        assert_eq!(received.len(), if is_sent { 3 } else { 1 });
    });
}

/// One sleep alone. Over two, the model would let a sender read what the swap of another one wrote in the first: it orders a
/// swap only after what it knows of, although nothing can be between a swap and the value that it took.
#[test]
fn of_two_senders_none_is_missed() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let bell = Arc::new(Doorbell::new().unwrap());
        let queues: Arc<[ArrayQueue<u8>; 2]> = Arc::new([ArrayQueue::new(1), ArrayQueue::new(1)]);
        let senders = [0, 1].map(|number| {
            let (bell, queues) = (Arc::clone(&bell), Arc::clone(&queues));
            loom::thread::spawn(move || {
                assert!(queues[number].push(7).is_ok());
                bell.ring();
            })
        });
        let mut found = 0;
        let mut look = || {
            let new = queues.iter().filter_map(ArrayQueue::pop).count();
            found += new;
            new > 0
        };
        let has_found = look_before_sleep(&bell, &mut look);
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        if has_found {
            look();
        } else {
            wake(&bell, &mut look);
        }
        assert_eq!(found, 2);
    });
}

#[test]
fn a_snapshot_wakes_the_worker() {
    let snapshot = Arc::new(world::snapshot(2, Link::RawIp));
    loom::model(move || {
        let inbox = Arc::new(Inbox::new().unwrap());
        let control = {
            let (inbox, snapshot) = (Arc::clone(&inbox), Arc::clone(&snapshot));
            loom::thread::spawn(move || inbox.publish(snapshot))
        };
        let look = || inbox.snapshots.take().is_some();
        let has_found = look_before_sleep(inbox.bell(), look);
        control.join().unwrap();
        if !has_found {
            wake(inbox.bell(), look);
        }
    });
}

#[test]
fn a_snapshot_and_a_stop_reach_a_sleeping_worker() {
    let snapshot = Arc::new(world::snapshot(2, Link::RawIp));
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(move || {
        let inbox = Arc::new(Inbox::new().unwrap());
        let control = {
            let (inbox, snapshot) = (Arc::clone(&inbox), Arc::clone(&snapshot));
            loom::thread::spawn(move || {
                inbox.publish(snapshot);
                inbox.stop();
            })
        };
        let mut has_snapshot = false;
        let mut look = || {
            let is_new = inbox.snapshots.take().is_some();
            has_snapshot |= is_new;
            is_new || inbox.is_stopped()
        };
        let mut is_asleep = false;
        for _ in 0..2 {
            is_asleep = !look_before_sleep(inbox.bell(), &mut look);
            if is_asleep || inbox.is_stopped() {
                break;
            }
        }
        if inbox.is_stopped() {
            // The last rounds, which process what came before.
            has_snapshot |= inbox.snapshots.take().is_some();
            assert!(has_snapshot, "what was published before the stop");
        }
        control.join().unwrap();
        if is_asleep {
            wake(inbox.bell(), || inbox.is_stopped());
        }
    });
}
