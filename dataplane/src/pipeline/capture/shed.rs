//! Captures packets that the steer program has dropped under overload, before they reached a worker.
//!
//! The program copies the first bytes of a packet while there is room for it, which a worker makes once per millisecond: so
//! under a flood a capture has some of them only, and a flood costs little more than without one.

use vl3lb_common::{DropReason, Duration, Timestamp};

use super::Description;
use super::description::describe_slow;
use crate::packet;
use crate::pipeline::Engine;
use crate::pipeline::tuple::Tuple;
use crate::shed::{SAMPLE_BYTES, Sample, Shed};

/// Between two looks at what was copied: at most 16,000 packets per second.
const PAUSE: Duration = Duration::from_millis(1);

impl Engine {
    /// Asks the program for copies while there are captures.
    pub(in crate::pipeline) fn sample_shed(&mut self) {
        let active = self.capture.is_active();
        if let Some(shed) = self.tables.overload.shed() {
            shed.set_sampling(active);
        }
    }

    /// Captures what has been copied since the last round.
    #[cold]
    pub(super) fn capture_shed(&mut self, now: Timestamp) {
        if now.since(self.capture.sampled_at) < PAUSE {
            return;
        }
        self.capture.sampled_at = now;
        let mut bytes = [0; SAMPLE_BYTES];
        let places = self.tables.overload.shed().map(Shed::sample_places);
        for place in places.into_iter().flatten() {
            let shed = self.tables.overload.shed();
            if let Some(sample) = shed.and_then(|shed| shed.take_sample(place, &mut bytes)) {
                self.capture_sample(&bytes[..sample.copied], sample, now);
            }
        }
    }

    fn capture_sample(&mut self, bytes: &[u8], sample: Sample, now: Timestamp) {
        let parsed = packet::parse(bytes, sample.length, self.policy.framing).ok();
        let mut description = parsed.map_or_else(Description::default, |parsed| {
            let local = self.tables.flows.table().find_local(&parsed.destination);
            match local.and_then(|local| Tuple::of(&parsed, local)) {
                Some((tuple, _)) => self.describe(&parsed, tuple, now),
                None => describe_slow(&parsed, None),
            }
        });
        description.set_dropped(Some((None, DropReason::Overload)));
        let parts = std::iter::once(bytes);
        self.pass_dropped(&description, parsed.as_ref(), false, sample.length, parts, now);
    }
}
