//! Copies packets for captures: as they came in, as they leave, and what was decided about them.
//!
//! While somebody captures, a burst takes another way ([`Engine::forward_captured`]): each packet is copied before it is
//! decided about, and after that the copy is completed and passed on, or its buffer used again. Packets that no capture can
//! want are not copied ([`Interest`]). So without a capture a packet costs nothing more, and with one nothing about its
//! treatment changes. A flow whose forwarded packets no capture wants is marked by its first packet, and its later ones
//! cost nearly what they cost without a capture.
//!
//! When captures change, all flows are reviewed, some in each round: marks by the former settings are removed, and until
//! that is done none counts. The in-kernel path makes no copies, so flows in it that a capture wants are taken back, and
//! stay with their worker until the capture ends ([`super::promotion`]). If the worker runs out of buffers before that,
//! the capture is no reason any more to keep flows out of the in-kernel path: traffic goes before.

mod description;
mod shed;

use std::sync::Arc;

use vl3lb_common::capture::{
    Capture, CaptureFeed, CaptureSettings, CaptureVerdict, CapturedPacket, Image, Subject,
};
use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::batch::{Prepared, prepare};
use super::classify::Class;
use super::policy::Policy;
use super::tuple::Tuple;
use super::{Engine, Origin, Verdict, early_selection};
use crate::flow::{FlowTable, HotEntry};
use crate::packet::Parsed;
use crate::port::{Frame, packet_len};
use description::{Description, describe_slow, hash_of_flow, headers, headers_of, parse, subject_of};

/// Flows that are reviewed in one round when captures change: some 20 us if all of them are taken back.
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
    /// The places of captures in the settings, as bits: most have none, and for each packet all are looked at.
    active: u8,
    /// A buffer of a packet that no capture wanted, for the next one.
    spare: Option<Box<CapturedPacket>>,
    /// The packet that was dropped last: its service, if it has one, and why.
    pub(super) dropped: Option<(Option<ServiceSlot>, DropReason)>,
    /// The next place of the flow table to be reviewed; `None`: all of it was.
    review: Option<u32>,
    /// A packet found no buffer: captured flows may be promoted.
    yields: bool,
    /// When packets that the steer program had dropped were captured last.
    sampled_at: Timestamp,
}

impl Capturing {
    /// Whether somebody captures.
    #[inline(always)]
    pub(super) const fn is_active(&self) -> bool {
        self.active != 0
    }

    /// Whether a capture wants the packets of a flow, so that its worker has to see them.
    #[inline]
    pub(super) fn wants(&self, policy: &Policy, table: &FlowTable, entry: &HotEntry) -> bool {
        self.is_active() && !self.yields && self.wants_forwarded(&subject_of(policy, table, entry))
    }

    /// Captures and their places in the settings.
    #[inline]
    fn captures(&self) -> impl Iterator<Item = (u32, &Capture)> {
        let captures = self.settings.as_ref().map(|settings| &settings.captures);
        let mut left = self.active;
        std::iter::from_fn(move || {
            let place = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            let capture = captures?.get(place as usize)?.as_ref()?;
            Some((place, capture))
        })
    }

    /// Whether a flow with this hash is in a capture's sample.
    #[inline]
    fn samples(&self, hash: u64) -> bool {
        self.captures().any(|(_, capture)| capture.filter.samples(hash))
    }

    /// Whether a capture wants the packets of a flow that are forwarded.
    fn wants_forwarded(&self, subject: &Subject) -> bool {
        self.captures()
            .any(|(_, capture)| capture.filter.wants_forwarded(subject))
    }

    /// The captures that accept a packet, as bits.
    fn accepting(&self, description: &Description) -> u8 {
        let mut bits = 0;
        for (place, capture) in self.captures() {
            let accepts = |subject| capture.filter.accepts(subject);
            if accepts(&description.subject) || description.reversed.as_ref().is_some_and(accepts) {
                bits |= 1 << place;
            }
        }
        bits
    }

    /// A buffer with a packet as it came in, if one is free.
    fn begin<F: Frame>(&mut self, packet: &[F]) -> Option<Box<CapturedPacket>> {
        self.dropped = None;
        let mut buffer = self.buffer()?;
        self.copy(packet, &mut buffer.received);
        Some(buffer)
    }

    fn buffer(&mut self) -> Option<Box<CapturedPacket>> {
        self.spare.take().or_else(|| self.feed.as_ref()?.take())
    }

    fn copy<F: Frame>(&self, packet: &[F], image: &mut Image) {
        self.copy_parts(packet.iter().map(Frame::bytes), packet_len(packet), image);
    }

