//! How backends leave: drained, cut when their time is over, forgotten when no worker refers to them.

use std::collections::HashSet;

use vl3lb_common::snapshot::{BackendState, Generation, ServiceSlot};
use vl3lb_common::{Duration, Timestamp};

use super::change::{DEAD, REPLACED};
use super::counts::{flows_left, generation_in_use};
use super::record::BackendRecord;
use super::slots::{backend_slot, service_slot};
use super::standing::state_name;
use super::wanted::{self, BackendIdentity, Holders};
use super::{Changes, Event, Inputs, State};

impl State {
    /// Whether slots wait for their last flows, so that [`Self::update`] has to look from time to
    /// time.
    pub fn is_leaving(&self) -> bool {
        self.backends.iter().any(|(_, backend)| backend.is_leaving())
            || self.services.iter().any(|(_, service)| service.removed.is_some())
    }

    /// When the next drain time is over.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.backends
            .iter()
            .filter_map(|(_, backend)| match backend.state {
                BackendState::Draining { .. } if backend.held => None,
                BackendState::Draining { since } => Some(since + self.drain_of(backend)),
                BackendState::Active | BackendState::Unknown | BackendState::Down | BackendState::Gone => {
                    None
                }
            })
            .min()
    }

    /// Backends of `service` that are not to be kept begin to drain.
    pub(super) fn drain_backends(
        &mut self,
        service: ServiceSlot,
        keep: impl Fn(&BackendIdentity) -> bool,
        reason: &'static str,
        next: Generation,
        inputs: Inputs<'_>,
        changes: &mut Changes,
    ) -> bool {
        let name = self.service_name(service);
        let leaving = self.backends.iter_mut().filter(|(_, backend)| {
            backend.service == service && !backend.is_leaving() && !keep(&backend.identity())
        });
        let mut changed = false;
        for (_, backend) in leaving {
            changed = true;
            backend.left = inputs.now.wall;
            let from = backend.state;
            // Flows of a dead one are ended already.
            let to = match from {
                BackendState::Down => BackendState::Gone,
                _ => BackendState::Draining {
                    since: inputs.now.monotonic,
                },
            };
            if !backend.turn(to, next, inputs.now) {
                // It was held; the drain time begins now.
                backend.held = false;
                backend.state = to;
                continue;
            }
            changes.removed += usize::from(from.takes_new_flows());
            changes.events.push(Event::Backend {
                service: name.clone(),
                backend: (backend.address, backend.port).into(),
                from: state_name(from),
                to: state_name(to),
                reason: reason.into(),
            });
        }
        changed
    }

    /// Leaving backends lose their remaining flows when their drain time is over, or as soon as the
    /// instance is dead or another has its address.
    pub(super) fn end_drains(
        &mut self,
        holders: &Holders,
        inputs: Inputs<'_>,
        changes: &mut Changes,
    ) -> bool {
        let instances = &inputs.desired.instances;
        let over: Vec<(usize, &'static str)> = self
            .backends
            .iter()
            .filter_map(|(index, backend)| match backend.state {
                BackendState::Draining { since } if !backend.held => {
                    let instance = backend.instance.as_ref();
                    let reason = if inputs.now.monotonic.since(since) >= self.drain_of(backend) {
                        "its drain time is over"
                    } else if instances.is_dead(instance) {
                        DEAD
                    } else if instances.is_replaced(backend.address, instance)
                        || wanted::is_replaced(holders, backend.protocol, &backend.identity())
                    {
                        REPLACED
                    } else {
                        return None;
                    };
                    Some((index, reason))
                }
                BackendState::Active
                | BackendState::Unknown
                | BackendState::Draining { .. }
                | BackendState::Down
                | BackendState::Gone => None,
            })
            .collect();
        for &(index, reason) in &over {
            let Some(backend) = self.backends.get_mut(index) else {
                continue;
            };
            backend.state = BackendState::Gone;
            backend.since = inputs.now.wall;
            let (slot, socket) = (backend.service, (backend.address, backend.port).into());
            changes.events.push(Event::Backend {
                service: self.service_name(slot),
                backend: socket,
                from: "draining",
                to: "gone",
                reason: reason.into(),
            });
        }
        !over.is_empty()
    }

    /// Frees slots that no worker can refer to any more: all use a generation in which the owner
    /// got no new flows, and no flow is left.
    pub(super) fn free_slots(&mut self, inputs: Inputs<'_>, changes: &mut Changes) -> bool {
        let in_use = generation_in_use(inputs.workers).unwrap_or(self.generation);
        let finished: Vec<usize> = self
            .backends
            .iter()
            .filter(|(index, backend)| {
                backend.is_leaving()
                    && in_use >= backend.inactive_from
                    && flows_left(inputs.workers, backend_slot(*index)) == 0
            })
            .map(|(index, _)| index)
            .collect();
        for &index in &finished {
            let Some(backend) = self.backends.remove(index) else {
                continue;
            };
            self.by_backend.remove(&(backend.service, backend.identity()));
            changes.events.push(Event::Backend {
                service: self.service_name(backend.service),
                backend: (backend.address, backend.port).into(),
                from: state_name(backend.state),
                to: "removed",
                reason: "no flow is left".into(),
            });
        }
        let left: HashSet<ServiceSlot> = self.backends.iter().map(|(_, backend)| backend.service).collect();
        let empty: Vec<usize> = self
            .services
            .iter()
            .filter(|(index, service)| {
                service.removed.is_some_and(|removed| in_use >= removed)
                    && !left.contains(&service_slot(*index))
            })
            .map(|(index, _)| index)
            .collect();
        for &index in &empty {
            self.services.remove(index);
        }
        !finished.is_empty() || !empty.is_empty()
    }

    pub(super) fn drain_of(&self, backend: &BackendRecord) -> Duration {
        let service = self.services.get(backend.service.index());
        service.map_or(Duration::ZERO, |service| service.attributes.drain)
    }
}
