//! Draining of backends that are not desired any more: the drain time, its end, and freeing their slots.

use vl3lb_common::snapshot::{BackendSlot, BackendState, Generation, ServiceSlot};
use vl3lb_common::{Duration, Timestamp};

use super::backend_state::state_name;
use super::change::{DEAD, REPLACED};
use super::counts::{flows_left, generation_in_use};
use super::record::BackendRecord;
use super::slots::backend_slot;

use super::{Changes, Event, Inputs, State};

impl State {
    /// Whether slots wait for their last flows, so that [`Self::update`] has to be called periodically.
    pub fn is_draining(&self) -> bool {
        !self.draining.is_empty() || self.services.iter().any(|(_, service)| service.removed.is_some())
    }

    /// When the next drain time is over, or the next share of a slow start begins.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let deadlines = self
            .draining_backends()
            .filter_map(|(_, backend)| match backend.state {
                BackendState::Draining { since } => Some(since + self.drain_of(backend)),
                BackendState::Active | BackendState::Unknown | BackendState::Down | BackendState::Gone => {
                    None
                }
            });
        deadlines.chain(self.slow_starts()).min()
    }

    /// When the share of a backend that came up grows next.
    fn slow_starts(&self) -> impl Iterator<Item = Timestamp> {
        let services = self.services.iter().map(|(_, service)| service);
        let slow = services.filter(|service| !service.attributes.rules.slow_start.is_zero());
        slow.flat_map(|service| {
            let backends = service
                .members
                .values()
                .filter_map(|slot| self.backends.get(slot.index()));
            let active = backends.filter(|backend| backend.state == BackendState::Active);
            active.filter_map(|backend| {
                backend
                    .share
                    .end(backend.risen, service.attributes.rules.slow_start)
            })
        })
    }

    /// Backends that are not desired any more, by slot.
    fn draining_backends(&self) -> impl Iterator<Item = (usize, &BackendRecord)> {
        let draining = self.draining.iter();
        draining.filter_map(|&index| Some((index, self.backends.get(index)?)))
    }

    /// Updates the list of draining backends after a change of the backend in `slot`.
    pub(super) fn note_draining(&mut self, slot: BackendSlot) {
        let backend = self.backends.get(slot.index());
        if backend.is_some_and(BackendRecord::is_ending) {
            self.draining.insert(slot.index());
        } else {
            self.draining.remove(&slot.index());
        }
    }

    /// The backends `gone` of `service` begin to drain, unless they drain already.
    pub(super) fn drain_backends(
        &mut self,
        service: ServiceSlot,
        gone: &[BackendSlot],
        reason: &'static str,
        next: Generation,
        inputs: Inputs<'_>,
        changes: &mut Changes,
    ) -> bool {
        let name = self.service_name(service);
        let mut changed = false;
        for &slot in gone {
            let Some(backend) = self.backends.get_mut(slot.index()) else {
                continue;
            };
            if backend.is_ending() {
                continue;
            }
            changed = true;
            self.draining.insert(slot.index());
            backend.left = inputs.now.wall;
            let from = backend.state;
            // The flows of a dead backend have ended already.
            let to = match from {
                BackendState::Down if !backend.failing_open => BackendState::Gone,
                _ => BackendState::Draining {
                    since: inputs.now.monotonic,
                },
            };
            if !backend.transition(to, next, inputs.now) {
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
        self.note_stale(service, changed);
        changed
    }

    /// Marks the pools of a service to be refreshed, if it `changed`.
    pub(super) fn note_stale(&mut self, service: ServiceSlot, changed: bool) {
        if let Some(service) = self.services.get_mut(service.index()) {
            service.stale |= changed;
        }
    }

    /// Ends the remaining flows of draining backends whose drain time is over, whose instance is dead, or whose
    /// address another instance owns.
    pub(super) fn end_drains(&mut self, inputs: Inputs<'_>, changes: &mut Changes) -> bool {
        let instances = &inputs.desired.instances;
        let over: Vec<(usize, &'static str)> = self
            .draining_backends()
            .filter_map(|(index, backend)| match backend.state {
                BackendState::Draining { since } => {
                    let instance = backend.instance.as_ref();
                    let reason = if inputs.now.monotonic.since(since) >= self.drain_of(backend) {
                        "its drain time is over"
                    } else if instances.is_dead(instance) {
                        DEAD
                    } else if instances.is_replaced(backend.address, instance)
                        || self
                            .address_owners
                            .is_replaced((backend.protocol, backend.address, backend.port), instance)
                    {
                        REPLACED
                    } else {
                        return None;
                    };
                    Some((index, reason))
                }
                BackendState::Active | BackendState::Unknown | BackendState::Down | BackendState::Gone => {
                    None
                }
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
            self.note_stale(slot, true);
        }
        !over.is_empty()
    }

    /// Frees slots that no worker can refer to any more: all workers use a generation in which the backend
    /// got no new flows, and no flow is left.
    pub(super) fn free_slots(&mut self, inputs: Inputs<'_>, changes: &mut Changes) -> bool {
        let in_use = generation_in_use(inputs.workers).unwrap_or(self.generation);
        let finished: Vec<usize> = self
            .draining_backends()
            .filter(|(index, backend)| {
                in_use >= backend.inactive_from && flows_left(inputs.workers, backend_slot(*index)) == 0
            })
            .map(|(index, _)| index)
            .collect();
        for &index in &finished {
            let Some(backend) = self.backends.remove(index) else {
                continue;
            };
            self.draining.remove(&index);
            if let Some(service) = self.services.get_mut(backend.service.index()) {
                service.members.remove(&backend.identity());
                service.stale = true;
            }
            changes.events.push(Event::Backend {
                service: self.service_name(backend.service),
                backend: (backend.address, backend.port).into(),
                from: state_name(backend.state),
                to: "removed",
                reason: "no flow is left".into(),
            });
        }
        let empty: Vec<usize> = self
            .services
            .iter()
            .filter(|(_, service)| {
                service.removed.is_some_and(|removed| in_use >= removed) && service.members.is_empty()
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
