//! Putting snapshots in force: workers and steer rules in the order that loses no packet.

use std::sync::Arc;
use std::thread;

use vl3lb_common::dataplane::{Attachment, Dataplane, PublishError};
use vl3lb_common::{Duration, Generation, Snapshot};

use super::attach::Session;
use super::workers::Team;
use super::{Operations, Plane};
use crate::error::SetupError;
use crate::port::provider::{PortProvider, Steering};
use crate::steer::Rules;

/// How long all workers may take to switch to a new snapshot.
const SWITCH_LIMIT: Duration = Duration::from_secs(2);
/// How often to look whether they have.
const SWITCH_POLL: Duration = Duration::from_micros(20);

impl<A: PortProvider> Plane<A> {
    /// See [`Dataplane::publish`].
    pub(super) fn publish_snapshot(
        &self,
        operations: &mut Operations<A>,
        snapshot: Arc<Snapshot>,
    ) -> Result<(), PublishError> {
        self.healthy()?;
        operations.snapshot = Some(Arc::clone(&snapshot));
        // Before the first attachment there are no workers.
        let Some(team) = self.team.get() else {
            return Ok(());
        };
        // A snapshot for another link type: the interface was replaced, and will be attached to next.
        let session = operations
            .session
            .as_mut()
            .filter(|session| session.attachment.link.name() == snapshot.next_hops.link.name());
        let Some(session) = session else {
            return self.switch(team, &snapshot);
        };
        let rules = rules(&snapshot, team);
        self.follow_link(session, &snapshot).map_err(steer_error)?;
        session.steering.restrict(&rules).map_err(steer_error)?;
        self.switch(team, &snapshot)?;
        session.steering.allow(&rules).map_err(steer_error)
    }

    /// Puts the snapshot that the workers have already been given in force on a new attachment.
    pub(super) fn begin(
        &self,
        session: &mut Session<A::Steering>,
        team: &Team,
        snapshot: &Snapshot,
    ) -> Result<(), PublishError> {
        self.wait_for(team, snapshot.generation)?;
        session
            .steering
            .allow(&rules(snapshot, team))
            .map_err(steer_error)
    }

    fn switch(&self, team: &Team, snapshot: &Arc<Snapshot>) -> Result<(), PublishError> {
        for inbox in &team.inboxes {
            inbox.publish(Arc::clone(snapshot));
        }
        self.wait_for(team, snapshot.generation)
    }

    /// Takes over a new MAC address or MTU of the interface.
    fn follow_link(&self, session: &mut Session<A::Steering>, snapshot: &Snapshot) -> Result<(), SetupError> {
        let (link, mtu) = (snapshot.next_hops.link, snapshot.mtu);
        if session.attachment.link == link && session.attachment.mtu == mtu {
            return Ok(());
        }
        session.steering.set_link(link, mtu)?;
        session.attachment = Arc::new(Attachment {
            link,
            mtu,
            ..Attachment::clone(&session.attachment)
        });
        self.status.update(Arc::clone(&session.attachment));
        Ok(())
    }

    /// Waits until all workers use `generation` or a later one.
    fn wait_for(&self, team: &Team, generation: Generation) -> Result<(), PublishError> {
        let deadline = self.clock.now() + SWITCH_LIMIT;
        for (worker, stats) in team.stats.iter().enumerate() {
            while stats.generation.get() < generation.0 {
                self.healthy()?;
                if self.clock.now() >= deadline {
                    return Err(PublishError::Timeout {
                        worker,
                        generation: generation.0,
                        limit: SWITCH_LIMIT,
                    });
                }
                thread::sleep(SWITCH_POLL);
            }
        }
        Ok(())
    }
}

fn rules(snapshot: &Snapshot, team: &Team) -> Rules {
    Rules {
        services: snapshot.services.keys().copied().collect(),
        addresses: snapshot.addresses.clone(),
        nat_ports: snapshot.nat_ports,
        kernel_ports: Arc::clone(&snapshot.kernel_ports),
        workers: team.workers(),
        owner_key: team.owner_key,
    }
}

fn steer_error(error: SetupError) -> PublishError {
    PublishError::Steer(Box::new(error))
}
