//! One engine with a full table, and the measurements on it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{DropReason, Duration, ServiceSlot, Snapshot, Timestamp};
use vl3lb_dataplane::config::Timeouts;
use vl3lb_dataplane::packet::Framing;
use vl3lb_dataplane::pipeline::{Engine, EngineConfig, Origin, Verdict};
use vl3lb_dataplane::port::Frame;
use vl3lb_dataplane::testing::{MemFrame, frame};

use super::Work;
use super::flows::{Picker, Translated, client};
use super::packets::{FRAME_LEN, write_syn, write_udp};
use super::world::{Group, OWN_ADDRESS, World};
use crate::args::PipelineArgs;
use crate::failure::Failure;
use crate::stopwatch::Stopwatch;
use crate::summary::Summary;

/// Flows that are closed and opened anew in one measurement of new flows, at most.
const MOST_RENEWED: u32 = 65_536;
/// Frames in hand: the longest burst.
const FRAMES: usize = 1024;
/// How far the clock goes from burst to burst.
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
    /// The last ones of the flows, which make room for new ones.
    renewed: u32,
    /// What those are at the moment.
    renewed_as: Group,
    /// By flow.
    translated: Vec<Translated>,
    picker: Picker,
    /// Packets in one measurement of established flows.
    packets: u32,
    /// All backends alive.
    alive: Arc<Snapshot>,
    /// The backends of one group dead.
    without_renewed: Arc<Snapshot>,
    without_connections: Arc<Snapshot>,
    /// The next client that has not been seen.
    next_client: u32,
}

impl<'a> Bench<'a> {
    /// Fills a table with `flows` flows, each with a packet in both directions.
    pub(super) fn new(flows: u32, args: &PipelineArgs, stopwatch: &'a Stopwatch) -> Result<Self, Failure> {
        let renewed = flows.min(MOST_RENEWED);
        let world = World::new([flows - renewed, renewed, renewed]);
        let alive = world.snapshot(1, None);
        let config = EngineConfig {
            worker: 0,
            workers: 1,
            flows,
            timeouts: Timeouts::default(),
            seed: args.seed,
            framing: Framing::Ethernet,
        };
        let stats = Arc::new(WorkerStats::default());
        let events = Arc::new(ArrayQueue::new(16));
        let engine = Engine::new(&config, Arc::clone(&alive), Arc::clone(&stats), events)
            .map_err(|error| Failure::new(error.to_string()))?;
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
            picker: Picker::new(args.distribution, flows, args.seed),
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
    /// The directions take turns, so that a disturbance meets both.
    pub(super) fn established(&mut self, runs: u32, burst: u64) -> Result<[Summary; 2], Failure> {
        // The first measurement of each warms the caches up and does not count.
        for direction in [Way::Request, Way::Reply] {
            self.established_once(direction, burst)?;
        }
        let (mut requests, mut replies) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            requests.push(self.established_once(Way::Request, burst)?);
            replies.push(self.established_once(Way::Reply, burst)?);
        }
        Ok([summary(requests)?, summary(replies)?])
    }

    /// Cycles per packet that opens a flow in a table that is full but for `renewed` entries: UDP, TCP.
    pub(super) fn new_flows(&mut self, runs: u32, burst: u64) -> Result<[Summary; 2], Failure> {
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
        Ok([summary(udp)?, summary(tcp)?])
    }

    /// One measurement of one kind, for its work and not for its result.
    pub(super) fn once(&mut self, kind: Work, burst: u64) -> Result<(), Failure> {
        match kind {
            Work::Request => self.established_once(Way::Request, burst),
            Work::Reply => self.established_once(Way::Reply, burst),
            Work::NewFlow => self.new_flows_once(Group::Renewed, burst),
        }
        .map(drop)
    }

