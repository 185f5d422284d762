//! One engine with a full table, and the measurements on it.

use std::net::SocketAddrV4;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use vl3lb_common::capture::{Capture, CaptureFeed, CaptureFilter, CaptureSettings};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{DropReason, Duration, ServiceSlot, Snapshot, Timestamp};
use vl3lb_dataplane::config::Timeouts;
use vl3lb_dataplane::testing::{MemFrame, frame};
use vl3lb_dataplane::{Engine, EngineConfig, Frame, Framing, Origin, Verdict};

use super::Work;
use super::args::PipelineArgs;
use super::error::PipelineError;
use super::flows::{Flows, Translated, client};
use super::packets::{FRAME_LEN, write_syn, write_udp};
use super::world::{Group, OWN_ADDRESS, World};
use crate::stopwatch::Stopwatch;
use crate::summary::Summary;

/// Flows that are closed and opened anew in one measurement of new flows, at most.
const MAX_RENEWED: u32 = 65_536;
/// Frames: the longest burst.
const FRAMES: usize = 1024;
/// A capture's share of the flows: one in so many.
const SAMPLE: u32 = 1_000;
/// Time from burst to burst.
const BURST_TIME: Duration = Duration::from_micros(10);

/// An engine whose table is full of established flows.
pub(super) struct Bench<'a> {
    stopwatch: &'a Stopwatch,
    engine: Engine,
    stats: Arc<WorkerStats>,
    now: Timestamp,
    frames: Vec<MemFrame>,
    verdicts: Vec<(Verdict, usize)>,
    flows: u32,
    /// Number of flows, the last ones, that are ended to make room for new ones.
    renewed: u32,
    /// The group of those at the moment.
    renewed_as: Group,
    /// By flow.
    translated: Vec<Translated>,
    picker: Flows,
    /// Packets in one measurement of established flows.
    packets: u32,
    /// All backends alive.
    alive: Arc<Snapshot>,
    /// The backends of one group dead.
    without_renewed: Arc<Snapshot>,
    without_connections: Arc<Snapshot>,
    /// The next unused client.
    next_client: u32,
}

impl<'a> Bench<'a> {
    /// Fills a table with `flows` flows, each with a packet in both directions.
    pub(super) fn new(
        flows: u32,
        args: &PipelineArgs,
        stopwatch: &'a Stopwatch,
    ) -> Result<Self, PipelineError> {
        let renewed = flows.min(MAX_RENEWED);
        let world = World::new([flows - renewed, renewed, renewed]);
        let alive = world.snapshot(1, None);
        let config = EngineConfig {
            worker: 0,
            workers: 1,
            flows,
            client_flows: None,
            timeouts: Timeouts::default(),
            seed: args.seed,
            owner_key: OwnerKey::from_seed(7),
            framing: Framing::Ethernet,
        };
        let stats = Arc::new(WorkerStats::default());
        let events = Arc::new(ArrayQueue::new(16));
        let engine = Engine::new(&config, Arc::clone(&alive), Arc::clone(&stats), events)
            .map_err(|cause| PipelineError::Table { flows, cause })?;
        let mut bench = Self {
            stopwatch,
            engine,
            stats,
            now: Timestamp::from_duration(Duration::from_secs(1)),
            frames: (0..FRAMES).map(|_| frame(&[0; FRAME_LEN])).collect(),
            verdicts: Vec::with_capacity(FRAMES),
            flows,
            renewed,
            renewed_as: Group::Renewed,
            translated: Vec::with_capacity(flows as usize),
            picker: Flows::new(args.distribution, flows, args.seed),
            packets: args.packets,
            without_renewed: world.snapshot(2, Some(Group::Renewed)),
            without_connections: world.snapshot(3, Some(Group::Connections)),
            alive,
            next_client: flows,
        };
        bench.publish(&Arc::clone(&bench.alive));
        bench.fill()?;
        Ok(bench)
    }

    /// Bytes that the table takes for its flows.
    pub(super) fn memory_bytes(&self) -> usize {
        self.engine.memory_bytes()
    }

