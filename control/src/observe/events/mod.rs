//! Changes of state: each goes to the log and to everyone who asks for events, from one function.
//!
//! The newest are kept in a ring. A follower that is slower than what happens misses the oldest; how
//! many is counted, and it is told so.

mod capacity;
mod follower;
mod happening;
mod ring;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::{Event, EventCode, Severity, Time};
use tokio::sync::watch;
use tracing::{error, info, warn};

pub use capacity::Capacity;
pub use follower::{Batch, Follower};
pub use happening::Happening;

use ring::Ring;

/// Of many changes at once only so many are logged one by one. All are kept as events.
const LOGGED: usize = 10;

/// What happened so far.
#[derive(Debug, Default)]
pub struct Events {
    ring: Mutex<Ring>,
    /// The number of the newest; wakes followers.
    newest: watch::Sender<u64>,
    /// Events that followers missed.
    lost: AtomicU64,
}

impl Events {
    /// Tells everyone what happened now: the log, and all who ask for events.
    pub fn tell(&self, happening: impl Into<Happening>) {
        let happening = happening.into();
        log(&happening);
        self.keep(Time::now(), [happening]);
    }

    /// As [`Self::tell`], for many at once: the log has the first of them and how many more.
    pub fn tell_all(&self, happenings: Vec<Happening>) {
        happenings.iter().take(LOGGED).for_each(log);
        let more = happenings.len().saturating_sub(LOGGED);
        if more > 0 {
            info!("... and {more} more changes of state; `vl3-lb events` has them");
        }
        self.keep(Time::now(), happenings);
    }

    /// The kept events, oldest first.
    pub fn kept(&self) -> Vec<Event> {
        self.ring().after(0).cloned().collect()
    }

    /// Events that there were so far.
    pub fn total(&self) -> u64 {
        self.ring().total()
    }

    /// Events that followers missed so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// A follower from the oldest kept event on.
    pub fn follow(self: &Arc<Self>) -> Follower {
        let forgotten = self.ring().forgotten_after(0);
        Follower::new(Arc::clone(self), self.newest.subscribe(), forgotten)
    }

    pub(crate) fn keep(&self, time: Time, happenings: impl IntoIterator<Item = Happening>) {
        let mut ring = self.ring();
        for happening in happenings {
            ring.push(happening.at(time));
        }
        self.newest.send_replace(ring.total());
    }

    /// What is kept of the events after number `sequence`, and how many of them are not, which counts
    /// as missed.
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

/// Writes the line of the log. Each code has a place of its own here, because the log limits what one
/// place may write: many backends must not hide that the interface is gone.
fn log(happening: &Happening) {
    macro_rules! line {
        () => {{
            let service = happening.service.as_deref();
            let backend = happening.backend.map(tracing::field::display);
            let text = &happening.text;
            match happening.severity {
                Severity::Error => error!(service, backend, "{text}"),
                Severity::Warn => warn!(service, backend, "{text}"),
                Severity::Info => info!(service, backend, "{text}"),
            }
        }};
    }
    match happening.code {
        EventCode::Started | EventCode::Draining => line!(),
        EventCode::ServiceAdded => line!(),
        EventCode::ServiceRemoved => line!(),
        EventCode::ServiceState => line!(),
        EventCode::BackendState => line!(),
        EventCode::ConfigRead | EventCode::ConfigRejected => line!(),
        EventCode::DiscoveryLost | EventCode::DiscoveryBack => line!(),
        EventCode::BalancerJoined | EventCode::BalancerLeft => line!(),
        EventCode::InterfaceLost | EventCode::InterfaceBack | EventCode::InterfaceChanged => line!(),
        EventCode::CapacityShort | EventCode::CapacityBack => line!(),
        EventCode::EventsLost => line!(),
    }
}
