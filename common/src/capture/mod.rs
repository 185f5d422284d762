//! Captured packets on their way from the workers to the control side.
//!
//! Each worker has a [`CaptureFeed`]. While nobody captures, a worker reads one number per round and no packet costs
//! anything. While somebody does, the worker copies the packets that a [`CaptureFilter`] accepts, before and after their
//! translation, into buffers of the control side. It neither allocates nor waits: a packet that finds no free buffer is
//! forwarded like any other, and lost for the capture, which is counted.

mod filter;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{net::IpAddr, sync::Arc};

use crossbeam::queue::ArrayQueue;

pub use filter::{CaptureFilter, Endpoint, Subject, Terms};

use crate::backend::{BackendSlot, Generation, ServiceSlot};
use crate::drop_reason::DropReason;
use crate::mailbox::Mailbox;
use crate::stats::Counter;
use crate::time::Timestamp;

/// Captures at a time.
pub const MAX_CAPTURES: usize = 4;
/// Buffers of a worker. Emptied a hundred times a second if they fill, they hold 51,200 packets a second: the most that captures cost
/// a worker and the control side, whatever a filter accepts.
pub const CAPTURE_BUFFERS: usize = 512;
/// Bytes of a packet that can be captured at most: a jumbo frame. The buffers of a worker take 9.4 MB then.
pub const MAX_SNAP_LENGTH: usize = 9_216;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CaptureVerdict {
    /// Translated and sent.
    #[default]
    Forward,
    /// The same, in segments: it was longer than the MTU.
    Segment,
    /// The same, in fragments.
    Fragment,
    /// The same, made anew with the client's address for the backend.
    Insert,
    /// Not forwarded; its sender got an ICMP error or a TCP reset.
    Reject,
    /// Not forwarded.
    Drop,
}

impl CaptureVerdict {
    /// The value in JSON, lines and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Segment => "segment",
            Self::Fragment => "fragment",
            Self::Insert => "insert",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// Which way a packet of a flow goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CaptureDirection {
    /// From the client to the backend.
    In,
    /// From the backend to the client.
    Out,
}

impl CaptureDirection {
    /// The value in JSON, lines and files, as in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// The flow of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapturedFlow {
    pub client: (IpAddr, u16),
    pub backend: (IpAddr, u16),
    pub backend_slot: BackendSlot,
    /// The source port towards the backend.
    pub nat_port: u16,
}

/// The begin of a packet, as it came in or left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// From the link header on. Bytes that were not copied are missing at the end.
    pub bytes: Vec<u8>,
    /// Length of the whole packet; 0: there is none.
    pub length: usize,
    /// Length of the headers, without any payload.
    pub headers: usize,
}

impl Image {
    fn clear(&mut self) {
        self.bytes.clear();
        (self.length, self.headers) = (0, 0);
    }
}

/// A packet before and after its translation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CapturedPacket {
    /// The captures that it is for, as bits, and the [`CaptureSettings::number`] by which it is.
    pub captures: u8,
    pub settings: u64,
    /// When the worker's round began.
    pub at: Timestamp,
    /// The snapshot in use.
    pub generation: Generation,
    pub verdict: CaptureVerdict,
    /// Why it was not forwarded.
    pub reason: Option<DropReason>,
    /// Unknown of a packet without a flow that no service has.
    pub direction: Option<CaptureDirection>,
    pub service: Option<ServiceSlot>,
    pub flow: Option<CapturedFlow>,
    /// As it came in; nothing if it was dropped on its way out.
    pub received: Image,
    /// As it left, or the rejection; nothing if there is neither.
    pub sent: Image,
}

impl CapturedPacket {
    /// An empty one, with room for `snap_length` bytes of each image.
    pub fn with_room(snap_length: usize) -> Box<Self> {
        let mut packet = Box::new(Self::default());
        packet.make_room(snap_length);
        packet
    }

    /// Empties it for the next packet. Keeps its memory.
    pub fn clear(&mut self) {
        self.captures = 0;
        self.reason = None;
        self.direction = None;
        self.service = None;
        self.flow = None;
        self.received.clear();
        self.sent.clear();
    }

    /// Room for exactly `snap_length` bytes of each image, so that a large capture leaves no memory behind.
    fn make_room(&mut self, snap_length: usize) {
        for image in [&mut self.received, &mut self.sent] {
            if image.bytes.capacity() != snap_length {
                image.bytes = Vec::with_capacity(snap_length);
            }
        }
    }
}

