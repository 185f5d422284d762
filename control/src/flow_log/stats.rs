//! What the flow log has logged and lost.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::api::{FlowLog, FlowLogLoss};
use crate::config;

/// Why flows were not logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// They opened and closed faster than they could be logged.
    Queue,
    /// The file could not be written.
    File,
    /// The kernel did not send them, or the collector's host refused an earlier message.
    Collector,
}

impl Loss {
    const ALL: [Self; 3] = [Self::Queue, Self::File, Self::Collector];

    const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::File => "file",
            Self::Collector => "collector",
        }
    }
}

/// The counters of the flow log, and where it goes.
#[derive(Debug)]
pub struct FlowLogStats {
    file: Option<String>,
    collector: Option<SocketAddr>,
    written: AtomicU64,
    sent: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
}

impl FlowLogStats {
    /// All zero.
    pub fn new(config: &config::FlowLog) -> Self {
        Self {
            file: config.file.as_ref().map(ToString::to_string),
            collector: config.collector,
            written: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            lost: Default::default(),
        }
    }

    pub(super) fn write(&self, flows: u64) {
        self.written.fetch_add(flows, Relaxed);
    }

    pub(super) fn send(&self, flows: u64) {
        self.sent.fetch_add(flows, Relaxed);
    }

    /// Counts flows that were not logged.
    pub fn lose(&self, loss: Loss, flows: u64) {
        self.lost[loss as usize].fetch_add(flows, Relaxed);
    }

    /// As the API shows it.
    pub fn report(&self) -> FlowLog {
        let loss = |loss: Loss| FlowLogLoss {
            reason: loss.name().to_owned(),
            flows_total: self.lost[loss as usize].load(Relaxed),
        };
        FlowLog {
            file: self.file.clone(),
            collector: self.collector,
            written_total: self.written.load(Relaxed),
            sent_total: self.sent.load(Relaxed),
            lost: Loss::ALL.map(loss).to_vec(),
        }
    }
}
