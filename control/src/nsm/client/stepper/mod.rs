//! Decides about the connection to the vL3 network. Pure: the time, ends of calls, signals of the monitor, the state of
//! the data plane and the order to leave come in, one step goes out.
//!
//! | situation | calls |
//! |---|---|
//! | start | Restore: a restarted container continues with its connection, else a first Request |
//! | a fifth of the tokens' life is over | Request that keeps everything |
//! | the monitor is lost, or reports that the connection is down, missing or to be refreshed | the same, at once |
//! | the interface is gone | the same; if that does not bring it back, as in the next row |
//! | the data plane is dead, or unknown and the tokens have expired | Close, then Request without address and endpoint |
//! | the monitor reports that the connection was closed | the same |
//! | leaving | Close |
//!
//! A Request that keeps everything also keeps address and DNS name, and names in client caches live for an hour.
//! So it is the first choice; a connection is replaced only if it carries no packets, or was closed. An endpoint gives
//! the address of a closed connection to the next client, so it must not be claimed: asked for any, the endpoint mostly
//! gives the same one, and reserves it.

#[cfg(test)]
mod model;
mod step;
#[cfg(test)]
mod tests;

use tokio::time::Instant;
use vl3lb_common::Duration;

pub(super) use step::{Call, Content, DataPlane, Loss, Restored, Signal, State, Step, Trigger};

/// The pause after a failed call, as of the SDK's clients. After [`QUICK`] calls it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const QUICK: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A connection is refreshed at least this much after the last Request, even if its tokens live shorter.
const SHORTEST_REFRESH: Duration = Duration::from_millis(500);
/// The limit of a Close that makes room for a replacement.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// An interface that a Request should bring back gets this long to carry packets.
const REPAIR_GRACE: Duration = Duration::from_secs(5);
/// Requests that should bring back the interface are tried for this long.
const REPAIR_LIMIT: Duration = Duration::from_secs(20);
/// A monitor that lasted this long is opened again without a pause.
const LASTING_MONITOR: Duration = Duration::from_secs(10);
const LONGEST_MONITOR_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Restoring,
    /// There is no connection: the next call is this Request.
    Vacant(Content),
    Granted(Grant),
    /// The next call is a Close, then comes a Request of this content.
    Replacing(Content),
    Leaving {
        end: Instant,
    },
    Done {
        closed: bool,
    },
}

/// A connection, as far as decisions depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Grant {
    refresh: Instant,
    expires: Instant,
}

impl Grant {
    /// Refreshed after a fifth of the life of the path's shortest-lived token, as by the SDK's clients.
    fn new(life: Duration, now: Instant) -> Self {
        Self {
            refresh: now + (life / 5).max(SHORTEST_REFRESH),
            expires: now + life,
        }
    }
}

/// Requests that are to bring back the interface.
#[derive(Debug, Clone, Copy)]
struct Repair {
    since: Instant,
    /// When one succeeded.
    granted: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
enum Monitor {
    Closed { retry: Instant },
    Opening,
    Open { since: Instant },
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Stepper {
    request_timeout: Duration,
    phase: Phase,
    calling: Option<Call>,
    /// Whether any Request began, so that there is something to close.
    requested: bool,
    /// No call begins before this.
    earliest: Instant,
    /// Calls in a row that were followed by a pause.
    pauses: u32,
    trigger: Option<Trigger>,
    /// What caused the Request in flight.
    cause: Option<Trigger>,
    /// Whether the last Request failed.
    failing: bool,
    data_plane: DataPlane,
    repair: Option<Repair>,
    /// Why the connection is, or was last, replaced.
    loss: Loss,
    /// The connection was closed during a call, which may have made it again.
    closed_meanwhile: bool,
    monitor: Monitor,
    monitor_pause: Duration,
}

impl Stepper {
    /// No connection is known. A Request may take `request_timeout`.
    pub(super) const fn new(request_timeout: Duration, now: Instant) -> Self {
        Self {
            request_timeout,
            phase: Phase::Restoring,
            calling: None,
            requested: false,
            earliest: now,
            pauses: 0,
            trigger: None,
            cause: None,
            failing: false,
            data_plane: DataPlane::Unknown,
            repair: None,
            loss: Loss::Expired,
            closed_meanwhile: false,
            monitor: Monitor::Closed { retry: now },
            monitor_pause: Duration::ZERO,
        }
    }