    /// Copies as much of a packet of this length as the captures want, and as `parts` have of it.
    fn copy_parts<'a>(&self, parts: impl Iterator<Item = &'a [u8]>, length: usize, image: &mut Image) {
        let snap_length = self
            .settings
            .as_ref()
            .map_or(0, |settings| settings.snap_length());
        let mut room = snap_length.min(image.bytes.capacity());
        image.bytes.clear();
        image.length = length;
        for bytes in parts {
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
                // A fragment's packet is decided about while another one is.
                if let Some(other) = self.spare.replace(buffer) {
                    feed.push(0, Some(other));
                }
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

/// When captures can want a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interest {
    /// Whatever becomes of it: what they want is known when it has been decided about.
    Always,
    /// Not if it is forwarded in its flow.
    UnlessForwarded,
    /// Its flow is in none of their samples.
    Never,
}

impl Engine {
    /// Copies packets to `feed`, while there are captures.
    pub fn set_capture_feed(&mut self, feed: Arc<CaptureFeed>) {
        self.capture = Capturing {
            feed: Some(feed),
            ..Capturing::default()
        };
    }

    /// Uses new settings, if there are any, reviews flows for them, and captures what the steer program has dropped. Once per
    /// round: one load without a capture.
    #[inline]
    pub fn update_capture(&mut self, now: Timestamp) {
        let capture = &mut self.capture;
        if let Some(feed) = &capture.feed
            && let Some(settings) = feed.changed(&mut capture.version)
        {
            capture.active = settings.active();
            capture.review = capture.is_active().then_some(0);
            capture.yields = false;
            // It is for no capture: the control side gives it the room that packets need now.
            if let Some(spare) = capture.spare.take() {
                feed.push(0, Some(spare));
            }
            if let Some(former) = capture.settings.replace(settings) {
                feed.give_back(former);
            }
            self.sample_shed();
        }
        if self.capture.is_active() {
            self.review_captured();
            self.capture_shed(now);
        }
    }

    /// Whether flows remain to be reviewed, and [`update_capture`](Self::update_capture) is to be called again at once.
    pub const fn is_reviewing_captured(&self) -> bool {
        self.capture.review.is_some()
    }

    /// Removes the marks of the next [`REVIEWED`] flows, and takes those of them back that are promoted and that a capture
    /// wants.
    fn review_captured(&mut self) {
        let flows = &mut self.tables.flows;
        for _ in 0..REVIEWED {
            let Some(place) = self.capture.review else { return };
            let (flow, next) = flows.table().look_at(place);
            self.capture.review = next;
            let Some(id) = flow else { continue };
            flows.entry_mut(id).set_uncaptured(false);
            let table = flows.table();
            if flows.is_fast(id) && self.capture.wants(&self.policy, table, table.entry(id)) {
                flows.demote(id);
            }
        }
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
        let are_marks_current = !self.is_reviewing_captured();
        let mut group = std::mem::take(&mut self.group);
        let mut rest = burst;
        while !rest.is_empty() {
            let (packets, unknown) = prepare(&self.policy, self.tables.flows.table(), rest, &mut group);
            if unknown && !self.tables.overload.is_active() {
                early_selection::select(&self.policy, &mut self.tables, &mut group[..packets]);
            }
            for prepared in &group[..packets] {
                let (packet, after) = rest.split_at_mut(prepared.frames);
                rest = after;
                if are_marks_current
                    && let [frame] = packet
                    && self.forward_plain::<true, F>(frame, prepared, now)
                {
                    verdicts.push((Verdict::Transmit, 1));
                    continue;
                }
                let interest = self.mark_interest(packet, prepared, now);
                if interest != Interest::Always
                    && let [frame] = packet
                    && self.forward_plain::<true, F>(frame, prepared, now)
                {
                    verdicts.push((Verdict::Transmit, 1));
                    continue;
                }
                let verdict = match interest {
                    Interest::Never => self.decide_at_length(packet, prepared, origin, now),
                    _ => self.decide_captured(packet, prepared, origin, now),
                };
                verdicts.push((verdict, prepared.frames));
            }
        }
        self.group = group;
    }

    /// When captures can want a packet, before it is decided about; marks its flow if they want none of those that are
    /// forwarded. Called for the first packet of a flow, and for those that change its state.
    fn mark_interest<F: Frame>(&mut self, packet: &[F], prepared: &Prepared, now: Timestamp) -> Interest {
        let Prepared {
            parsed,
            lookup,
            class: Class::Flow,
            ..
        } = prepared
        else {
            return Interest::Always;
        };
        let (table, tuple) = (self.tables.flows.table(), lookup.tuple);
        let flow = if lookup.is_reply {
            table.guessed_reply(&lookup.probe, tuple.reply_key(parsed.source), now)
        } else {
            table.guessed_request(&lookup.probe, tuple.request_key(parsed.source), now)
        };
        let Some(id) = flow else {
            // The flow of a local client has other addresses.
            let is_clients = !lookup.is_reply && packet.first().is_some_and(|frame| !frame.is_local());
            return if is_clients && !self.capture.samples(self.hash_of(parsed, tuple)) {
                Interest::Never
            } else {
                Interest::Always
            };
        };
        let entry = table.entry(id);
        let interest = if !self.capture.samples(hash_of_flow(&self.policy, entry)) {
            Interest::Never
        } else if self
            .capture
            .wants_forwarded(&subject_of(&self.policy, table, entry))
        {
            Interest::Always
        } else {
            Interest::UnlessForwarded
        };
        let is_uncaptured = interest != Interest::Always;
        self.tables.flows.entry_mut(id).set_uncaptured(is_uncaptured);
        interest
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
            Verdict::Transmit | Verdict::Deliver => CaptureVerdict::Forward,
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
        let parts = packet.iter().map(Frame::bytes);
        self.pass_dropped(
            &description,
            parsed.as_ref(),
            is_translated,
            packet_len(packet),
            parts,
            now,
        );
    }

    /// Passes on a dropped packet of this length, as `parts` have it, if a capture is for it.
    fn pass_dropped<'a>(
        &mut self,
        description: &Description,
        parsed: Option<&Parsed>,
        is_translated: bool,
        length: usize,
        parts: impl Iterator<Item = &'a [u8]>,
        now: Timestamp,
    ) {
        let captures = self.capture.accepting(description);
        if captures == 0 {
            return;
        }
        let mut buffer = self.capture.buffer();
        if let Some(buffer) = &mut buffer {
            self.fill(buffer, description, CaptureVerdict::Drop, now);
            let image = if is_translated {
                &mut buffer.sent
            } else {
                &mut buffer.received
            };
            self.capture.copy_parts(parts, length, image);
            let unparsed = self.policy.framing.header_len() + UNPARSED;
            image.headers = parsed.map_or(unparsed, headers);
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
