//! Copies packets for captures: as they came in, as they leave, and what was decided about them.
//!
//! While somebody captures, a burst takes another way ([`Engine::forward_captured`]): each packet is copied before it is
//! decided about, and after that the copy is completed and passed on, or its buffer used again. So without a capture a
//! packet costs nothing more, and with one nothing about its treatment changes.
//!
//! The in-kernel path makes no copies. So flows that a capture wants are taken back, some in each round, and stay with
//! their worker until the capture ends ([`super::promotion`]). If the worker runs out of buffers before that, the capture
//! is no reason any more to keep flows out of the in-kernel path: traffic goes before.

mod description;

use std::sync::Arc;

use vl3lb_common::capture::{CaptureFeed, CaptureSettings, CaptureVerdict, CapturedPacket, Image};
use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::batch::{Prepared, prepare};
use super::classify::Class;
use super::policy::Policy;
use super::tuple::Tuple;
use super::{Engine, Origin, Verdict};
use crate::flow::{FlowTable, HotEntry};
use crate::port::{Frame, packet_len};
use description::{Description, describe_slow, headers, headers_of, parse, subject_of};

/// Promoted flows that are looked at in one round when a capture begins: some 20 us if all of them are taken back.
const REVIEWED: usize = 64;
/// Bytes behind the link header that are taken for headers in a packet that cannot be parsed.
const UNPARSED: usize = 40;

/// A worker's captures.
#[derive(Debug, Default)]
pub(super) struct Capturing {
    feed: Option<Arc<CaptureFeed>>,
    /// Of the settings in use.
    version: u64,
    settings: Option<Arc<CaptureSettings>>,
    /// Whether there is a capture.
    active: bool,
    /// The packet that was dropped last: its service, if it has one, and why.
    pub(super) dropped: Option<(Option<ServiceSlot>, DropReason)>,
    /// The next place of the list of promoted flows to be looked at; `None`: all of them were.
    review: Option<usize>,
    /// A packet found no buffer: captured flows may be promoted.
    yields: bool,
}

impl Capturing {
    /// Whether somebody captures.
    #[inline(always)]
    pub(super) const fn is_active(&self) -> bool {
        self.active
    }

    /// Whether promoted flows remain to be looked at.
    pub(super) const fn is_reviewing(&self) -> bool {
        self.review.is_some()
    }

    /// Whether a capture wants the packets of a flow, so that its worker has to see them.
    #[inline]
    pub(super) fn wants(&self, policy: &Policy, table: &FlowTable, entry: &HotEntry) -> bool {
        self.active && !self.yields && self.wants_by_filter(policy, table, entry)
    }

    #[cold]
    fn wants_by_filter(&self, policy: &Policy, table: &FlowTable, entry: &HotEntry) -> bool {
        let subject = subject_of(policy, table, entry);
        let settings = self.settings.iter().flat_map(|settings| &settings.captures);
        settings
            .flatten()
            .any(|capture| capture.filter.wants_forwarded(&subject))
    }

    /// The captures that accept a packet, as bits.
    fn accepting(&self, description: &Description) -> u8 {
        let captures = self.settings.iter().flat_map(|settings| &settings.captures);
        let mut bits = 0;
        for (number, capture) in captures.enumerate() {
            let accepts = |subject| {
                capture
                    .as_ref()
                    .is_some_and(|capture| capture.filter.accepts(subject))
            };
            if accepts(&description.subject) || description.reversed.as_ref().is_some_and(accepts) {
                bits |= 1 << number;
            }
        }
        bits
    }

    /// A buffer with a packet as it came in, if one is free.
    fn begin<F: Frame>(&mut self, packet: &[F]) -> Option<Box<CapturedPacket>> {
        self.dropped = None;
        let mut buffer = self.feed.as_ref()?.take()?;
        self.copy(packet, &mut buffer.received);
        Some(buffer)
    }

    fn copy<F: Frame>(&self, packet: &[F], image: &mut Image) {
        let snap_length = self
            .settings
            .as_ref()
            .map_or(0, |settings| settings.snap_length());
        let mut room = snap_length.min(image.bytes.capacity());
        image.bytes.clear();
        image.length = packet_len(packet);
        for frame in packet {
            let bytes = frame.bytes();
            let copied = bytes.len().min(room);
            image.bytes.extend_from_slice(&bytes[..copied]);
            room -= copied;
        }
    }

