//! Opening ports for the workers, and taking them away.

use std::collections::HashMap;
use std::sync::Arc;

use vl3lb_common::dataplane::{AttachError, AttachErrorKind, Attachment, Dataplane};
use vl3lb_common::next_hop::{Link, NextHops};
use vl3lb_common::{Generation, Snapshot};

use super::workers::{Team, Workers};
use super::{Operations, Plane};
use crate::error::SetupError;
use crate::fastpath::FastMemory;
use crate::packet::Framing;
use crate::port::Port;
use crate::port::none::NoPort;
use crate::port::provider::{Attached, PortProvider, Steering};
use crate::shed::ShedMemory;

/// The attachment without its ports.
#[derive(Debug)]
pub(super) struct Session<S> {
    pub(super) steering: S,
    pub(super) attachment: Arc<Attachment>,
}

impl<A: PortProvider> Plane<A> {
    /// See [`Dataplane::attach`]. In order: open everything, while the workers run without ports; hand
    /// the ports to the workers; steer packets to them. In the place of another attachment, packets are dropped meanwhile.
    pub(super) fn attach_ports(
        &self,
        operations: &mut Operations<A>,
    ) -> Result<Arc<Attachment>, AttachError> {
        self.healthy()
            .map_err(|failure| AttachError::new(AttachErrorKind::System, failure))?;
        let session = operations.session.take();
        let _hold = session.and_then(|session| session.steering.hold());
        self.detach_ports(operations);
        let Attached {
            ports,
            steering,
            mut attachment,
            fast_path,
            shed,
        } = self.provider.attach(self.worker_count())?;
        let team = self.team(&ports)?;
        attachment.cores.clone_from(&team.cores);
        let attachment = Arc::new(attachment);

        operations.workers =
            Workers::Attached(self.hand_out(operations, team, ports, &attachment, (fast_path, shed))?);
        self.status
            .set_attached(Arc::clone(&attachment), steering.counters());
        let session = operations.session.insert(Session {
            steering,
            attachment: Arc::clone(&attachment),
        });
        // A snapshot for another link has other next hops and MAC addresses.
        if let Some(snapshot) = &operations.snapshot
            && snapshot.next_hops.link == attachment.link
        {
            let begun = self.begin(session, team, snapshot);
            if let Err(error) = begun {
                self.detach_ports(operations);
                return Err(AttachError::new(AttachErrorKind::System, error));
            }
        }
        Ok(attachment)
    }

    /// See [`Dataplane::detach`].
    pub(super) fn detach_ports(&self, operations: &mut Operations<A>) {
        let engines = self.close_ports(operations);
        if engines.is_empty() {
            return;
        }
        let Some(team) = self.team.get() else { return };
        let ports = engines.iter().map(|_| NoPort).collect();
        match team.start(engines, ports) {
            Ok(threads) => operations.workers = Workers::Detached(threads),
            // The failed workers are reported by `healthy`.
            Err(error) => tracing::error!("{error}"),
        }
    }

    /// Takes the ports from the workers and closes them, if there are any. Returns the engines of
    /// workers that had ports.
    pub(super) fn close_ports(&self, operations: &mut Operations<A>) -> Vec<crate::pipeline::Engine> {
        // First, so that no new packets arrive.
        operations.session = None;
        self.status.set_detached();
        match (&mut operations.workers, self.team.get()) {
            (Workers::Attached(threads), Some(team)) => {
                let (ports, mut engines) = team.stop(std::mem::take(threads));
                for engine in &mut engines {
                    engine.set_fast_path(None, self.config.fast_path.after);
                    engine.set_shed(None);
                }
                let lost = A::Port::outstanding(ports.iter());
                if lost > 0 {
                    tracing::error!("{lost} frames of packet memory are lost; please report this bug");
                }
                operations.lost_frames += lost;
                engines
            }
            _ => Vec::new(),
        }
    }

    /// Stops the workers and starts them again with `ports`.
    fn hand_out(
        &self,
        operations: &mut Operations<A>,
        team: &Team,
        ports: Vec<A::Port>,
        attachment: &Attachment,
        (fast_path, shed): (Option<Arc<FastMemory>>, Option<Arc<ShedMemory>>),
    ) -> Result<Vec<std::thread::JoinHandle<crate::worker::Worker<A::Port>>>, SetupError> {
        let framing = match attachment.link {
            Link::Ethernet(_) => Framing::Ethernet,
            Link::RawIp => Framing::RawIp,
        };
        let workers = std::mem::replace(&mut operations.workers, Workers::None);
        let mut engines = match workers {
            Workers::Detached(threads) => {
                let (_, mut engines) = team.stop(threads);
                for engine in &mut engines {
                    engine.set_framing(framing);
                }
                engines
            }
            Workers::Attached(_) | Workers::None => {
                let nothing = Arc::new(empty_snapshot(self.config.nat_ports, attachment));
                let engines = team.engines(&self.config, framing, &nothing, &self.events)?;
                if let Some(snapshot) = &operations.snapshot {
                    for inbox in &team.inboxes {
                        inbox.publish(Arc::clone(snapshot));
                    }
                }
                engines
            }
        };
        for engine in &mut engines {
            engine.set_fast_path(fast_path.as_ref(), self.config.fast_path.after);
            engine.set_shed(shed.as_ref());
        }
        team.start(engines, ports)
    }

    /// The number of workers, if it is fixed.
    fn worker_count(&self) -> Option<u16> {
        let configured = self.config.cores.as_ref().map(Vec::len);
        self.team
            .get()
            .map(Team::workers)
            .or_else(|| configured.map(|cores| u16::try_from(cores).unwrap_or(u16::MAX)))
    }

    /// The team, which the first attachment makes with a worker for each port.
    fn team(&self, ports: &[A::Port]) -> Result<&Team, SetupError> {
        if let Some(team) = self.team.get() {
            return Ok(team);
        }
        let team = Team::new(&self.config, u16::try_from(ports.len()).unwrap_or(u16::MAX))?;
        Ok(self.team.get_or_init(|| team))
    }
}

/// The workers' state before the first snapshot: no service.
fn empty_snapshot(nat_ports: vl3lb_common::snapshot::NatPorts, attachment: &Attachment) -> Snapshot {
    Snapshot {
        generation: Generation::default(),
        addresses: Vec::new(),
        broadcasts: Vec::new(),
        nat_ports,
        kernel_ports: Arc::default(),
        mtu: attachment.mtu,
        next_hops: NextHops::new(attachment.link, 0, Vec::new(), HashMap::new()),
        services: HashMap::default(),
        service_slots: Vec::new(),
        backend_slots: Vec::new(),
    }
}
