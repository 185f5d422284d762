//! Follows the connections of one endpoint, at the manager that knows them.
//!
//! Events hold the bearer tokens of other clients. They end in [`Connection::read`], in the task that receives them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::timeout;
use vl3lb_common::Duration;

use super::connection::{Connection, Skip};
use super::stream::{Backoff, Dial, StreamError, failed, within};
use crate::nsm::Target;
use crate::nsm::proto::connection::{
    ConnectionEvent, ConnectionEventType, MonitorScopeSelector, PathSegment,
};

/// The name of the call in errors.
const MONITOR: &str = "monitor connections";
/// A stream that is silent for so long is opened again: clients refresh more often, and a manager that hangs reports
/// nothing.
const SILENCE: Duration = Duration::from_secs(900);

/// What a monitor reports.
#[derive(Debug)]
pub(super) struct MonitorReport {
    pub(super) endpoint: Arc<str>,
    /// The monitor: a report of one that was replaced is void.
    pub(super) monitor: u64,
    pub(super) change: MonitorChange,
}

/// A change of the connections of an endpoint.
#[derive(Debug)]
pub(super) enum MonitorChange {
    /// All connections, by the manager's ids.
    Listed(Readings),
    Updated(Readings),
    /// The manager's ids.
    Deleted(Vec<String>),
    /// An event of an unknown type.
    Unknown,
    Lost(StreamError),
}

/// Connections that were read.
#[derive(Debug, Default)]
pub(super) struct Readings {
    pub(super) connections: BTreeMap<String, Connection>,
    /// Connections that were left out. One that was known before is gone.
    pub(super) skipped: Vec<(String, Skip)>,
}

/// What to follow, and how.
#[derive(Debug, Clone)]
pub(super) struct Monitor<D> {
    pub(super) dial: D,
    pub(super) manager: Target,
    pub(super) endpoint: Arc<str>,
    pub(super) service: Arc<str>,
    /// The number of this monitor.
    pub(super) number: u64,
    /// The limit until the first event.
    pub(super) limit: Duration,
}

impl<D: Dial> Monitor<D> {
    /// Follows the endpoint for ever. Cancelled by dropping; so it is if nobody receives `reports`.
    pub(super) async fn run(self, reports: mpsc::Sender<MonitorReport>) {
        let mut backoff = Backoff::new();
        loop {
            if let Err(error) = self.follow(&reports, &mut backoff).await {
                let lost = self.report(MonitorChange::Lost(error));
                if reports.send(lost).await.is_err() {
                    return;
                }
                backoff.wait().await;
            }
        }
    }

    /// Follows one stream until it ends. `Ok`: it was silent for a long time.
    async fn follow(
        &self,
        reports: &mpsc::Sender<MonitorReport>,
        backoff: &mut Backoff,
    ) -> Result<(), StreamError> {
        let mut manager = self.dial.dial(&self.manager).await?.monitor;
        // The first event is the list of all connections, even if there is none.
        let (first, mut events) = within(MONITOR, self.limit, async {
            let mut events = manager.monitor_connections(self.selector()).await?.into_inner();
            Ok((events.message().await?, events))
        })
        .await?;
        let first = first.ok_or(StreamError::Ended { call: MONITOR })?;
        self.send(reports, first).await;
        backoff.reset();
        loop {
            match timeout(SILENCE, events.message()).await {
                Ok(event) => {
                    let event = event.map_err(|status| failed(MONITOR, status))?;
                    let event = event.ok_or(StreamError::Ended { call: MONITOR })?;
                    self.send(reports, event).await;
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// Connections whose path names the endpoint.
    fn selector(&self) -> MonitorScopeSelector {
        MonitorScopeSelector {
            path_segments: vec![PathSegment {
                name: self.endpoint.to_string(),
                ..PathSegment::default()
            }],
            ..MonitorScopeSelector::default()
        }
    }

    /// A receiver that is gone is noticed with the next loss; the task is cancelled before.
    async fn send(&self, reports: &mpsc::Sender<MonitorReport>, event: ConnectionEvent) {
        let report = self.report(self.read(event));
        reports.send(report).await.ok();
    }

    fn report(&self, change: MonitorChange) -> MonitorReport {
        MonitorReport {
            endpoint: Arc::clone(&self.endpoint),
            monitor: self.number,
            change,
        }
    }

    fn read(&self, event: ConnectionEvent) -> MonitorChange {
        let kind = ConnectionEventType::try_from(event.r#type);
        if kind == Ok(ConnectionEventType::Delete) {
            return MonitorChange::Deleted(event.connections.into_keys().collect());
        }
        let mut readings = Readings::default();
        for (id, connection) in event.connections {
            match Connection::read(connection, &self.endpoint, &self.service) {
                Ok(connection) => {
                    readings.connections.insert(id, connection);
                }
                Err(skip) => readings.skipped.push((id, skip)),
            }
        }
        match kind {
            Ok(ConnectionEventType::InitialStateTransfer) => MonitorChange::Listed(readings),
            Ok(ConnectionEventType::Update) => MonitorChange::Updated(readings),
            Ok(ConnectionEventType::Delete) | Err(_) => MonitorChange::Unknown,
        }
    }
}
