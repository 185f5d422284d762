//! The running data plane: the steer programs, one worker per queue, and the way to talk to them.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam::queue::ArrayQueue;
use vl3lb_common::dataplane::{Attachment, Dataplane, Steered};
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::{FlowQuery, WorkerEvent};
use vl3lb_common::next_hop::{self, NextHops};
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{Duration, Generation, Snapshot, Timestamp};

use crate::clock::Clock;
use crate::config::Config;
use crate::error::SetupError;
use crate::link::{Link, LinkInfo};
use crate::packet::Framing;
use crate::pipeline::{Engine, EngineConfig};
use crate::port::xsk::{Layout, XskPort};
use crate::steer::{Rules, Steer};
use crate::worker::{self, Inbox, Worker, handoff};

/// Frames that may be on their way from one worker to another.
const HANDOFF_FRAMES: usize = 1024;
/// Events of all workers that may wait for the control side.
const EVENTS: usize = 1024;
/// How long all workers may take to switch to a new snapshot.
const SWITCH_LIMIT: Duration = Duration::from_secs(2);
/// How often to look whether they have.
const SWITCH_POLL: Duration = Duration::from_micros(20);

/// An attached data plane with running workers. Dropping it detaches and stops it.
#[derive(Debug)]
pub struct Plane {
    attachment: Attachment,
    workers: u16,
    stats: Vec<Arc<WorkerStats>>,
    inboxes: Vec<Arc<Inbox>>,
    events: Arc<ArrayQueue<WorkerEvent>>,
    flow_feeds: Vec<Arc<FlowFeed>>,
    running: Mutex<Running>,
    clock: Clock,
}

/// What `publish` and `stop` take turns with.
#[derive(Debug)]
struct Running {
    /// `None` once stopped.
    steer: Option<Steer>,
    threads: Vec<JoinHandle<Worker<XskPort>>>,
}

impl Plane {
    /// Attaches to the interface and starts the workers. Nothing is balanced before the first
    /// [`Dataplane::publish`]. Call it in the interface's network namespace.
    ///
    /// # Errors
    ///
    /// Whatever is wrong with the interface, the configuration or the privileges; nothing stays
    /// attached.
    pub fn start(config: &Config) -> Result<Self, SetupError> {
        let link = LinkInfo::inspect(&config.interface)?;
        let wanted = config
            .cores
            .as_ref()
            .map(|cores| u16::try_from(cores.len()).unwrap_or(u16::MAX));
        let mut steer = Steer::attach(&link, config.mode, wanted)?;
        let workers = u16::try_from(steer.queues()).unwrap_or(u16::MAX);
        let ports = XskPort::open(Layout {
            receive: steer.receive_interface(),
            transmit: steer.transmit_interface(),
            workers,
            frames: config.frames,
            zero_copy: config.zero_copy,
        })?;
        for (queue, port) in (0..).zip(&ports) {
            steer.register_socket(queue, port.receiver())?;
        }
        let attachment = Attachment {
            interface: link.name.clone(),
            index: link.index,
            link: link.link.name(),
            driver: link.driver.clone(),
            mtu: link.mtu,
            mode: steer.mode(),
            zero_copy: ports.iter().all(XskPort::is_zero_copy),
            reason: steer.reason().to_owned(),
            refuses: steer.refuses().to_owned(),
            cores: cores(config.cores.as_deref(), workers),
        };

        let start = |what: &str, cause| SetupError::Start {
            what: what.to_owned(),
            cause,
        };
        let stats: Vec<_> = (0..workers).map(|_| Arc::default()).collect();
        let inboxes = (0..workers)
            .map(|_| Inbox::new().map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|cause| start("the workers", cause))?;
        // From here on an error drops the plane, which stops what has started.
        let plane = Self {
            attachment,
            workers,
            stats,
            inboxes,
            events: Arc::new(ArrayQueue::new(EVENTS)),
            flow_feeds: (0..workers).map(|_| Arc::default()).collect(),
            running: Mutex::new(Running {
                steer: Some(steer),
                threads: Vec::new(),
            }),
            clock: Clock,
        };
        let bells: Vec<_> = plane
            .inboxes
            .iter()
            .map(|inbox| Arc::clone(inbox.bell()))
            .collect();
        let nothing = Arc::new(empty_snapshot(config, &link));
        let seed = RandomState::new().build_hasher().finish();
        for (number, (port, handoff)) in
            (0..workers).zip(ports.into_iter().zip(handoff::mesh(&bells, HANDOFF_FRAMES)))
        {
            let engine_config = EngineConfig {
                worker: number,
                workers,
                flows: (config.flows / u32::from(workers)).max(1),
                timeouts: config.timeouts,
                seed: seed.wrapping_add(number.into()),
                framing: match link.link {
                    Link::Ethernet(_) => Framing::Ethernet,
                    Link::RawIp => Framing::RawIp,
                },
            };
            let index = usize::from(number);
            let stats = &plane.stats[index];
            let mut engine = Engine::new(
                &engine_config,
                Arc::clone(&nothing),
                Arc::clone(stats),
                Arc::clone(&plane.events),
            )
            .map_err(|cause| {
                start(
                    &format!("worker {number} with {} flows", engine_config.flows),
                    cause,
                )
            })?;
            engine.announce_flows(Arc::clone(&plane.flow_feeds[index]));
            let inbox = Arc::clone(&plane.inboxes[index]);
            let worker = Worker::new(port, engine, handoff, inbox, Arc::clone(stats));
            let core = plane.attachment.cores.get(index).copied();
            let thread = worker::spawn(index, worker, core)
                .map_err(|cause| start(&format!("the thread of worker {number}"), cause))?;
            plane.running().threads.push(thread);
        }
        Ok(plane)
    }