/// One capture.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    pub filter: CaptureFilter,
    /// Bytes of a packet to copy at most.
    pub snap_length: usize,
    /// Whether to copy more than the headers.
    pub payload: bool,
}

/// All captures that run.
#[derive(Debug, Clone, Default)]
pub struct CaptureSettings {
    /// Grows with each change: a place among the captures may be another one's by now.
    pub number: u64,
    /// By the bit in [`CapturedPacket::captures`].
    pub captures: [Option<Capture>; MAX_CAPTURES],
}

impl CaptureSettings {
    /// Whether there is a capture.
    pub fn is_active(&self) -> bool {
        self.active() != 0
    }

    /// The places that have a capture, as the bits in [`CapturedPacket::captures`].
    pub fn active(&self) -> u8 {
        let captures = self.captures.iter().enumerate();
        captures.fold(0, |bits, (place, capture)| {
            bits | u8::from(capture.is_some()) << place
        })
    }

    /// Bytes of a packet to copy at most, for all captures.
    pub fn snap_length(&self) -> usize {
        let captures = self.captures.iter().flatten();
        captures.map(|capture| capture.snap_length).max().unwrap_or(0)
    }

    /// Whether a capture wants more than the headers.
    pub fn payload(&self) -> bool {
        self.captures.iter().flatten().any(|capture| capture.payload)
    }
}

/// Buffers on their way between worker and control side. Only the control side puts buffers into `free`, one after the
/// other, and only the worker into `full`.
///
/// At a queue's last place, either end would wait for the other one, which may have lost its core in the middle of a push
/// or a pop. So the worker leaves the last free buffer where it is: of those before it none is being pushed. And there is
/// one buffer in the hand of whoever pops, so the full queue has always room at a place that nobody is using.
#[derive(Debug)]
struct Rings {
    free: ArrayQueue<Box<CapturedPacket>>,
    full: ArrayQueue<Box<CapturedPacket>>,
}

/// One worker's captured packets, and the settings for it.
#[derive(Debug, Default)]
pub struct CaptureFeed {
    /// Changes with the settings; 0 before the first ones.
    version: AtomicU64,
    settings: Mailbox<CaptureSettings>,
    /// Allocated for the first capture and kept for later ones.
    rings: OnceLock<Rings>,
    /// By capture: packets that its filter accepted, and those of them that found no buffer.
    matched: [Counter; MAX_CAPTURES],
    lost: [Counter; MAX_CAPTURES],
}

impl CaptureFeed {
    /// Worker: the settings if they are not those of `version`, which becomes theirs.
    #[inline]
    pub fn changed(&self, version: &mut u64) -> Option<Arc<CaptureSettings>> {
        // After the settings were put there.
        let newest = self.version.load(Ordering::Acquire);
        if newest == *version {
            return None;
        }
        *version = newest;
        self.settings.take()
    }

    /// Worker: returns settings that it no longer uses.
    pub fn give_back(&self, settings: Arc<CaptureSettings>) {
        self.settings.give_back(settings);
    }

    /// Worker: an empty buffer, if one is free. It never waits for the control side, however long that has no core.
    pub fn take(&self) -> Option<Box<CapturedPacket>> {
        let free = &self.rings.get()?.free;
        if free.len() > 1 { free.pop() } else { None }
    }

    /// Worker: counts a packet for the captures with these bits, of which there may be a copy. A copy for no capture is only
    /// given back.
    pub fn push(&self, captures: u8, packet: Option<Box<CapturedPacket>>) {
        // Every buffer is in one place at a time, so there is room for all of them.
        let is_lost = match (packet, self.rings.get()) {
            (Some(packet), Some(rings)) => rings.full.push(packet).is_err(),
            _ => true,
        };
        for capture in 0..MAX_CAPTURES {
            if captures & 1 << capture != 0 {
                self.matched[capture].add(1);
                self.lost[capture].add(is_lost.into());
            }
        }
    }