    /// The next step. The caller carries it out and reports its end; then it asks again.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        self.decide(now);
        if let Phase::Done { closed } = self.phase {
            return Step::Done { closed };
        }
        let leaving = matches!(self.phase, Phase::Leaving { .. });
        if let Some(call) = self.calling {
            if leaving && call != Call::Close {
                self.calling = None;
                return Step::Cancel;
            }
            return Step::Wait(None);
        }
        if now < self.earliest {
            let end = match self.phase {
                Phase::Leaving { end } => end,
                _ => self.earliest,
            };
            return Step::Wait(Some(self.earliest.min(end)));
        }
        match self.phase {
            Phase::Restoring => self.call(Call::Restore, self.request_timeout),
            Phase::Vacant(content) => self.request(content),
            Phase::Granted(grant) => {
                if self.trigger.is_some() || now >= grant.refresh {
                    return self.request(Content::Keep);
                }
                match self.monitor {
                    Monitor::Closed { retry } if now >= retry => {
                        self.monitor = Monitor::Opening;
                        Step::OpenMonitor
                    }
                    _ => Step::Wait(Some(self.wake(grant))),
                }
            }
            Phase::Replacing(_) => self.call(Call::Close, CLOSE_LIMIT.min(self.request_timeout)),
            Phase::Leaving { end } => self.call(Call::Close, end - now),
            Phase::Done { closed } => Step::Done { closed },
        }
    }

    /// [`Call::Restore`] ended.
    pub(super) fn restored(&mut self, restored: Restored, now: Instant) {
        self.calling = None;
        if self.phase != Phase::Restoring {
            return;
        }
        self.phase = match restored {
            Restored::Found(life) => {
                self.requested = true;
                self.trigger = Some(Trigger::Restored);
                Phase::Granted(Grant::new(life, now))
            }
            Restored::Unfit => {
                self.requested = true;
                Phase::Replacing(Content::First)
            }
            Restored::Nothing => Phase::Vacant(Content::First),
            Restored::Failed => {
                self.back_off(now);
                return;
            }
        };
        self.pauses = 0;
    }

    /// [`Call::Request`] succeeded. The shortest-lived token of the path lives for `life`.
    pub(super) fn granted(&mut self, life: Duration, now: Instant) {
        let kept = self.calling.take() == Some(Call::Request(Content::Keep));
        if !matches!(self.phase, Phase::Vacant(_) | Phase::Granted(_)) {
            return;
        }
        self.phase = Phase::Granted(Grant::new(life, now));
        self.failing = false;
        match &mut self.repair {
            Some(repair) if kept => repair.granted = Some(now),
            repair => *repair = None,
        }
        if !kept {
            self.data_plane = DataPlane::Unknown;
        }
        if self.cause.take().is_some_and(|cause| cause != Trigger::Restored) {
            // One after another must not become a stream of Requests.
            self.back_off(now);
        } else {
            self.pauses = 0;
            self.earliest = now;
        }
    }

    /// [`Call::Request`] failed, or had no reply within its limit.
    pub(super) fn request_failed(&mut self, now: Instant) {
        self.calling = None;
        self.failing = true;
        let cause = self.cause.take();
        self.trigger = self.trigger.or(cause);
        self.back_off(now);
    }

    /// [`Call::Close`] ended.
    pub(super) fn closed(&mut self, succeeded: bool, now: Instant) {
        self.calling = None;
        match self.phase {
            // Whatever is left of the old connection ends with its tokens.
            Phase::Replacing(content) => {
                self.phase = Phase::Vacant(content);
                (self.earliest, self.pauses) = (now, 0);
            }
            Phase::Leaving { .. } if succeeded => self.phase = Phase::Done { closed: true },
            _ => self.back_off(now),
        }
    }

    /// The monitor has sent its first event.
    pub(super) fn monitor_opened(&mut self, now: Instant) {
        self.monitor = Monitor::Open { since: now };
    }

    /// The monitor reports about the connection.
    pub(super) fn monitor_signal(&mut self, signal: Signal) {
        let trigger = match signal {
            Signal::Up => return,
            Signal::Down => Trigger::Down,
            Signal::Missing => Trigger::Missing,
            Signal::Closed => {
                self.closed_meanwhile = matches!(self.phase, Phase::Granted(_));
                return;
            }
            Signal::RefreshRequested => Trigger::RefreshRequested,
        };
        self.set_trigger(trigger);
    }

    /// The monitor ended, or could not be opened. One that never opened says nothing about the connection.
    pub(super) fn monitor_ended(&mut self, now: Instant) {
        let opened = match self.monitor {
            Monitor::Open { since } => Some(since),
            Monitor::Opening | Monitor::Closed { .. } => None,
        };
        self.monitor_pause = match opened {
            Some(since) if now - since >= LASTING_MONITOR => Duration::ZERO,
            _ => (self.monitor_pause * 2)
                .max(FIRST_PAUSE)
                .min(LONGEST_MONITOR_PAUSE),
        };
        let retry = now + self.monitor_pause;
        self.monitor = Monitor::Closed { retry };
        if opened.is_some() {
            self.set_trigger(Trigger::MonitorLost);
        }
    }

