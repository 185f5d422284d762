//! State that is read during operations. Its lock is never held during I/O.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vl3lb_common::dataplane::{Attachment, Steered};

use crate::port::provider::SteerCounters;

/// The current attachment and the steer counters.
#[derive(Debug, Default)]
pub(super) struct Status {
    fields: Mutex<Fields>,
}

#[derive(Debug, Default)]
struct Fields {
    attachment: Option<Arc<Attachment>>,
    counters: Option<Arc<dyn SteerCounters>>,
    /// The sums of all former attachments.
    steered_before: Steered,
}

impl Status {
    pub(super) fn attachment(&self) -> Option<Arc<Attachment>> {
        self.lock().attachment.clone()
    }

    /// The steer counters of all attachments together. A few system calls, made without the lock.
    pub(super) fn steered(&self) -> Steered {
        let (before, counters) = {
            let fields = self.lock();
            (fields.steered_before, fields.counters.clone())
        };
        before + counters.map(|counters| counters.read()).unwrap_or_default()
    }

    pub(super) fn set_attached(&self, attachment: Arc<Attachment>, counters: Arc<dyn SteerCounters>) {
        let mut fields = self.lock();
        fields.attachment = Some(attachment);
        fields.counters = Some(counters);
    }

    /// Replaces the attachment's description after a change of MTU or MAC address.
    pub(super) fn update(&self, attachment: Arc<Attachment>) {
        self.lock().attachment = Some(attachment);
    }

    /// Call it when no packet is steered any more.
    pub(super) fn set_detached(&self) {
        let mut fields = self.lock();
        fields.attachment = None;
        if let Some(counters) = fields.counters.take() {
            fields.steered_before = fields.steered_before + counters.read();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fields> {
        self.fields.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
