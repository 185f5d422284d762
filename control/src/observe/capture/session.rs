//! One capture: its request, its reader, and what it has seen.

use std::time::Duration;

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use vl3lb_common::ServiceSlot;
use vl3lb_common::capture::{CaptureFilter, CapturedPacket as Copied, Image};

use super::headers::{self, Context};
use super::{CapturePoint, CaptureRequest};
use crate::api::{CaptureCounts, CaptureEvent, CapturedPacket, PacketImage, PreciseTime, Time};

/// How often a reader learns the counts.
const PROGRESS: Duration = Duration::from_secs(1);

/// What workers have counted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub(super) matched: u64,
    pub(super) lost: u64,
    pub(super) received: u64,
    pub(super) transmitted: u64,
}

/// A capture that runs.
pub(super) struct Session {
    pub(super) request: CaptureRequest,
    salt: u64,
    queue: mpsc::Sender<CaptureEvent>,
    ends: Instant,
    next_progress: Instant,
    /// When it began.
    start: Totals,
    /// The first settings with this capture.
    since: u64,
    captured: u64,
    /// Packets that found the reader's queue full.
    unread: u64,
}

impl Session {
    pub(super) fn new(
        request: CaptureRequest,
        salt: u64,
        queue: mpsc::Sender<CaptureEvent>,
        (start, since): (Totals, u64),
    ) -> Self {
        let now = Instant::now();
        Self {
            ends: now + request.duration,
            next_progress: now + PROGRESS,
            request,
            salt,
            queue,
            start,
            since,
            captured: 0,
            unread: 0,
        }
    }

    /// Whether a packet that was captured by these settings is for this capture, and not for one before in its place.
    pub(super) const fn is_of(&self, settings: u64) -> bool {
        settings >= self.since
    }

    pub(super) const fn names_services(&self) -> bool {
        self.request.filter.names_services()
    }

    pub(super) fn compiled<'a>(
        &self,
        services: impl Iterator<Item = (ServiceSlot, &'a str)> + Clone,
    ) -> CaptureFilter {
        let CaptureRequest { filter, sample, .. } = &self.request;
        filter.compiled(services, *sample, self.salt)
    }

    /// A packet as this capture shows it. Its number is not set yet.
    pub(super) fn shown(&self, packet: &Copied, context: &Context<'_>) -> CapturedPacket {
        let point = self.request.point;
        let image = |image: &Image, other: CapturePoint| {
            (image.length > 0 && point != other).then(|| self.image(image, context))
        };
        CapturedPacket {
            time: PreciseTime(context.time),
            id: 0,
            worker: context.worker,
            generation: packet.generation.0,
            direction: packet.direction.map(|direction| direction.name().to_owned()),
            verdict: packet.verdict.name().to_owned(),
            reason: packet.reason.map(|reason| reason.name().to_owned()),
            service: context.service.cloned(),
            client: packet.flow.map(|flow| flow.client.into()),
            backend: packet.flow.map(|flow| flow.backend.into()),
            nat_port: packet.flow.map(|flow| flow.nat_port),
            received: image(&packet.received, CapturePoint::Out),
            sent: image(&packet.sent, CapturePoint::In),
        }
    }

    fn image(&self, image: &Image, context: &Context<'_>) -> PacketImage {
        let wanted = if self.request.payload {
            self.request.snap_length
        } else {
            self.request.snap_length.min(image.headers)
        };
        let bytes = &image.bytes[..image.bytes.len().min(wanted)];
        headers::shown(bytes, image.length, context.raw_ip)
    }

    /// Passes a packet to the reader, unless there were enough.
    pub(super) fn push(&mut self, mut packet: CapturedPacket) {
        if self.is_complete() {
            return;
        }
        packet.id = self.captured + 1;
        match self.queue.try_send(CaptureEvent::Packet(Box::new(packet))) {
            Ok(()) => self.captured += 1,
            Err(TrySendError::Full(_)) => self.unread += 1,
            // The next round ends it.
            Err(TrySendError::Closed(_)) => {}
        }
    }

    /// Whether it is over. Its reader gets the last line then, as soon as there is room.
    pub(super) fn has_ended(&mut self, totals: &Totals, now: Instant) -> bool {
        if self.queue.is_closed() {
            return true;
        }
        let (time, counts) = (Time::now(), self.counts(totals));
        if self.is_complete() || now >= self.ends {
            let end = CaptureEvent::End { time, counts };
            return !matches!(self.queue.try_send(end), Err(TrySendError::Full(_)));
        }
        if now >= self.next_progress {
            self.next_progress = now + PROGRESS;
            // Without room the next one will do.
            drop(self.queue.try_send(CaptureEvent::Progress { time, counts }));
        }
        false
    }

    pub(super) fn counts(&self, totals: &Totals) -> CaptureCounts {
        // Of packets beyond the wanted number none is lost.
        let overflowed = if self.is_complete() {
            0
        } else {
            totals.lost - self.start.lost
        };
        CaptureCounts {
            received_total: totals.received - self.start.received,
            transmitted_total: totals.transmitted - self.start.transmitted,
            matched_total: totals.matched - self.start.matched,
            captured_total: self.captured,
            lost_total: overflowed + self.unread,
        }
    }

    fn is_complete(&self) -> bool {
        self.request.count.is_some_and(|count| self.captured >= count)
    }
}