    /// Passes a copy on, if the packet is for a capture; else the buffer is used again.
    fn finish(&mut self, buffer: Option<Box<CapturedPacket>>, captures: u8) {
        let Some(feed) = &self.feed else { return };
        match buffer {
            Some(mut buffer) if captures == 0 => {
                buffer.clear();
                feed.put_back(buffer);
            }
            Some(mut buffer) => {
                buffer.captures = captures;
                if self.settings.as_ref().is_none_or(|settings| !settings.payload()) {
                    for image in [&mut buffer.received, &mut buffer.sent] {
                        image.bytes.truncate(image.headers);
                    }
                }
                feed.push(captures, Some(buffer));
            }
            None if captures == 0 => {}
            None => {
                self.yields = true;
                feed.push(captures, None);
            }
        }
    }
}

impl Engine {
    /// Copies packets to `feed`, while there are captures.
    pub fn set_capture_feed(&mut self, feed: Arc<CaptureFeed>) {
        self.capture = Capturing {
            feed: Some(feed),
            ..Capturing::default()
        };
    }

    /// Uses new settings, if there are any. Once per round: one load.
    #[inline]
    pub fn update_capture(&mut self) {
        let capture = &mut self.capture;
        if let Some(feed) = &capture.feed
            && let Some(settings) = feed.changed(&mut capture.version)
        {
            capture.active = settings.is_active();
            capture.review = capture.active.then_some(0);
            capture.yields = false;
            if let Some(former) = capture.settings.replace(settings) {
                feed.give_back(former);
            }
        }
    }

    /// Takes back promoted flows that a capture wants: of the next [`REVIEWED`].
    pub(super) fn review_captured(&mut self) {
        let Some(mut place) = self.capture.review else {
            return;
        };
        let flows = &mut self.tables.flows;
        for _ in 0..REVIEWED {
            let Some(id) = flows.fast_flow_at(place) else {
                self.capture.review = None;
                return;
            };
            if self
                .capture
                .wants(&self.policy, flows.table(), flows.table().entry(id))
            {
                flows.demote(id);
            }
            // In the place of one that was taken back is the last one of the list.
            if flows.is_fast(id) {
                place += 1;
            }
        }
        self.capture.review = Some(place);
    }

    /// [`forward_burst`](Self::forward_burst) while somebody captures.
    #[cold]
    #[inline(never)]
    pub(super) fn forward_captured<F: Frame>(
        &mut self,
        burst: &mut [F],
        origin: Origin,
        now: Timestamp,
        verdicts: &mut Vec<(Verdict, usize)>,
    ) {
        let mut group = std::mem::take(&mut self.group);
        let mut rest = burst;
        while !rest.is_empty() {
            let (packets, _) = prepare(&self.policy, self.tables.flows.table(), rest, &mut group);
            for prepared in &group[..packets] {
                let (packet, after) = rest.split_at_mut(prepared.frames);
                rest = after;
                let verdict = self.decide_captured(packet, prepared, origin, now);
                verdicts.push((verdict, prepared.frames));
            }
        }
        self.group = group;
    }

    /// Decides about a packet, and copies it before and after.
    pub(super) fn decide_captured<F: Frame>(
        &mut self,
        packet: &mut [F],
        prepared: &Prepared,
        origin: Origin,
        now: Timestamp,
    ) -> Verdict {
        let buffer = self.capture.begin(packet);
        let verdict = self.decide_at_length(packet, prepared, origin, now);
        self.capture_decided(packet, prepared, buffer, verdict, now);
        verdict
    }

    /// The same of a fragment that has waited: `decide` decides about it.
    pub(super) fn resume_captured<F: Frame>(
        &mut self,
        packet: &mut [F],
        prepared: &Prepared,
        now: Timestamp,
        decide: impl FnOnce(&mut Self, &mut [F]) -> Verdict,
    ) -> Verdict {
        let buffer = self.capture.begin(packet);
        let verdict = decide(self, packet);
        self.capture_decided(packet, prepared, buffer, verdict, now);
        verdict
    }

