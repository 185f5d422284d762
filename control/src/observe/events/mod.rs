//! The event log: changes of state, for the process's log and for every subscriber.
//!
//! The newest events are kept in a ring. A subscriber that reads more slowly than events are emitted
//! misses the oldest; how many is counted, and it is informed.

mod event;
mod ring;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::api::{self, EventCode, Severity, Time};

pub use event::Event;
pub use subscription::{Batch, Subscription};

use ring::Ring;

/// Events of one batch that are logged one by one. All are kept as events.
const LOGGED: usize = 10;

/// The event log. Producers call [`Self::emit`]; it knows none of them.
#[derive(Debug, Default)]
pub struct Events {
    ring: Mutex<Ring>,
    /// The number of the newest; wakes subscribers.
    newest: watch::Sender<u64>,
    /// Events that subscribers missed.
    lost: AtomicU64,
}

impl Events {
    /// Logs an event and hands it to all subscribers, dated now.
    pub fn emit(&self, event: Event) {
        let event = event.on_one_line();
        log(&event);
        self.append(Time::now(), [event]);
    }

    /// As [`Self::emit`], for a batch: the log has the first of them and the number of the others.
    pub fn emit_all(&self, events: Vec<Event>) {
        let events: Vec<_> = events.into_iter().map(Event::on_one_line).collect();
        events.iter().take(LOGGED).for_each(log);
        let more = events.len().saturating_sub(LOGGED);
        if more > 0 {
            info!("... and {more} more changes of state; `vl3-lb events` lists them");
        }
        self.append(Time::now(), events);
    }

    /// The kept events, oldest first.
    pub fn kept(&self) -> Vec<api::Event> {
        self.ring().after(0).cloned().collect()
    }

    /// Number of events emitted so far.
    pub fn total(&self) -> u64 {
        self.ring().total()
    }

    /// Number of events that subscribers missed so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// A subscription that begins with the oldest kept event.
    pub fn subscribe(self: &Arc<Self>) -> Subscription {
        let forgotten = self.ring().forgotten_after(0);
        Subscription::new(Arc::clone(self), self.newest.subscribe(), forgotten)
    }

    pub(crate) fn append(&self, time: Time, events: impl IntoIterator<Item = Event>) {
        let mut ring = self.ring();
        for event in events {
            ring.push(event.at(time));
        }
        self.newest.send_replace(ring.total());
    }

    /// The kept events after number `sequence`. Those that are not kept any more are counted as
    /// missed.
    fn take_after(&self, sequence: u64) -> Batch {
        let ring = self.ring();
        let lost = ring.forgotten_after(sequence);
        self.lost.fetch_add(lost, Relaxed);
        Batch {
            lost,
            events: ring.after(sequence).cloned().collect(),
        }
    }

    /// Consistent after every step, so a panic elsewhere does not spoil it.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the log line. Each code has its own call site here, because the log limits the lines of one
/// call site: many backend changes must not hide that the interface is gone.
fn log(event: &Event) {
    macro_rules! line {
        () => {{
            let service = event.service.as_deref();
            let backend = event.backend.map(tracing::field::display);
            let text = &event.text;
            match event.severity {
                Severity::Error => error!(service, backend, "{text}"),
                Severity::Warn => warn!(service, backend, "{text}"),
                Severity::Info => info!(service, backend, "{text}"),
            }
        }};
    }
    match event.code {
        EventCode::Started | EventCode::Draining => line!(),
        EventCode::ServiceAdded => line!(),
        EventCode::ServiceRemoved => line!(),
        EventCode::ServiceState => line!(),
        EventCode::BackendState => line!(),
        EventCode::ConfigRead | EventCode::ConfigRejected => line!(),
        EventCode::DiscoveryLost | EventCode::DiscoveryBack | EventCode::LeftOut => line!(),
        EventCode::AddressConflict | EventCode::NameConflict => line!(),
        EventCode::BalancerJoined | EventCode::BalancerLeft => line!(),
        EventCode::InterfaceLost | EventCode::InterfaceBack | EventCode::InterfaceChanged => line!(),
        EventCode::Attached | EventCode::AttachFailed => line!(),
        EventCode::NsmState | EventCode::NsmAddressChanged => line!(),
        EventCode::NsmCallFailed => line!(),
        EventCode::CapacityShort | EventCode::CapacityBack => line!(),
        EventCode::WorkerMoved => line!(),
        EventCode::EventsLost => line!(),
    }
}
