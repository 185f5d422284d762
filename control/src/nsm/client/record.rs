//! What is shown of the connection: the status, and an event for each change of its state.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::debug;
use vl3lb_common::Duration;

use crate::api::{EventCode, NsmCallCount, NsmConnection, NsmHealCount, NsmState, Time};
use crate::error_chain::chain;
use crate::nsm::identity::IdentityStatus;
use crate::nsm::proto::connection::Connection;
use crate::observe::events::{Event, Events};

use super::call::CallError;
use super::message::{self, Terms};
use super::stepper::{Call, Content, DataPlane, Loss, State, Trigger};

/// Failures of another kind than the last one are reported this often.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The shown state of the connection.
#[derive(Debug)]
pub(super) struct Record {
    status: NsmConnection,
    shown: watch::Sender<NsmConnection>,
    events: Arc<Events>,
    state: State,
    /// When the next refresh is due, as shown.
    refresh: Option<Instant>,
    /// The failure that was reported last, and when; `None` while calls succeed.
    reported: Option<(&'static str, Instant)>,
}

/// What changes without an input of its own.
#[derive(Debug)]
pub(super) struct View {
    pub(super) state: State,
    pub(super) data_plane: DataPlane,
    pub(super) round_trip: Option<Duration>,
    pub(super) monitored: bool,
    /// When the next refresh is due.
    pub(super) refresh: Option<Instant>,
    pub(super) identity: IdentityStatus,
}

impl Record {
    pub(super) fn new(terms: &Terms, events: Arc<Events>) -> (Self, watch::Receiver<NsmConnection>) {
        let status = NsmConnection {
            network_service: terms.service.name.clone(),
            id: terms.id.clone(),
            state: NsmState::Restoring,
            state_since: Time::now(),
            reason: None,
            endpoint: None,
            path: Vec::new(),
            addresses: Vec::new(),
            endpoint_addresses: Vec::new(),
            mtu: None,
            granted_time: None,
            next_refresh_time: None,
            token_expiry_time: None,
            monitored: false,
            data_plane: data_plane_name(DataPlane::Unknown).to_owned(),
            round_trip_seconds: None,
            spiffe_id: None,
            svid_expiry_time: None,
            identity_error: None,
            last_error: None,
            last_error_time: None,
            calls: call_counts(),
            heals: Trigger::ALL
                .into_iter()
                .map(|trigger| NsmHealCount {
                    reason: reason_name(trigger).to_owned(),
                    heals_total: 0,
                })
                .collect(),
            replacements_total: 0,
            address_changes_total: 0,
            monitor_losses_total: 0,
        };
        let (shown, receiver) = watch::channel(status.clone());
        let record = Self {
            status,
            shown,
            events,
            state: State::Restoring,
            refresh: None,
            reported: None,
        };
        (record, receiver)
    }

    /// A call succeeded.
    pub(super) fn succeeded(&mut self, call: Call) {
        self.count(call, "ok");
        self.reported = None;
    }

    /// A call failed. The first failure is an event, and one of another kind later.
    pub(super) fn failed(&mut self, call: Call, error: &CallError, now: Instant) {
        let timeout = matches!(error, CallError::Timeout(_));
        self.count(call, if timeout { "timeout" } else { "error" });
        let attempt = format!("{} network service {}", verb(call), self.status.network_service);
        self.report(&attempt, error, now);
    }

    /// The monitor ended.
    pub(super) fn monitor_ended(&mut self, error: Option<&CallError>, now: Instant) {
        self.status.monitor_losses_total += 1;
        if let Some(error) = error {
            self.report("monitor the connection", error, now);
        }
    }

    fn report(&mut self, attempt: &str, error: &CallError, now: Instant) {
        let text = format!("{attempt}: {}", chain(error));
        let class = error.class();
        let is_news = self
            .reported
            .is_none_or(|(last, at)| last != class && now - at >= REPORT_INTERVAL);
        if is_news {
            self.reported = Some((class, now));
            self.events
                .emit(Event::warn(EventCode::NsmCallFailed, text.clone()));
        } else {
            debug!("{text}");
        }
        self.status.last_error = Some(text);
        self.status.last_error_time = Some(Time::now());
    }