    /// Control: puts settings in force. The worker uses them in its next round. The buffers get the room that the settings
    /// need: none where nobody captures.
    pub fn set(&self, settings: &Arc<CaptureSettings>) {
        let snap_length = settings.snap_length();
        if settings.is_active() {
            self.rings.get_or_init(|| Rings::new(snap_length));
        }
        if let Some(rings) = self.rings.get() {
            for _ in 0..rings.free.len() {
                if let Some(mut packet) = rings.free.pop() {
                    packet.make_room(snap_length);
                    drop(rings.free.push(packet));
                }
            }
        }
        self.settings.put(Arc::clone(settings));
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Control: shows the oldest packet to `read` and frees its buffer, which gets room for `snap_length` bytes. False if
    /// there is none.
    pub fn read(&self, snap_length: usize, read: impl FnOnce(&CapturedPacket)) -> bool {
        let Some(rings) = self.rings.get() else {
            return false;
        };
        let Some(mut packet) = rings.full.pop() else {
            return false;
        };
        read(&packet);
        packet.clear();
        packet.make_room(snap_length);
        drop(rings.free.push(packet));
        true
    }

    /// Packets that the filter of a capture accepted, so far.
    pub fn matched(&self, capture: usize) -> u64 {
        self.matched.get(capture).map_or(0, Counter::get)
    }

    /// Those of them that found no buffer.
    pub fn lost(&self, capture: usize) -> u64 {
        self.lost.get(capture).map_or(0, Counter::get)
    }
}

impl Rings {
    fn new(snap_length: usize) -> Self {
        let rings = Self {
            free: ArrayQueue::new(CAPTURE_BUFFERS + 1),
            full: ArrayQueue::new(CAPTURE_BUFFERS + 1),
        };
        for _ in 0..=CAPTURE_BUFFERS {
            drop(rings.free.push(CapturedPacket::with_room(snap_length)));
        }
        rings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(snap_length: usize) -> Arc<CaptureSettings> {
        let mut settings = CaptureSettings::default();
        settings.captures[1] = Some(Capture {
            snap_length,
            ..Capture::default()
        });
        Arc::new(settings)
    }

    #[test]
    fn a_worker_gets_new_settings_once() {
        let feed = CaptureFeed::default();
        let mut version = 0;
        assert!(feed.changed(&mut version).is_none());
        feed.set(&settings(64));
        feed.set(&settings(96));
        let newest = feed.changed(&mut version).unwrap();
        assert_eq!(newest.snap_length(), 96);
        assert!(feed.changed(&mut version).is_none());
        feed.give_back(newest);
    }

    #[test]
    fn packets_beyond_the_buffers_are_lost_and_counted() {
        let feed = CaptureFeed::default();
        assert!(feed.take().is_none());
        feed.set(&settings(64));
        let all = CAPTURE_BUFFERS as u64 + 3;
        for number in 0..all {
            let packet = feed.take().map(|mut packet| {
                packet.at = Timestamp(number);
                packet
            });
            feed.push(0b10, packet);
        }
        assert_eq!((feed.matched(1), feed.lost(1)), (all, 3));
        assert_eq!((feed.matched(0), feed.lost(0)), (0, 0));
        let mut read = Vec::new();
        while feed.read(64, |packet| read.push(packet.at.0)) {}
        assert_eq!(
            read,
            (0..all - 3).collect::<Vec<_>>(),
            "the oldest, in their order"
        );
        assert!(feed.take().is_some(), "buffers are used again");
    }

    #[test]
    fn buffers_have_the_room_that_captures_need() {
        let feed = CaptureFeed::default();
        feed.set(&settings(64));
        let first = feed.take().unwrap();
        assert_eq!(first.received.bytes.capacity(), 64);
        feed.set(&settings(256));
        assert_eq!(feed.take().unwrap().sent.bytes.capacity(), 256);
        // One that the worker had meanwhile.
        feed.push(0b10, Some(first));
        assert!(feed.read(256, |_| ()));
        let rooms = std::iter::from_fn(|| feed.take()).map(|packet| packet.sent.bytes.capacity());
        assert!(rooms.into_iter().all(|room| room == 256));
    }

    #[test]
    fn the_worker_takes_no_buffer_that_may_be_on_its_way() {
        let feed = CaptureFeed::default();
        feed.set(&settings(64));
        let taken = std::iter::from_fn(|| feed.take()).count();
        assert_eq!(taken, CAPTURE_BUFFERS);
        assert_eq!(
            feed.rings.get().map(|rings| rings.free.len()),
            Some(1),
            "the last one"
        );
        // As many as were taken find room, and none is counted.
        for _ in 0..taken {
            feed.push(0, Some(CapturedPacket::with_room(64)));
        }
        assert_eq!((feed.matched(1), feed.lost(1)), (0, 0));
        assert!(feed.read(64, |packet| assert_eq!(packet.captures, 0)));
        assert!(feed.take().is_some() && feed.take().is_none());
    }
}