    fn fill(&mut self) -> Result<(), Failure> {
        for flow in 0..self.flows {
            let group = self.group(flow);
            write_udp(&mut self.frames[0], client(flow), service(group));
            self.forward(1)?;
            let translated = translated(self.frames[0].bytes()).ok_or_else(|| {
                Failure::new(format!("read the translation of flow {flow}: not IPv4 and UDP"))
            })?;
            self.translated.push(translated);
            let (source, destination) = translated.reply();
            write_udp(&mut self.frames[0], source, destination);
            self.forward(1)?;
        }
        Ok(())
    }

    fn established_once(&mut self, way: Way, burst: u64) -> Result<f64, Failure> {
        let bursts = u64::from(self.packets).div_ceil(burst);
        let burst = as_usize(burst);
        let mut ticks = 0;
        for _ in 0..bursts {
            for index in 0..burst {
                let flow = self.picker.pick();
                let (source, destination) = match way {
                    Way::Request => (client(flow), service(self.group(flow))),
                    Way::Reply => self.translated[flow as usize].reply(),
                };
                write_udp(&mut self.frames[index], source, destination);
            }
            ticks += self.forward(burst)?;
        }
        Ok(per_packet(ticks, bursts * burst as u64))
    }

    /// Ends the renewable flows, then opens as many, from clients that were not there before.
    fn new_flows_once(&mut self, group: Group, burst: u64) -> Result<f64, Failure> {
        let burst = as_usize(burst);
        let repeats = (self.packets.min(MOST_RENEWED) / self.renewed).max(1);
        let mut ticks = 0;
        for _ in 0..repeats {
            self.end_renewed()?;
            self.renewed_as = group;
            let mut left = self.renewed as usize;
            while left > 0 {
                let count = left.min(burst);
                for index in 0..count {
                    let client = client(self.next_client);
                    // Away from the flows that stay, and round again long after their end.
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

    /// Takes all flows out of the table that are not to stay.
    fn end_renewed(&mut self) -> Result<(), Failure> {
        let gone = match self.renewed_as {
            Group::Connections => Arc::clone(&self.without_connections),
            _ => Arc::clone(&self.without_renewed),
        };
        self.publish(&gone);
        let staying = u64::from(self.flows - self.renewed);
        // Each sweep gets on by 64 entries at least: this is once around and more.
        for _ in 0..self.flows / 32 + 2 {
            self.engine.sweep(self.now);
            if self.engine_len() == staying {
                break;
            }
        }
        self.publish(&Arc::clone(&self.alive));
        match self.engine_len() {
            len if len == staying => Ok(()),
            len => Err(Failure::new(format!(
                "end {} flows: {len} are left in the table, not {staying}",
                self.renewed
            ))),
        }
    }

    /// Flows in the table, as of the last sweep.
    fn engine_len(&self) -> u64 {
        self.stats.flow_entries.get()
    }

    fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        drop(self.engine.set_snapshot(Arc::clone(snapshot), self.now));
    }

    /// Forwards the first `count` frames and returns the ticks that this took.
    fn forward(&mut self, count: usize) -> Result<u64, Failure> {
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
            Err(Failure::new(format!(
                "forward a burst of {count} packets: {transmitted} were transmitted; drops: {}",
                self.drops()
            )))
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
enum Way {
    Request,
    Reply,
}

const fn service(group: Group) -> SocketAddrV4 {
    SocketAddrV4::new(OWN_ADDRESS, group.port())
}

/// Reads what the engine made of a request.
fn translated(bytes: &[u8]) -> Option<Translated> {
    let packet = SlicedPacket::from_ethernet(bytes).ok()?;
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (packet.net, packet.transport) else {
        return None;
    };
    let end = |address: Ipv4Addr, port| SocketAddrV4::new(address, port);
    Some(Translated::from_request(
        end(ip.header().source_addr(), udp.source_port()),
        end(ip.header().destination_addr(), udp.destination_port()),
    ))
}

fn summary(values: Vec<f64>) -> Result<Summary, Failure> {
    Summary::of(values).ok_or_else(|| Failure::new("summarise measurements: there are none; try --runs 1"))
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
