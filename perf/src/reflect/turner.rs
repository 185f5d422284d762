//! The loop of one queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_dataplane::packet::Framing;
use vl3lb_dataplane::port::{Frame, Port};

use super::LOOK;
use crate::frame::reflect::reflect;

const BURST: usize = 64;
/// Rounds without a packet before the thread sleeps: some 50 us.
const PATIENCE: u32 = 200;

/// Turns round what arrives at `port` until `stop`. `counts` are packets reflected and packets without an
/// answer.
pub(super) fn turn<P: Port>(mut port: P, framing: Framing, stop: &AtomicBool, counts: &[AtomicU64; 2]) {
    let mut received = Vec::with_capacity(2 * BURST);
    let mut answers = Vec::with_capacity(2 * BURST);
    let mut empty = 0;
    while !stop.load(Ordering::Relaxed) {
        if port.receive(&mut received, BURST) == 0 {
            // What did not fit into the ring, and frames to be taken back.
            send(&mut port, &mut answers, &counts[0]);
            empty += 1;
            if empty > PATIENCE && answers.is_empty() {
                sleep(&port);
                empty = 0;
            }
            continue;
        }
        empty = 0;
        let mut dropped = 0;
        let mut whole = true;
        for mut frame in received.drain(..) {
            let single = whole && !frame.continues();
            whole = !frame.continues();
            if single && answers.len() < 2 * BURST && reflect(frame.bytes_mut(), framing) {
                answers.push(frame);
            } else {
                dropped += 1;
                port.release(frame);
            }
        }
        send(&mut port, &mut answers, &counts[0]);
        counts[1].fetch_add(dropped, Ordering::Relaxed);
    }
    for frame in answers {
        port.release(frame);
    }
}

fn sleep<P: Port>(port: &P) {
    let Some(socket) = port.wait_descriptor() else {
        return;
    };
    let limit = Timespec::try_from(LOOK).expect("a short time");
    // A signal ends the wait early: the caller looks whether to end.
    poll(
        &mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)],
        Some(&limit),
    )
    .ok();
}

/// Sends what fits into the ring, and counts it.
fn send<P: Port>(port: &mut P, answers: &mut Vec<P::Frame>, reflected: &AtomicU64) {
    let before = answers.len();
    port.transmit(answers);
    reflected.fetch_add((before - answers.len()) as u64, Ordering::Relaxed);
}
