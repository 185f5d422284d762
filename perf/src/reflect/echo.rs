//! The echo loop of one queue.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vl3lb_dataplane::{Frame, Framing, Port};

use super::POLL;
use crate::frame::reflect::reflect;

const BURST: usize = 64;
/// Rounds of polling without a packet before the thread sleeps: some 50 us.
const BUSY_ROUNDS: u32 = 200;

/// Sends the packets of `port` back until `stop`. `counts` are packets sent back and packets without an answer.
pub(super) fn echo<P: Port>(mut port: P, framing: Framing, stop: &AtomicBool, counts: &[AtomicU64; 2]) {
    let mut received = Vec::with_capacity(2 * BURST);
    let mut answers = Vec::with_capacity(2 * BURST);
    let mut empty = 0;
    while !stop.load(Ordering::Relaxed) {
        if port.receive(&mut received, BURST) == 0 {
            // Packets that did not fit into the ring, and completed frames.
            send(&mut port, &mut answers, &counts[0]);
            empty += 1;
            if empty > BUSY_ROUNDS && answers.is_empty() {
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
    let limit = Timespec::try_from(POLL).expect("a short time");
    // A signal ends the wait early.
    poll(
        &mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)],
        Some(&limit),
    )
    .ok();
}

/// Sends the packets that fit into the ring, and counts them.
fn send<P: Port>(port: &mut P, answers: &mut Vec<P::Frame>, reflected: &AtomicU64) {
    let before = answers.len();
    port.transmit(answers);
    reflected.fetch_add((before - answers.len()) as u64, Ordering::Relaxed);
}
