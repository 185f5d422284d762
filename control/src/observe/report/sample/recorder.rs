//! A data plane that only answers.

use std::sync::{Arc, Mutex};

use vl3lb_common::dataplane::{AttachMode, Attachment, Dataplane, Steered};
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::{FlowQuery, FlowRecord, FlowSlice, WorkerEvent};
use vl3lb_common::snapshot::{BackendSlot, ServiceSlot, Snapshot};
use vl3lb_common::stats::{CONNECT_BOUNDS, CloseCause, DURATION_BOUNDS, WorkerStats};
use vl3lb_common::{DropReason, Timestamp};

use super::at;

/// A data plane that only answers.
pub(crate) struct Recorder {
    attachment: Attachment,
    pub(super) stats: Vec<Arc<WorkerStats>>,
    /// Flows of each worker.
    pub(crate) flows: Mutex<Vec<Vec<FlowRecord>>>,
    pub(crate) flow_feeds: Vec<Arc<FlowFeed>>,
    pub(crate) now: Mutex<Timestamp>,
}

impl Recorder {
    /// Workers that beat at `now` and use generation 42.
    pub(crate) fn new(workers: u16) -> Self {
        let stats: Vec<_> = (0..workers).map(|_| Arc::new(WorkerStats::default())).collect();
        for worker in &stats {
            worker.heartbeat.set(at(3600).0);
            worker.generation.set(42);
            worker.flow_capacity.set(500_000);
        }
        Self {
            attachment: Attachment {
                interface: "nsm-1".to_owned(),
                index: 7,
                link: "ethernet",
                driver: "veth".to_owned(),
                mtu: 1446,
                mode: AttachMode::Native,
                zero_copy: false,
                reason: "zero-copy refused by driver veth".to_owned(),
                refuses: String::new(),
                cores: (0..usize::from(workers)).map(|core| core + 2).collect(),
            },
            stats,
            flows: Mutex::new(vec![Vec::new(); usize::from(workers)]),
            flow_feeds: (0..workers).map(|_| Arc::default()).collect(),
            now: Mutex::new(at(3600)),
        }
    }
}

impl Dataplane for Recorder {
    fn publish(&self, _: Arc<Snapshot>) -> Result<(), String> {
        Ok(())
    }

    fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    fn stats(&self) -> &[Arc<WorkerStats>] {
        &self.stats
    }

    fn steered(&self) -> Steered {
        Steered {
            redirected: 1000,
            passed: 20,
        }
    }

    /// One flow a slice, so that readers have to go on.
    fn query_flows(&self, worker: u16, query: FlowQuery) -> bool {
        let flows = self.flows.lock().unwrap();
        let Some(flows) = flows.get(usize::from(worker)) else {
            return false;
        };
        let next = query.cursor + 1;
        let slice = FlowSlice {
            flows: flows.get(query.cursor as usize).cloned().into_iter().collect(),
            next: ((next as usize) < flows.len()).then_some(next),
        };
        query.answer.try_send(slice).unwrap();
        true
    }

    fn flow_feeds(&self) -> &[Arc<FlowFeed>] {
        &self.flow_feeds
    }

    fn next_event(&self) -> Option<WorkerEvent> {
        None
    }

    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }
}

/// Counts ten seconds of traffic at all services.
pub(crate) fn count_traffic(recorder: &Recorder) {
    let worker = &recorder.stats[0];
    for (slot, packets) in [(0, 290_000), (1, 20_100)] {
        let stats = worker.service(ServiceSlot(slot));
        stats.inbound.packets.add(packets * 10);
        stats.inbound.bytes.add(packets * 10 * 90);
        stats.outbound.packets.add(packets * 9);
        stats.outbound.bytes.add(packets * 9 * 1400);
        stats.flows_opened.add(packets / 10);
        stats.flows_closed[CloseCause::Fin as usize].add(packets / 20);
        stats.connect.observe(800, &CONNECT_BOUNDS);
        stats.duration.observe(2_000_000, &DURATION_BOUNDS);
    }
    worker.drop_packet(Some(ServiceSlot(2)), DropReason::NoBackend);
    worker.service(ServiceSlot(2)).drops[DropReason::NoBackend.index()].add(3399);
    worker.drop_packet(None, DropReason::Malformed);
    for (slot, packets) in [(0, 1_000_000), (1, 3000), (2, 201_000)] {
        let stats = worker.backend(BackendSlot(slot));
        stats.inbound.packets.add(packets);
        stats.inbound.bytes.add(packets * 90);
        stats.outbound.packets.add(packets);
        stats.outbound.bytes.add(packets * 1400);
        stats.flows.set(packets / 50);
        stats.nat_ports.set(packets / 50);
        stats.flows_opened.add(packets / 700);
        stats.flows_failed[0].add(u64::from(slot));
    }
    worker.received.add(3_100_000);
    worker.transmitted.add(3_000_000);
    worker.bursts.add(100_000);
    worker.busy_nanos.add(3_100_000_000);
    worker.flow_entries.set(48_210);
    worker.frames_free.set(4000);
    worker.port.rx_ring_full.set(7);
}