    /// Detaches from the interface, lets the workers finish what has arrived, and waits for them.
    /// Returns the number of frames that were not given back: 0, unless a worker panicked. Harmless
    /// if already stopped.
    pub fn stop(&self) -> usize {
        let mut running = self.running();
        // First, so that nothing new arrives.
        running.steer = None;
        for inbox in &self.inboxes {
            inbox.stop();
        }
        // Workers are closed when all have stopped: they may hand packets to each other until then.
        let stopped: Vec<_> = running.threads.drain(..).map(JoinHandle::join).collect();
        let ports: Vec<_> = stopped.into_iter().flatten().map(Worker::close).collect();
        XskPort::outstanding(&ports)
    }

    /// Whether all workers run.
    ///
    /// # Errors
    ///
    /// Names a worker that does not: it panicked, or the plane was stopped.
    pub fn healthy(&self) -> Result<(), String> {
        self.running().healthy()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        // Nothing that is done under the lock leaves it half done.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all workers use `generation` or a later one.
    fn wait_for(&self, generation: Generation, running: &Running) -> Result<(), String> {
        let deadline = self.clock.now() + SWITCH_LIMIT;
        for (number, stats) in self.stats.iter().enumerate() {
            while stats.generation.get() < generation.0 {
                running.healthy()?;
                if self.clock.now() >= deadline {
                    return Err(format!(
                        "worker {number} did not switch to snapshot {} within {SWITCH_LIMIT:?}: it hangs, or \
                         gets no CPU",
                        generation.0
                    ));
                }
                thread::sleep(SWITCH_POLL);
            }
        }
        Ok(())
    }
}

impl Running {
    fn healthy(&self) -> Result<(), String> {
        if self.steer.is_none() {
            return Err("the data plane is stopped".to_owned());
        }
        match self.threads.iter().position(JoinHandle::is_finished) {
            Some(dead) => Err(format!(
                "worker {dead} has ended; its log tells why; restart vl3-lb"
            )),
            None => Ok(()),
        }
    }
}

impl Dataplane for Plane {
    fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), String> {
        let mut running = self.running();
        running.healthy()?;
        let rules = Rules {
            services: snapshot.services.keys().copied().collect::<HashSet<_>>(),
            addresses: snapshot.addresses.clone(),
            nat_ports: snapshot.nat_ports,
            workers: self.workers,
        };
        let generation = snapshot.generation;
        if let Some(steer) = &mut running.steer {
            steer.restrict(&rules).map_err(|error| error.to_string())?;
        }
        for inbox in &self.inboxes {
            inbox.publish(Arc::clone(&snapshot));
        }
        self.wait_for(generation, &running)?;
        if let Some(steer) = &mut running.steer {
            steer.allow(&rules).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    fn stats(&self) -> &[Arc<WorkerStats>] {
        &self.stats
    }

    fn steered(&self) -> Steered {
        self.running()
            .steer
            .as_ref()
            .map(Steer::steered)
            .unwrap_or_default()
    }

    fn query_flows(&self, worker: u16, query: FlowQuery) -> bool {
        self.inboxes
            .get(usize::from(worker))
            .is_some_and(|inbox| inbox.query(query))
    }

    fn flow_feeds(&self) -> &[Arc<FlowFeed>] {
        &self.flow_feeds
    }

    fn next_event(&self) -> Option<WorkerEvent> {
        self.events.pop()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The core of each worker: those configured, else those that this process may use, again from the
/// first one if there are fewer.
fn cores(configured: Option<&[usize]>, workers: u16) -> Vec<usize> {
    let available: Vec<usize> = configured.map_or_else(
        || {
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            cores.iter().map(|core| core.id).collect()
        },
        <[usize]>::to_vec,
    );
    available.into_iter().cycle().take(workers.into()).collect()
}

/// What workers know before the first snapshot: nothing.
fn empty_snapshot(config: &Config, link: &LinkInfo) -> Snapshot {
    let link_type = match link.link {
        Link::Ethernet(mac) => next_hop::Link::Ethernet(mac),
        Link::RawIp => next_hop::Link::RawIp,
    };
    Snapshot {
        generation: Generation::default(),
        addresses: Vec::new(),
        nat_ports: config.nat_ports,
        mtu: link.mtu,
        next_hops: NextHops::new(link_type, 0, Vec::new(), HashMap::new()),
        services: HashMap::default(),
        service_slots: Vec::new(),
        backend_slots: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
