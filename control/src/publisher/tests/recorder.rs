//! A data plane that records.

use std::sync::Mutex;

use vl3lb_common::dataplane::{
    AttachError, AttachMode, Attachment, FastPath, LinkChange, PublishError, Steered, WorkerFailure,
};
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::FlowQuery;
use vl3lb_common::next_hop::Link;
use vl3lb_common::selection_query::SelectionQuery;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{MacAddr, Timestamp};

use super::super::*;

/// A data plane that records.
pub(super) struct Recorder {
    pub(super) attachment: Arc<Attachment>,
    pub(super) stats: Vec<Arc<WorkerStats>>,
    pub(super) started: Instant,
    pub(super) published: Mutex<Vec<Arc<Snapshot>>>,
    pub(super) events: Mutex<Vec<WorkerEvent>>,
    /// Snapshots to refuse.
    pub(super) refuse: Mutex<usize>,
}

impl Recorder {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            attachment: Arc::new(Attachment {
                interface: "nsm-1".to_owned(),
                index: 7,
                link: Link::Ethernet(MacAddr([2, 0, 0, 0, 0, 1])),
                driver: "veth".to_owned(),
                mtu: 1500,
                mode: AttachMode::Generic,
                zero_copy: false,
                reason: String::new(),
                refuses: String::new(),
                local_clients: String::new(),
                receive_queues: 1,
                transmit_queues: 1,
                cores: vec![0],
                fast_path: FastPath::default(),
            }),
            stats: vec![Arc::new(WorkerStats::default())],
            started: Instant::now(),
            published: Mutex::default(),
            events: Mutex::default(),
            refuse: Mutex::default(),
        })
    }

    pub(super) fn generations(&self) -> Vec<u64> {
        let published = self.published.lock().unwrap();
        published.iter().map(|snapshot| snapshot.generation.0).collect()
    }
}

impl Dataplane for Recorder {
    fn publish(&self, snapshot: Arc<Snapshot>) -> Result<(), PublishError> {
        let mut refuse = self.refuse.lock().unwrap();
        if *refuse > 0 {
            *refuse -= 1;
            return Err(PublishError::Steer("workers are stuck".into()));
        }
        self.stats[0].generation.set(snapshot.generation.0);
        self.published.lock().unwrap().push(snapshot);
        Ok(())
    }

    fn attach(&self) -> Result<Arc<Attachment>, AttachError> {
        Ok(Arc::clone(&self.attachment))
    }

    fn detach(&self) {}

    fn attachment(&self) -> Option<Arc<Attachment>> {
        Some(Arc::clone(&self.attachment))
    }

    fn link_change(&self) -> Option<LinkChange> {
        None
    }

    fn healthy(&self) -> Result<(), WorkerFailure> {
        Ok(())
    }

    fn stats(&self) -> &[Arc<WorkerStats>] {
        &self.stats
    }

    fn steered(&self) -> Steered {
        Steered::default()
    }

    fn query_flows(&self, _: u16, _: FlowQuery) -> bool {
        false
    }

    fn query_selection(&self, _: u16, _: SelectionQuery) -> bool {
        false
    }

    fn flow_feeds(&self) -> &[Arc<FlowFeed>] {
        &[]
    }

    fn next_event(&self) -> Option<WorkerEvent> {
        self.events.lock().unwrap().pop()
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_duration(self.started.elapsed())
    }
}
