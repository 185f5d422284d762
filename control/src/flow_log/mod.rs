//! The flow log: each closed flow as a JSON line in a file, and as an IPFIX record to a collector.
//!
//! It is a reader of flow events like any other ([`crate::observe::flow_events`]): a slow disk or network delays neither
//! workers nor other readers. What is not logged is counted.

mod file;
mod ipfix;
mod stats;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::api::FlowEvent;
use crate::config;
use crate::observe::filter::FlowFilter;
use crate::observe::flow_events::{FlowEvents, Subscription};
use file::LineFile;
use ipfix::Exporter;
pub use stats::{FlowLogStats, Loss};

/// The flow log, with its place among the readers of flow events.
#[derive(Debug)]
pub struct FlowLog {
    subscription: Subscription,
    sampler: Sampler,
    file: Option<LineFile>,
    exporter: Option<Exporter>,
    stats: Arc<FlowLogStats>,
    /// Whether the last write to the file, and the last message to the collector, failed.
    file_fails: bool,
    collector_fails: bool,
}

impl FlowLog {
    /// Begins to read flow events.
    ///
    /// # Errors
    /// The file cannot be opened, or there is no socket for the collector.
    pub async fn start(
        config: &config::FlowLog,
        events: &FlowEvents,
        stats: Arc<FlowLogStats>,
    ) -> std::io::Result<Self> {
        let file = config.file.clone().map(|file| {
            LineFile::open(
                file,
                u64::from(config.max_megabytes) * 1_000_000,
                config.keep_files,
            )
        });
        let exporter = match config.collector {
            Some(collector) => Some(Exporter::connect(collector, config).await?),
            None => None,
        };
        // The first reader of all: there is room.
        let subscription = events
            .subscribe(FlowFilter::default())
            .ok_or_else(|| std::io::Error::other("too many readers of flow events"))?;
        Ok(Self {
            subscription,
            sampler: Sampler::new(config.sample_opened),
            file: file.transpose()?,
            exporter,
            stats,
            file_fails: false,
            collector_fails: false,
        })
    }

    /// Logs flows, for ever.
    pub async fn run(mut self) {
        loop {
            let mut events = self.subscription.next().await;
            for event in &events {
                if let FlowEvent::Lost { events, .. } = &**event {
                    self.stats.lose(Loss::Queue, *events);
                }
            }
            events.retain(|event| self.sampler.takes(event));
            if events.is_empty() {
                continue;
            }
            self.export(&events).await;
            if !self.write(events).await {
                return;
            }
        }
    }

    async fn export(&mut self, events: &[Arc<FlowEvent>]) {
        let Some(exporter) = &mut self.exporter else {
            return;
        };
        let sent = exporter.send(events).await;
        self.stats.send(sent.flows);
        self.stats.lose(Loss::Collector, sent.lost);
        match (&sent.error, self.collector_fails) {
            (Some(error), false) => warn!(
                "flow log: send to the collector {}: {error}",
                exporter.collector()
            ),
            (None, true) => info!(
                "flow log: the collector {} takes flows again",
                exporter.collector()
            ),
            _ => {}
        }
        self.collector_fails = sent.error.is_some();
    }

    /// Writes off the runtime's threads, as disks block. False after a panic there.
    async fn write(&mut self, events: Vec<Arc<FlowEvent>>) -> bool {
        let Some(mut file) = self.file.take() else {
            return true;
        };
        let flows = events
            .iter()
            .filter(|event| !matches!(***event, FlowEvent::Lost { .. }))
            .count() as u64;
        let write = move || {
            let mut lines = Vec::new();
            for event in &events {
                // Strings, numbers and times: writing them to memory cannot fail.
                serde_json::to_writer(&mut lines, &**event).ok();
                lines.push(b'\n');
            }
            let written = file.write(&lines);
            (file, written)
        };
        let Ok((file, written)) = spawn_blocking(write).await else {
            return false;
        };
        match (&written, self.file_fails) {
            (Err(error), false) => warn!("flow log: write {}: {error}", file.target()),
            (Ok(()), true) => info!("flow log: {} is written again", file.target()),
            _ => {}
        }
        self.file_fails = written.is_err();
        match written {
            Ok(()) => self.stats.write(flows),
            Err(_) => self.stats.lose(Loss::File, flows),
        }
        self.file = Some(file);
        true
    }
}

/// Chooses the events that are logged: all closed flows, each so-manieth opened one, and losses.
#[derive(Debug)]
struct Sampler {
    every: u32,
    seen: u32,
}

impl Sampler {
    const fn new(every: u32) -> Self {
        Self { every, seen: 0 }
    }

    fn takes(&mut self, event: &FlowEvent) -> bool {
        match event {
            FlowEvent::Close { .. } | FlowEvent::Lost { .. } => true,
            FlowEvent::Open { .. } if self.every == 0 => false,
            FlowEvent::Open { .. } => {
                self.seen = (self.seen + 1) % self.every;
                self.seen == 0
            }
        }
    }
}
