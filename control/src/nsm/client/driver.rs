//! Carries out the stepper's steps.

#[cfg(test)]
#[path = "fuzz.rs"]
mod fuzz;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use vl3lb_common::Duration;

use crate::network::NetworkReceiver;
use crate::nsm::identity::Identity;
use crate::nsm::proto::connection::Connection;

use super::call::{CallError, Caller};
use super::echo::{EchoError, echo};
use super::liveness::Liveness;
use super::message::{self, Terms};
use super::monitor::{self, Item, Monitor};
use super::record::{Record, View};
use super::stepper::{Call, Content, Restored, Step, Stepper};

/// The order to close the connection.
#[derive(Debug)]
pub(super) struct Leave {
    pub(super) limit: Duration,
    /// Whether it was closed in time.
    pub(super) done: oneshot::Sender<bool>,
}

/// The end of a call.
enum Ended {
    Restored(Result<Option<Connection>, CallError>),
    Requested(Content, Result<Connection, CallError>),
    Closed(Result<(), CallError>),
}

type Probe = BoxFuture<'static, (Instant, Result<Duration, EchoError>)>;

/// The client of one network service.
pub(super) struct Driver {
    caller: Caller,
    terms: Arc<Terms>,
    /// The limit of a call, and of the monitor's first event.
    request_timeout: Duration,
    max_token_lifetime: Duration,
    network: NetworkReceiver,
    identity: Identity,
    record: Record,
    stepper: Stepper,
    liveness: Liveness,
    /// The last reply, or what was restored.
    connection: Option<Connection>,
    /// Addresses of the endpoint.
    targets: Vec<IpAddr>,
    call: Option<BoxFuture<'static, Ended>>,
    monitor: Option<Monitor>,
    probes: FuturesUnordered<Probe>,
}

/// The parts of a driver.
pub(super) struct Parts {
    pub(super) caller: Caller,
    pub(super) terms: Terms,
    pub(super) request_timeout: Duration,
    pub(super) max_token_lifetime: Duration,
    pub(super) network: NetworkReceiver,
    pub(super) identity: Identity,
    pub(super) record: Record,
}

impl Driver {
    pub(super) fn new(parts: Parts) -> Self {
        let now = Instant::now();
        Self {
            caller: parts.caller,
            terms: Arc::new(parts.terms),
            request_timeout: parts.request_timeout,
            max_token_lifetime: parts.max_token_lifetime,
            network: parts.network,
            identity: parts.identity,
            record: parts.record,
            stepper: Stepper::new(parts.request_timeout, now),
            liveness: Liveness::new(now),
            connection: None,
            targets: Vec::new(),
            call: None,
            monitor: None,
            probes: FuturesUnordered::new(),
        }
    }

