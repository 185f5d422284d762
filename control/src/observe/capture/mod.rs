//! Captures: packets as the workers saw them, with their verdicts.
//!
//! While there are captures, workers copy the packets that a filter accepts into bounded buffers
//! ([`vl3lb_common::capture`]). These are read a hundred times a second, and less often while few packets come ([`Pace`]);
//! each capture gets its packets through its own bounded queue. What finds no room, here or there, is lost for the capture
//! and counted; no packet and no other capture waits for it. A capture ends after a number of packets, after a time, or
//! with its reader.

mod headers;
mod pace;
mod session;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use vl3lb_common::capture::{CAPTURE_BUFFERS, Capture, CaptureFeed, CaptureSettings, MAX_CAPTURES};
use vl3lb_common::dataplane::Dataplane;
use vl3lb_common::next_hop::Link;
use vl3lb_common::{Generation, ServiceSlot};

use crate::api::{CaptureEvent, Time};
use crate::observe::filter::PacketFilter;
use crate::observe::flows::{ServiceNames, service_names};
use crate::publisher::CurrentReceiver;
use pace::Pace;
use session::{Session, Totals};

/// Lines that wait for one reader, of about a kilobyte without payload.
const QUEUE: usize = 4096;

/// Which image of a packet is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CapturePoint {
    /// As it came in.
    In,
    /// As it left.
    Out,
    #[default]
    Both,
}

/// What to capture, and for how long.
#[derive(Debug, Clone)]
pub struct CaptureRequest {
    pub filter: PacketFilter,
    /// One flow in so many.
    pub sample: u32,
    /// Bytes of a packet at most.
    pub snap_length: usize,
    /// Whether to copy more than the headers.
    pub payload: bool,
    pub point: CapturePoint,
    /// Packets at most; `None`: as many as come in time.
    pub count: Option<u64>,
    pub duration: Duration,
}

/// All captures.
pub struct Captures {
    dataplane: Arc<dyn Dataplane>,
    current: CurrentReceiver,
    running: Mutex<Running>,
    /// Wakes [`Captures::run`] for the first capture.
    started: Notify,
}

impl std::fmt::Debug for Captures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Captures")
            .field("count", &self.count())
            .field("lost", &self.lost())
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Running {
    /// By the bit in the workers' copies.
    sessions: [Option<Session>; MAX_CAPTURES],
    /// The place that the next capture gets if it is free: the one that was left longest ago, so that workers that count
    /// by the last settings count for nobody.
    next_place: usize,
    /// Of the settings in force.
    number: u64,
    /// Whether the buffers are read.
    active: bool,
    /// The generation by whose slots the filters are compiled, and the feeds that have them.
    compiled: Option<Generation>,
    feeds: usize,
    names: ServiceNames,
    /// Packets that ended captures have lost.
    lost: u64,
}

impl Captures {
    /// Without captures.
    pub fn new(dataplane: Arc<dyn Dataplane>, current: CurrentReceiver) -> Self {
        Self {
            dataplane,
            current,
            running: Mutex::default(),
            started: Notify::new(),
        }
    }

    /// Starts a capture, which lasts until it ends itself or the receiver is dropped. `None` if there are
    /// [`MAX_CAPTURES`] already.
    ///
    /// The first one allocates the buffers of the workers: [`CAPTURE_BUFFERS`] for each, of twice the snap length.
    /// [`Self::run`] has to run.
    pub fn start(&self, request: CaptureRequest) -> Option<mpsc::Receiver<CaptureEvent>> {
        let mut running = self.running();
        let places = (0..MAX_CAPTURES).map(|step| (running.next_place + step) % MAX_CAPTURES);
        let place = { places }.find(|&place| running.sessions[place].is_none())?;
        running.next_place = place + 1;
        let (queue, waiting) = mpsc::channel(QUEUE);
        // As random as the keys of a new hasher.
        let salt = RandomState::new().hash_one(place);
        let start = (self.totals(place), running.number + 1);
        running.sessions[place] = Some(Session::new(request, salt, queue, start));
        self.put_in_force(&mut running);
        if !running.active {
            running.active = true;
            self.started.notify_one();
        }
        Some(waiting)
    }

    /// Number of captures.
    pub fn count(&self) -> u64 {
        self.running().sessions.iter().flatten().count() as u64
    }

    /// Packets that captures have lost so far.
    pub fn lost(&self) -> u64 {
        let running = self.running();
        let sessions = running.sessions.iter().enumerate();
        let of_session = |(place, session): (usize, &Option<Session>)| {
            let session = session.as_ref()?;
            Some(session.counts(&self.totals(place)).lost_total)
        };
        running.lost + sessions.filter_map(of_session).sum::<u64>()
    }