    /// The state of the data plane now.
    pub(super) fn data_plane(&mut self, state: DataPlane) {
        self.data_plane = state;
    }

    /// Ends the connection, within `limit`.
    pub(super) fn leave(&mut self, limit: Duration, now: Instant) {
        if matches!(self.phase, Phase::Leaving { .. } | Phase::Done { .. }) {
            return;
        }
        self.phase = if self.requested {
            Phase::Leaving { end: now + limit }
        } else {
            Phase::Done { closed: true }
        };
        (self.earliest, self.pauses) = (now, 0);
    }

    /// The state, for people.
    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Restoring => State::Restoring,
            Phase::Vacant(Content::Reselect) | Phase::Replacing(Content::Reselect) => {
                State::Replacing(self.loss)
            }
            Phase::Vacant(_) | Phase::Replacing(_) => State::Requesting,
            Phase::Granted(_) => match self.trigger.or(self.cause) {
                Some(trigger) => State::Healing(trigger),
                None => State::Connected,
            },
            Phase::Leaving { .. } => State::Closing,
            Phase::Done { .. } => State::Closed,
        }
    }

    /// When the connection is refreshed; `None` if there is none.
    pub(super) const fn refresh(&self) -> Option<Instant> {
        match self.phase {
            Phase::Granted(grant) => Some(grant.refresh),
            _ => None,
        }
    }

    /// The call in flight.
    #[cfg(test)]
    pub(super) const fn calling(&self) -> Option<Call> {
        self.calling
    }

    /// Whether the monitor is open.
    pub(super) const fn is_monitored(&self) -> bool {
        matches!(self.monitor, Monitor::Open { .. })
    }

    /// Changes of phase that time and the data plane cause.
    fn decide(&mut self, now: Instant) {
        match self.phase {
            Phase::Granted(grant) => self.judge(grant, now),
            Phase::Leaving { end } if now >= end => self.phase = Phase::Done { closed: false },
            _ => {}
        }
    }

    /// Replaces a connection that is closed or carries no packets, or has an absent interface brought back.
    fn judge(&mut self, grant: Grant, now: Instant) {
        let loss = match self.data_plane {
            _ if self.closed_meanwhile => Some(Loss::Closed),
            DataPlane::Alive => {
                self.repair = None;
                None
            }
            // While Requests succeed only clocks disagree.
            DataPlane::Unknown => (self.failing && now >= grant.expires).then_some(Loss::Expired),
            DataPlane::Silent => Some(Loss::Silent),
            DataPlane::Absent => match self.repair {
                None => {
                    self.repair = Some(Repair {
                        since: now,
                        granted: None,
                    });
                    self.set_trigger(Trigger::InterfaceAbsent);
                    None
                }
                Some(repair) => (now >= repair.end()).then_some(Loss::Absent),
            },
        };
        // A Request in flight may still bring it back.
        let Some(loss) = loss.filter(|_| self.calling.is_none()) else {
            return;
        };
        self.phase = Phase::Replacing(Content::Reselect);
        (self.repair, self.trigger, self.cause) = (None, None, None);
        (self.earliest, self.pauses) = (now, 0);
        (self.loss, self.closed_meanwhile) = (loss, false);
        self.monitor = Monitor::Closed { retry: now };
    }

    fn set_trigger(&mut self, trigger: Trigger) {
        if matches!(self.phase, Phase::Granted(_)) {
            self.trigger.get_or_insert(trigger);
        }
    }

    fn request(&mut self, content: Content) -> Step {
        self.cause = self.trigger.take();
        self.requested = true;
        self.call(Call::Request(content), self.request_timeout)
    }

    const fn call(&mut self, call: Call, limit: Duration) -> Step {
        self.calling = Some(call);
        Step::Call(call, limit)
    }

    /// When a connected client has something to do.
    fn wake(&self, grant: Grant) -> Instant {
        let mut wake = grant.refresh;
        if let Monitor::Closed { retry } = self.monitor {
            wake = wake.min(retry);
        }
        self.repair.map_or(wake, |repair| wake.min(repair.end()))
    }

    fn back_off(&mut self, now: Instant) {
        let doublings = self.pauses.saturating_sub(QUICK - 1).min(8);
        self.pauses = self.pauses.saturating_add(1);
        self.earliest = now + (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
    }
}

impl Repair {
    fn end(self) -> Instant {
        self.granted
            .map_or(self.since + REPAIR_LIMIT, |granted| granted + REPAIR_GRACE)
    }
}