    /// Keeps the connection until a close is requested.
    pub(super) async fn run(mut self, mut leave: mpsc::Receiver<Leave>) {
        let mut leaving: Option<oneshot::Sender<bool>> = None;
        loop {
            let now = Instant::now();
            let wake = match self.advance(now) {
                Ok(wake) => wake,
                Err(closed) => {
                    self.show(now);
                    if let Some(done) = leaving {
                        done.send(closed).ok();
                    }
                    return;
                }
            };
            self.show(now);
            tokio::select! {
                ended = next_end(&mut self.call) => self.ended(ended),
                item = next_item(&mut self.monitor) => self.observed(item),
                Some((sent, answer)) = self.probes.next() => self.probed(sent, answer),
                Ok(()) = self.network.changed() => {}
                () = self.identity.changed() => {}
                Some(order) = leave.recv() => {
                    self.stepper.leave(order.limit, Instant::now());
                    leaving = Some(order.done);
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
            }
        }
    }

    /// Carries out steps until the next one is to wait; until when. Error: it is over, and whether the connection is
    /// closed.
    fn advance(&mut self, now: Instant) -> Result<Option<Instant>, bool> {
        let index = self
            .network
            .borrow_and_update()
            .as_ref()
            .and_then(|view| view.index);
        self.liveness.set_interface(index.is_some(), now);
        loop {
            self.stepper.data_plane(self.liveness.verdict(now));
            match self.stepper.step(now) {
                Step::Call(call, limit) => self.begin(call, limit),
                Step::Cancel => self.call = None,
                Step::OpenMonitor => {
                    let (caller, terms) = (self.caller.clone(), Arc::clone(&self.terms));
                    self.monitor = Some(Monitor::open(caller, terms, self.request_timeout));
                }
                Step::Wait(wake) => {
                    let due = self.probe(now);
                    return Ok([wake, due, self.liveness.turns(now)].into_iter().flatten().min());
                }
                Step::Done { closed } => return Err(closed),
            }
        }
    }

    /// Sends an echo request to each address of the endpoint if one is due. Returns when the next one is.
    fn probe(&mut self, now: Instant) -> Option<Instant> {
        if self.targets.is_empty() {
            return None;
        }
        if self.liveness.due()? <= now {
            self.liveness.sent(now);
            for &target in &self.targets {
                let interface = self.terms.service.interface.clone();
                let probe = async move { (now, echo(&interface, target).await) };
                self.probes.push(Box::pin(probe));
            }
        }
        self.liveness.due()
    }

    fn begin(&mut self, call: Call, limit: Duration) {
        let caller = self.caller.clone();
        let last = self.connection.as_ref();
        self.call = Some(match call {
            Call::Restore => {
                let terms = Arc::clone(&self.terms);
                Box::pin(async move { Ended::Restored(caller.restore(terms, limit).await) })
            }
            Call::Request(content) => {
                let request = self.terms.request(content, last);
                Box::pin(async move { Ended::Requested(content, caller.request(request, limit).await) })
            }
            Call::Close => {
                // Its events are about the old connection.
                self.monitor = None;
                let connection = self.terms.close(last);
                Box::pin(async move { Ended::Closed(caller.close(connection, limit).await) })
            }
        });
    }

    fn ended(&mut self, ended: Ended) {
        self.call = None;
        let now = Instant::now();
        match ended {
            Ended::Restored(restored) => {
                let restored = self.report(Call::Restore, restored, now);
                let outcome = match restored {
                    None => Restored::Failed,
                    Some(None) => Restored::Nothing,
                    Some(Some(connection)) => {
                        let fits = self.terms.fits(&connection);
                        let life = self.life(&connection);
                        self.adopt(connection, fits.then_some(false), now);
                        if fits {
                            Restored::Found(life)
                        } else {
                            Restored::Unfit
                        }
                    }
                };
                self.stepper.restored(outcome, now);
            }
            Ended::Requested(content, granted) => match self.report(Call::Request(content), granted, now) {
                Some(connection) => {
                    let life = self.life(&connection);
                    let anew = content != Content::Keep;
                    self.adopt(connection, Some(true), now);
                    if anew {
                        self.liveness.restart(now);
                    }
                    self.stepper.granted(life, now);
                }
                None => self.stepper.request_failed(now),
            },
            Ended::Closed(closed) => {
                let closed = self.report(Call::Close, closed, now);
                self.stepper.closed(closed.is_some(), now);
            }
        }
    }

    fn report<T>(&mut self, call: Call, outcome: Result<T, CallError>, now: Instant) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.record.succeeded(call);
                Some(value)
            }
            Err(error) => {
                self.record.failed(call, &error, now);
                None
            }
        }
    }

    /// Goes on with a connection. `shown`: whether it is a reply; `None` if it is only to be closed.
    fn adopt(&mut self, connection: Connection, shown: Option<bool>, now: Instant) {
        if let Some(is_reply) = shown {
            self.record.granted(&connection, is_reply);
            let targets = message::endpoint_addresses(&connection);
            if targets != self.targets {
                self.targets = targets;
                self.liveness.restart(now);
            }
        }
        self.connection = Some(connection);
    }

    /// At most as long as this client's own token: whatever others say, the connection is refreshed in time.
    fn life(&self, connection: &Connection) -> Duration {
        let life = message::life(connection, SystemTime::now());
        life.map_or(self.max_token_lifetime, |life| life.min(self.max_token_lifetime))
    }

    fn observed(&mut self, item: Item) {
        let now = Instant::now();
        let event = match item {
            Item::Opened(event) => {
                self.stepper.monitor_opened(now);
                event
            }
            Item::Changed(event) => event,
            Item::Ended(error) => {
                self.monitor = None;
                self.record.monitor_ended(error.as_ref(), now);
                self.stepper.monitor_ended(now);
                return;
            }
        };
        let manager_id = self.connection.as_ref().and_then(message::manager_id);
        if let Some(signal) = monitor::signal(&self.terms, &event, manager_id) {
            self.stepper.monitor_signal(signal);
        }
    }

    fn probed(&mut self, sent: Instant, answer: Result<Duration, EchoError>) {
        let now = Instant::now();
        match answer {
            Ok(_) => self.liveness.replied(sent, now),
            Err(error @ EchoError::Forbidden(_)) => {
                warn!("{error}; whether the endpoint is alive remains unknown");
                self.liveness.forbid();
            }
            Err(error) => {
                tracing::debug!("{error}");
                self.liveness.lost(sent, now);
            }
        }
    }

    fn show(&mut self, now: Instant) {
        self.record.show(View {
            state: self.stepper.state(),
            data_plane: self.liveness.verdict(now),
            round_trip: self.liveness.round_trip(),
            monitored: self.stepper.is_monitored(),
            refresh: self.stepper.refresh(),
            identity: self.identity.status(),
        });
    }
}

/// The end of the call in flight. Waits for ever if there is none. Cancel-safe.
async fn next_end(call: &mut Option<BoxFuture<'static, Ended>>) -> Ended {
    match call {
        Some(call) => call.await,
        None => std::future::pending().await,
    }
}

/// The next item of the monitor. Waits for ever if there is none. Cancel-safe.
async fn next_item(monitor: &mut Option<Monitor>) -> Item {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}