    /// Reads the buffers while there are captures, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.started.notified().await;
            let mut pace = Pace::default();
            while let Some(most) = self.round() {
                sleep(pace.after(most)).await;
            }
        }
    }

    /// Reads the buffers once. Returns how many packets the worker with the most had; `None` without captures.
    fn round(&self) -> Option<usize> {
        let mut running = self.running();
        let most = self.read(&mut running);
        let now = Instant::now();
        let mut ended = false;
        for place in 0..MAX_CAPTURES {
            let totals = self.totals(place);
            if let Some(session) = &mut running.sessions[place]
                && session.has_ended(&totals, now)
            {
                running.lost += session.counts(&totals).lost_total;
                running.sessions[place] = None;
                ended = true;
            }
        }
        let generation = self.generation();
        let depends = running.sessions.iter().flatten().any(Session::names_services);
        let is_stale = depends && running.compiled != generation;
        // The first attachment makes the feeds: a capture may be older.
        if ended || is_stale || running.feeds != self.feeds().len() {
            self.put_in_force(&mut running);
        }
        running.active = running.sessions.iter().any(Option::is_some);
        running.active.then_some(most)
    }

    /// Passes the packets in the buffers to their captures, oldest first; of each worker as many as it has buffers, so
    /// that workers that refill them all the time do not keep this loop busy. Returns how many the worker with the most had.
    fn read(&self, running: &mut Running) -> usize {
        let now = self.dataplane.now();
        let time = Time::now();
        let raw_ip = self
            .dataplane
            .attachment()
            .is_some_and(|attachment| attachment.link == Link::RawIp);
        let Running { sessions, names, .. } = running;
        let snap_lengths = sessions
            .iter()
            .flatten()
            .map(|session| session.request.snap_length);
        let snap_length = snap_lengths.max().unwrap_or(0);
        let mut packets = Vec::new();
        let mut most = 0;
        for (worker, feed) in (0..).zip(self.feeds()) {
            for read in 1..=CAPTURE_BUFFERS {
                let taken = feed.read(snap_length, |packet| {
                    let context = headers::Context {
                        worker,
                        time: time.before(now.since(packet.at)).0,
                        raw_ip,
                        service: packet.service.and_then(|slot| names.get(&slot)),
                    };
                    for (place, session) in sessions.iter().enumerate() {
                        if packet.captures & 1 << place != 0
                            && let Some(session) = session
                            && session.is_of(packet.settings)
                        {
                            packets.push((packet.at, place, session.shown(packet, &context)));
                        }
                    }
                });
                if !taken {
                    break;
                }
                most = most.max(read);
            }
        }
        packets.sort_by_key(|(at, ..)| *at);
        for (_, place, packet) in packets {
            if let Some(session) = &mut sessions[place] {
                session.push(packet);
            }
        }
        most
    }

    /// Gives the workers the filters of all captures, with the slots that services have now.
    fn put_in_force(&self, running: &mut Running) {
        running.number += 1;
        running.compiled = self.generation();
        running.feeds = self.feeds().len();
        let current = self.current.borrow();
        running.names = current
            .as_ref()
            .map(|current| service_names(&current.directory))
            .unwrap_or_default();
        drop(current);
        let settings = settings_of(running);
        self.dataplane.set_capture(&Arc::new(settings));
    }

    /// What all workers have counted for the capture in this place, and of all packets.
    fn totals(&self, place: usize) -> Totals {
        let stats = self.dataplane.stats().iter();
        Totals {
            matched: self.feeds().iter().map(|feed| feed.matched(place)).sum(),
            lost: self.feeds().iter().map(|feed| feed.lost(place)).sum(),
            received: stats.clone().map(|worker| worker.received.get()).sum(),
            transmitted: stats.map(|worker| worker.transmitted.get()).sum(),
        }
    }

    fn generation(&self) -> Option<Generation> {
        let current = self.current.borrow();
        current.as_ref().map(|current| current.generation())
    }

    fn feeds(&self) -> &[Arc<CaptureFeed>] {
        self.dataplane.capture_feeds()
    }

    /// Consistent after every step, so a panic elsewhere does not spoil it.
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings_of(running: &Running) -> CaptureSettings {
    let Running { sessions, names, .. } = running;
    let services = names
        .iter()
        .map(|(slot, name): (&ServiceSlot, _)| (*slot, name.as_str()));
    let mut settings = CaptureSettings {
        number: running.number,
        ..CaptureSettings::default()
    };
    for (capture, session) in settings.captures.iter_mut().zip(sessions) {
        *capture = session.as_ref().map(|session| Capture {
            filter: session.compiled(services.clone()),
            snap_length: session.request.snap_length,
            payload: session.request.payload,
        });
    }
    settings
}