    /// A Request was granted, or a connection restored.
    pub(super) fn granted(&mut self, connection: &Connection, is_reply: bool) {
        let status = &mut self.status;
        status.endpoint = message::endpoint(connection);
        status.path = message::path_names(connection);
        status.endpoint_addresses = message::endpoint_addresses(connection);
        status.mtu = message::mtu(connection);
        status.token_expiry_time = message::expiry(connection).map(Time);
        if is_reply {
            status.granted_time = Some(Time::now());
        }
        let mut addresses = message::addresses(connection);
        std::mem::swap(&mut status.addresses, &mut addresses);
        let before = addresses;
        if !before.is_empty() && before != status.addresses {
            status.address_changes_total += 1;
            let text = format!(
                "network service {} assigned other addresses: {} in place of {}",
                status.network_service,
                listed(&status.addresses),
                listed(&before)
            );
            let event = Event::warn(EventCode::NsmAddressChanged, text);
            let event = event.transition(&listed(&before), &listed(&status.addresses));
            self.events.emit(event);
        }
    }

    /// An early refresh begins.
    pub(super) fn healing(&mut self, trigger: Trigger) {
        let name = reason_name(trigger);
        let count = self.status.heals.iter_mut().find(|count| count.reason == name);
        if let Some(count) = count {
            count.heals_total += 1;
        }
    }

    /// Shows the state as it is now.
    pub(super) fn show(&mut self, view: View) {
        self.enter(&view);
        if view.refresh != self.refresh {
            self.refresh = view.refresh;
            let wall = |due: Instant| {
                let left = due.saturating_duration_since(Instant::now());
                Time(std::time::SystemTime::now() + left)
            };
            self.status.next_refresh_time = view.refresh.map(wall);
        }
        let status = &mut self.status;
        data_plane_name(view.data_plane).clone_into(&mut status.data_plane);
        status.round_trip_seconds = view.round_trip.map(|took| took.as_secs_f64());
        status.monitored = view.monitored;
        status.spiffe_id = view.identity.spiffe_id;
        status.svid_expiry_time = view.identity.expires.map(Time);
        status.identity_error = view.identity.error;
        self.shown.send_if_modified(|shown| {
            let changed = *shown != self.status;
            if changed {
                shown.clone_from(&self.status);
            }
            changed
        });
    }

    fn enter(&mut self, view: &View) {
        let (before, now) = (self.state, view.state);
        if before == now {
            return;
        }
        self.state = now;
        if let State::Healing(trigger) = now
            && !matches!(before, State::Healing(_))
        {
            self.healing(trigger);
        }
        if matches!(now, State::Replacing(_)) && !matches!(before, State::Replacing(_)) {
            self.status.replacements_total += 1;
        }
        self.status.state = shown(now);
        self.status.state_since = Time::now();
        self.status.reason = match now {
            State::Healing(trigger) => Some(reason_name(trigger).to_owned()),
            State::Replacing(loss) => Some(loss_name(loss).to_owned()),
            _ => None,
        };
        let event = Event {
            code: EventCode::NsmState,
            ..self.entered(now)
        };
        self.events
            .emit(event.transition(shown(before).name(), shown(now).name()));
    }