    /// Cycles per packet of established flows: requests, replies.
    ///
    /// The directions alternate, so that a disturbance affects both.
    pub(super) fn established(&mut self, runs: u32, burst: u64) -> Result<[Summary; 2], PipelineError> {
        // The first measurement of each warms up the caches.
        for direction in [Direction::Request, Direction::Reply] {
            self.established_once(direction, burst)?;
        }
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            requests.push(self.established_once(Direction::Request, burst)?);
            replies.push(self.established_once(Direction::Reply, burst)?);
        }
        Ok([summary(requests), summary(replies)])
    }

    /// Cycles per packet that opens a flow in a table that is full but for `renewed` entries: UDP, TCP.
    pub(super) fn new_flows(&mut self, runs: u32, burst: u64) -> Result<[Summary; 2], PipelineError> {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for run in 0..=runs {
            let [datagrams, connections] = [Group::Renewed, Group::Connections]
                .map(|group| self.new_flows_once(group, burst))
                .map(|cycles| cycles.map(|cycles| vec![cycles]));
            if run > 0 {
                udp.append(&mut datagrams?);
                tcp.append(&mut connections?);
            }
        }
        Ok([summary(udp), summary(tcp)])
    }

    /// One measurement of one kind, without its result.
    pub(super) fn once(&mut self, kind: Work, burst: u64) -> Result<(), PipelineError> {
        match kind {
            Work::Request => self.established_once(Direction::Request, burst),
            Work::Reply => self.established_once(Direction::Reply, burst),
            Work::NewFlow => self.new_flows_once(Group::Renewed, burst),
            Work::CapturedRequest => {
                self.capture();
                self.established_once(Direction::Request, burst)
            }
            Work::CapturedReply => {
                self.capture();
                self.established_once(Direction::Reply, burst)
            }
            Work::CapturedNewFlow => {
                self.capture();
                self.new_flows_once(Group::Renewed, burst)
            }
        }
        .map(drop)
    }

    /// Begins a capture of one flow in [`SAMPLE`], which nobody reads: the worker's copies find no more room in the end.
    fn capture(&mut self) {
        let filter = CaptureFilter {
            sample: SAMPLE,
            ..CaptureFilter::default()
        };
        let mut settings = CaptureSettings::default();
        settings.captures[0] = Some(Capture {
            filter,
            snap_length: 128,
            payload: false,
        });
        let feed = Arc::new(CaptureFeed::default());
        feed.set(&Arc::new(settings));
        self.engine.set_capture_feed(feed);
        self.engine.update_capture(self.now);
        while self.engine.is_reviewing_captured() {
            self.engine.update_capture(self.now);
        }
    }

    fn fill(&mut self) -> Result<(), PipelineError> {
        for flow in 0..self.flows {
            let group = self.group(flow);
            write_udp(&mut self.frames[0], client(flow), service(group));
            self.forward(1)?;
            let translated = Translated::from_request(self.frames[0].bytes());
            let translated = translated.ok_or(PipelineError::NotTranslated { flow })?;
            self.translated.push(translated);
            let (source, destination) = translated.reply();
            write_udp(&mut self.frames[0], source, destination);
            self.forward(1)?;
        }
        Ok(())
    }

    fn established_once(&mut self, direction: Direction, burst: u64) -> Result<f64, PipelineError> {
        let bursts = u64::from(self.packets).div_ceil(burst);
        let burst = as_usize(burst);
        let mut ticks = 0;
        for _ in 0..bursts {
            for index in 0..burst {
                let flow = self.picker.pick();
                let (source, destination) = match direction {
                    Direction::Request => (client(flow), service(self.group(flow))),
                    Direction::Reply => self.translated[flow as usize].reply(),
                };
                write_udp(&mut self.frames[index], source, destination);
            }
            ticks += self.forward(burst)?;
        }
        Ok(per_packet(ticks, bursts * burst as u64))
    }

    /// Ends the renewable flows, then opens as many, from clients that were not there before.
    fn new_flows_once(&mut self, group: Group, burst: u64) -> Result<f64, PipelineError> {
        let burst = as_usize(burst);
        let repeats = (self.packets.min(MAX_RENEWED) / self.renewed).max(1);
        let mut ticks = 0;
        for _ in 0..repeats {
            self.end_renewed()?;
            self.renewed_as = group;
            let mut left = self.renewed as usize;
            while left > 0 {
                let count = left.min(burst);
                for index in 0..count {
                    let client = client(self.next_client);
                    // Never those of the flows that stay; reused long after their end.
                    self.next_client = self.next_client.checked_add(1).unwrap_or(self.flows);
                    match group {
                        Group::Connections => write_syn(&mut self.frames[index], client, service(group)),
                        _ => write_udp(&mut self.frames[index], client, service(group)),
                    }
                }
                ticks += self.forward(count)?;
                left -= count;
            }
        }
        Ok(per_packet(ticks, u64::from(self.renewed) * u64::from(repeats)))
    }

    /// Ends all flows that do not stay.
    fn end_renewed(&mut self) -> Result<(), PipelineError> {
        let gone = match self.renewed_as {
            Group::Connections => Arc::clone(&self.without_connections),
            _ => Arc::clone(&self.without_renewed),
        };
        self.publish(&gone);
        let staying = u64::from(self.flows - self.renewed);
        // As a busy worker sweeps. This is more than the whole table, of a small one in a second.
        for _ in 0..self.flows / 32 + 2048 {
            self.now = self.now + Duration::from_micros(500);
            self.engine.sweep(self.now);
            if self.engine_len() == staying {
                break;
            }
        }
        self.publish(&Arc::clone(&self.alive));
        match self.engine_len() {
            len if len == staying => Ok(()),
            left => Err(PipelineError::NotEnded { left, staying }),
        }
    }

    /// Flows in the table, as of the last sweep.
    fn engine_len(&self) -> u64 {
        self.stats.flow_entries.get()
    }

    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        drop(self.engine.set_snapshot(Arc::clone(snapshot)));
    }

    /// Forwards the first `count` frames and returns the ticks that this took.
    fn forward(&mut self, count: usize) -> Result<u64, PipelineError> {
        let frames = &mut self.frames[..count];
        self.verdicts.clear();
        let start = self.stopwatch.read();
        self.engine
            .forward_burst(frames, Origin::Queue, self.now, &mut self.verdicts);
        let ticks = self.stopwatch.read() - start;
        let is_transmit = |&&(verdict, _): &&(Verdict, usize)| verdict == Verdict::Transmit;
        let transmitted = self.verdicts.iter().filter(is_transmit).count();
        self.now = self.now + BURST_TIME;
        if transmitted == count {
            Ok(ticks)
        } else {
            Err(PipelineError::NotForwarded {
                packets: count,
                transmitted,
                drops: self.drops(),
            })
        }
    }

    fn drops(&self) -> String {
        let services: Vec<_> = (0..3).map(|slot| self.stats.service(ServiceSlot(slot))).collect();
        let count = |reason: DropReason| {
            let own = self.stats.drops[reason.index()].get();
            own + services
                .iter()
                .map(|service| service.drops[reason.index()].get())
                .sum::<u64>()
        };
        let dropped: Vec<String> = DropReason::ALL
            .into_iter()
            .filter(|&reason| count(reason) > 0)
            .map(|reason| format!("{reason} {}", count(reason)))
            .collect();
        dropped.join(", ")
    }

    const fn group(&self, flow: u32) -> Group {
        if flow < self.flows - self.renewed {
            Group::Lasting
        } else {
            Group::Renewed
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Direction {
    Request,
    Reply,
}

const fn service(group: Group) -> SocketAddrV4 {
    SocketAddrV4::new(OWN_ADDRESS, group.port())
}

fn summary(values: Vec<f64>) -> Summary {
    Summary::of(values).expect("at least one run")
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn per_packet(ticks: u64, packets: u64) -> f64 {
    ticks as f64 / packets as f64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "bursts have 1,024 packets at most"
)]
const fn as_usize(burst: u64) -> usize {
    burst as usize
}
