//! The way out for packets of workers whose port has no transmit queue.
//!
//! Such a worker exists where the interface has fewer transmit queues than there are workers. It
//! passes packets that are ready to be sent to a worker that can transmit.

use std::sync::Arc;

use super::doorbell::Doorbell;
use super::handoff::{self, Handoff};
use crate::port::Frame;

/// One worker's ends of the rings for packets that are ready to be sent.
#[derive(Debug)]
pub(crate) struct Relay<F> {
    rings: Handoff<F>,
    /// The worker that transmits for this one; `None` if it does so itself.
    via: Option<u16>,
}

/// Relays between the workers of `bells`, with rings of `frames` frames. `can_transmit` is true for workers
/// that have a transmit queue; `None` for each worker if all have one.
pub(crate) fn mesh<F: Frame>(
    bells: &[Arc<Doorbell>],
    frames: usize,
    can_transmit: &[bool],
) -> Vec<Option<Relay<F>>> {
    let senders: Vec<u16> = (0..)
        .zip(can_transmit)
        .filter_map(|(worker, &can)| can.then_some(worker))
        .collect();
    if senders.is_empty() || senders.len() == can_transmit.len() {
        return can_transmit.iter().map(|_| None).collect();
    }
    let rings = handoff::mesh(bells, frames);
    rings
        .into_iter()
        .zip(can_transmit)
        .enumerate()
        .map(|(worker, (rings, &can))| {
            let via = (!can).then(|| senders[worker % senders.len()]);
            Some(Relay { rings, via })
        })
        .collect()
}

impl<F: Frame> Relay<F> {
    /// Whether this worker's packets leave by another one.
    pub(super) const fn is_needed(&self) -> bool {
        self.via.is_some()
    }

    /// Passes packets from the front of `packets` on, as many as fit, and wakes their sender.
    pub(super) fn transmit(&mut self, packets: &mut Vec<F>) {
        if let Some(via) = self.via {
            self.rings.send_all(via, packets);
            self.rings.ring();
        }
    }

    /// Appends packets that other workers want to be sent to `outgoing`, whole packets only.
    pub(super) fn receive(&mut self, outgoing: &mut Vec<F>, budget: usize) -> usize {
        self.rings.receive(outgoing, budget)
    }

    /// All packets still on their way to this worker, for its end.
    pub(super) fn drain(&mut self) -> Vec<F> {
        self.rings.drain()
    }
}