    fn entered(&self, state: State) -> Event {
        let NsmConnection {
            network_service: service,
            endpoint,
            addresses,
            ..
        } = &self.status;
        let info = |text| Event::new(EventCode::NsmState, text);
        match state {
            State::Restoring => info(format!(
                "looking for a connection to network service {service} of an earlier process"
            )),
            State::Requesting => info(format!("requesting network service {service}")),
            State::Connected => info(format!(
                "connected to network service {service}, endpoint {}: {}",
                endpoint.as_deref().unwrap_or("unknown"),
                listed(addresses)
            )),
            State::Healing(trigger) => {
                let text = format!(
                    "refreshing the connection to network service {service} early: {}",
                    explained(trigger)
                );
                match trigger {
                    Trigger::Restored | Trigger::RefreshRequested => info(text),
                    _ => Event::warn(EventCode::NsmState, text),
                }
            }
            State::Replacing(loss) => {
                let why = match loss {
                    Loss::Closed => "it was closed, and not by this client",
                    Loss::Silent => "the endpoint does not answer",
                    Loss::Absent => "the interface did not come back",
                    Loss::Expired => "its tokens have expired",
                };
                let text = format!("replacing the connection to network service {service}: {why}");
                Event::error(EventCode::NsmState, text)
            }
            State::Closing => info(format!("closing the connection to network service {service}")),
            State::Closed => info(format!("left network service {service}")),
        }
    }

    fn count(&mut self, call: Call, result: &str) {
        let name = call_name(call);
        let mut counts = self.status.calls.iter_mut();
        if let Some(count) = counts.find(|count| count.call == name && count.result == result) {
            count.calls_total += 1;
        }
    }
}

const CALLS: [Call; 5] = [
    Call::Restore,
    Call::Request(Content::First),
    Call::Request(Content::Keep),
    Call::Request(Content::Reselect),
    Call::Close,
];

fn call_counts() -> Vec<NsmCallCount> {
    let count = |call: Call, result: &str| NsmCallCount {
        call: call_name(call).to_owned(),
        result: result.to_owned(),
        calls_total: 0,
    };
    CALLS
        .into_iter()
        .flat_map(|call| ["ok", "error", "timeout"].map(|result| count(call, result)))
        .collect()
}

const fn call_name(call: Call) -> &'static str {
    match call {
        Call::Restore => "restore",
        Call::Request(Content::First) => "request",
        Call::Request(Content::Keep) => "refresh",
        Call::Request(Content::Reselect) => "reselect",
        Call::Close => "close",
    }
}

const fn verb(call: Call) -> &'static str {
    match call {
        Call::Restore => "look for a connection to",
        Call::Request(Content::First) => "request",
        Call::Request(Content::Keep) => "refresh the connection to",
        Call::Request(Content::Reselect) => "request another connection to",
        Call::Close => "close the connection to",
    }
}

const fn shown(state: State) -> NsmState {
    match state {
        State::Restoring => NsmState::Restoring,
        State::Requesting => NsmState::Requesting,
        State::Connected => NsmState::Connected,
        State::Healing(_) => NsmState::Healing,
        State::Replacing(_) => NsmState::Replacing,
        State::Closing => NsmState::Closing,
        State::Closed => NsmState::Closed,
    }
}

const fn reason_name(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Restored => "restored",
        Trigger::MonitorLost => "monitor_lost",
        Trigger::Down => "down",
        Trigger::Missing => "missing",
        Trigger::RefreshRequested => "refresh_requested",
        Trigger::InterfaceAbsent => "interface_absent",
    }
}

const fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::Closed => "closed",
        Loss::Silent => "silent",
        Loss::Absent => "interface_absent",
        Loss::Expired => "expired",
    }
}

const fn explained(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Restored => "an earlier process made it",
        Trigger::MonitorLost => "the manager's stream of events ended",
        Trigger::Down => "the manager reports that it is down",
        Trigger::Missing => "the manager does not know it",
        Trigger::RefreshRequested => "its parameters have changed",
        Trigger::InterfaceAbsent => "the interface is gone",
    }
}

const fn data_plane_name(state: DataPlane) -> &'static str {
    match state {
        DataPlane::Unknown => "unknown",
        DataPlane::Alive => "alive",
        DataPlane::Silent => "silent",
        DataPlane::Absent => "absent",
    }
}

fn listed(addresses: &[std::net::IpAddr]) -> String {
    match addresses {
        [] => "no address".to_owned(),
        addresses => {
            let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            texts.join(", ")
        }
    }
}
