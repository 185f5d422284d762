//! An interface of memory that comes and goes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vl3lb_common::dataplane::{AttachMode, Attachment, FastPath, LinkChange, Steered};
use vl3lb_common::next_hop::Link;

use super::frame::Memory;
use super::port::MemPort;
use super::wire::{Ready, Wire};
use crate::error::SetupError;
use crate::port::provider::{Attached, PortProvider, SteerCounters, Steering};
use crate::steer::Rules;

/// The properties of an interface in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MemInterface {
    pub index: u32,
    pub link: Link,
    pub mtu: u16,
    pub receive_queues: u32,
    pub transmit_queues: u32,
}

/// Gives ports on an interface of memory. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct MemProvider {
    frames: usize,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    interface: Option<MemInterface>,
    wires: Vec<Arc<Wire>>,
}

impl MemProvider {
    /// Ports with `frames` frames each, without an interface.
    pub(crate) fn new(frames: usize) -> Self {
        Self {
            frames,
            state: Arc::default(),
        }
    }

    /// Makes, replaces or removes the interface. Ports that are open stay as they are.
    pub(crate) fn set_interface(&self, interface: Option<MemInterface>) {
        self.state().interface = interface;
    }

    /// The far ends of the queues of the latest attachment, by number: as many as the interface has of
    /// the more numerous kind.
    pub(crate) fn wires(&self) -> Vec<Arc<Wire>> {
        self.state().wires.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PortProvider for MemProvider {
    type Port = MemPort;
    type Steering = MemSteering;

    fn attach(&self, workers: Option<u16>) -> Result<Attached<MemPort, MemSteering>, SetupError> {
        let mut state = self.state();
        let Some(interface) = state.interface else {
            return Err(SetupError::InterfaceMissing {
                interface: "memory".to_owned(),
                existing: String::new(),
            });
        };
        let receive = interface.receive_queues as usize;
        let transmit = interface.transmit_queues as usize;
        let workers = workers.map_or(receive, usize::from);
        let memories: Vec<_> = (0..workers)
            .map(|_| (Arc::new(Memory::new(self.frames)), Arc::new(Ready::new())))
            .collect();
        state.wires = (0..receive.max(transmit))
            .map(|queue| {
                let (memory, ready) = &memories[queue % workers];
                Arc::new(Wire::new(Arc::clone(memory), Arc::clone(ready), false))
            })
            .collect();
        let wires = &state.wires;
        let ports = (0..).zip(memories).map(|(worker, (memory, ready))| {
            let receivers = (worker..receive)
                .step_by(workers)
                .map(|queue| Arc::clone(&wires[queue]));
            let transmitter = (worker < transmit).then(|| Arc::clone(&wires[worker]));
            MemPort::with_wires(memory, self.frames, ready, receivers.collect(), transmitter)
        });
        Ok(Attached {
            ports: ports.collect(),
            steering: MemSteering {
                wires: wires.clone(),
                counters: Arc::default(),
            },
            attachment: Attachment {
                interface: "memory".to_owned(),
                index: interface.index,
                link: interface.link,
                driver: "memory".to_owned(),
                mtu: interface.mtu,
                mode: AttachMode::Generic,
                zero_copy: false,
                reason: String::new(),
                refuses: String::new(),
                local_clients: String::new(),
                receive_queues: interface.receive_queues,
                transmit_queues: interface.transmit_queues,
                cores: Vec::new(),
                fast_path: FastPath {
                    flows: 0,
                    reason: "no kernel".to_owned(),
                },
            },
            fast_path: None,
            shed: None,
        })
    }

    fn link_change(&self, attachment: &Attachment) -> Option<LinkChange> {
        let Some(now) = self.state().interface else {
            return Some(LinkChange::Gone);
        };
        if now.index != attachment.index || now.link.name() != attachment.link.name() {
            return Some(LinkChange::Replaced);
        }
        let queues = (attachment.receive_queues, attachment.transmit_queues);
        (queues != (now.receive_queues, now.transmit_queues)).then_some(LinkChange::Queues)
    }
}

/// Accepts packets while there is a service.
#[derive(Debug)]
pub(crate) struct MemSteering {
    wires: Vec<Arc<Wire>>,
    counters: Arc<MemCounters>,
}

/// The number of times that rules were allowed, in place of packets.
#[derive(Debug, Default)]
struct MemCounters(AtomicU64);

impl MemSteering {
    fn set_open(&self, open: bool) {
        self.wires.iter().for_each(|wire| wire.set_open(open));
    }
}

impl Steering for MemSteering {
    fn restrict(&mut self, rules: &Rules) -> Result<(), SetupError> {
        if rules.services.is_empty() {
            self.set_open(false);
        }
        Ok(())
    }

    fn allow(&mut self, rules: &Rules) -> Result<(), SetupError> {
        self.counters.0.fetch_add(1, Ordering::Relaxed);
        self.set_open(!rules.services.is_empty());
        Ok(())
    }

    fn set_link(&mut self, _: Link, _: u16) -> Result<(), SetupError> {
        Ok(())
    }

    fn counters(&self) -> Arc<dyn SteerCounters> {
        Arc::<MemCounters>::clone(&self.counters)
    }
}

impl SteerCounters for MemCounters {
    fn read(&self) -> Steered {
        Steered {
            redirected: self.0.load(Ordering::Relaxed),
            ..Steered::default()
        }
    }
}

impl Drop for MemSteering {
    fn drop(&mut self) {
        self.set_open(false);
    }
}