    /// Completes the copy of a packet by what was decided about it.
    fn capture_decided<F: Frame>(
        &mut self,
        packet: &[F],
        prepared: &Prepared,
        mut buffer: Option<Box<CapturedPacket>>,
        verdict: Verdict,
        now: Timestamp,
    ) {
        let captured = match verdict {
            Verdict::Transmit => CaptureVerdict::Forward,
            Verdict::Segment { .. } => CaptureVerdict::Segment,
            Verdict::Fragment { .. } => CaptureVerdict::Fragment,
            Verdict::Insert { .. } => CaptureVerdict::Insert,
            Verdict::Reject => CaptureVerdict::Reject,
            Verdict::Drop => CaptureVerdict::Drop,
            // Captured where, and when, it is decided.
            Verdict::Wait(_) | Verdict::Handoff(_) | Verdict::Overflow(_) => {
                return self.capture.finish(buffer, 0);
            }
        };
        let framing = self.policy.framing;
        let unparsed = framing.header_len() + UNPARSED;
        let sent = match verdict {
            Verdict::Drop => &[],
            // The others are released.
            Verdict::Reject => &packet[..packet.len().min(1)],
            _ => packet,
        };
        let sent_headers = headers_of(sent, framing);
        let parsed = match prepared.class {
            Class::Flow | Class::SlowPath { .. } => Some(prepared.parsed),
            // It is as it came in.
            Class::Drop(_) => parse(packet, framing),
        };
        let mut description = match (&prepared.class, &parsed) {
            (Class::Flow, Some(parsed)) => self.describe(parsed, prepared.lookup.tuple, now),
            (_, Some(parsed)) => {
                let to = sent_headers.filter(|_| verdict != Verdict::Reject);
                describe_slow(parsed, to.map(|(sent, _)| sent.destination))
            }
            (_, None) => Description::default(),
        };
        if matches!(captured, CaptureVerdict::Drop | CaptureVerdict::Reject) {
            description.set_dropped(self.capture.dropped);
        }
        let captures = self.capture.accepting(&description);
        if captures != 0
            && let Some(buffer) = &mut buffer
        {
            self.fill(buffer, &description, captured, now);
            buffer.received.headers = parsed.map_or(unparsed, |parsed| headers(&parsed));
            if !sent.is_empty() {
                self.capture.copy(sent, &mut buffer.sent);
                buffer.sent.headers = sent_headers.map_or(unparsed, |(_, length)| length);
            }
        }
        self.capture.finish(buffer, captures);
    }

    /// Captures a packet that was decided about and then dropped, before it was translated or after that.
    #[cold]
    pub(super) fn capture_unsent<F: Frame>(
        &mut self,
        packet: &[F],
        service: Option<ServiceSlot>,
        reason: DropReason,
        now: Timestamp,
    ) {
        let framing = self.policy.framing;
        let unparsed = framing.header_len() + UNPARSED;
        let parsed = parse(packet, framing);
        let table = self.tables.flows.table();
        let local = |address: &[u8; 16]| table.find_local(address);
        let is_translated = parsed.is_some_and(|parsed| local(&parsed.source).is_some());
        let mut description = Description::default();
        if let Some(parsed) = &parsed {
            let own = if is_translated {
                &parsed.source
            } else {
                &parsed.destination
            };
            let tuple = local(own).and_then(|local| Tuple::of(parsed, local));
            description = match tuple {
                Some((tuple, _)) if is_translated => self
                    .translated(parsed, tuple, now)
                    .map(|(id, direction)| self.describe_flow(id, direction))
                    .unwrap_or_default(),
                Some((tuple, _)) => self.describe(parsed, tuple, now),
                None => describe_slow(parsed, None),
            };
        }
        description.set_dropped(Some((service, reason)));
        let captures = self.capture.accepting(&description);
        if captures == 0 {
            return;
        }
        let mut buffer = self.capture.feed.as_ref().and_then(|feed| feed.take());
        if let Some(buffer) = &mut buffer {
            self.fill(buffer, &description, CaptureVerdict::Drop, now);
            let image = if is_translated {
                &mut buffer.sent
            } else {
                &mut buffer.received
            };
            self.capture.copy(packet, image);
            image.headers = parsed.map_or(unparsed, |parsed| headers(&parsed));
        }
        self.capture.finish(buffer, captures);
    }

    fn fill(
        &self,
        buffer: &mut CapturedPacket,
        description: &Description,
        verdict: CaptureVerdict,
        now: Timestamp,
    ) {
        buffer.settings = self
            .capture
            .settings
            .as_ref()
            .map_or(0, |settings| settings.number);
        buffer.at = now;
        buffer.generation = self.policy.snapshot.generation;
        buffer.verdict = verdict;
        buffer.reason = description.subject.reason;
        buffer.direction = description.direction;
        buffer.service = description.subject.service;
        buffer.flow = description.flow;
    }
}
