//! Acquires, renews and releases the leader's Lease.
//!
//! Nothing but this Lease is written here, and each write is bounded, so that no other call can delay a renewal.

use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use vl3lb_common::Duration;

use super::api_calls::{Call, CallError, Resource, Role};
use super::context::Context;
use super::election::{Election, Step};

/// The time limit of one write: after a renewal is due, two attempts fit into the rest of the term.
const LIMIT: Duration = Duration::from_secs(2);
/// Delay between checks until the living members of the group are known, and if no write is due.
const ELECTION_POLL: Duration = Duration::from_secs(1);

/// This balancer as a candidate for leadership.
pub(super) struct Campaign<'a> {
    api: Api<Lease>,
    context: &'a Context,
    election: Election,
    attempt: String,
}

impl<'a> Campaign<'a> {
    pub(super) fn new(client: &Client, context: &'a Context) -> Self {
        let identity = &context.identity;
        Self {
            api: Api::namespaced(client.clone(), &identity.namespace),
            context,
            election: Election::new(identity.clone(), Instant::now()),
            attempt: format!(
                "write lease {} in namespace {}",
                identity.leader_lease(),
                identity.namespace
            ),
        }
    }

    /// Acquires the Lease when it is free, and renews it, until `stop`. A balancer that leaves the group renews only:
    /// `final_term` becomes true when it cannot become the leader any more.
    pub(super) async fn run(&mut self, mut stop: watch::Receiver<bool>, final_term: &watch::Sender<bool>) {
        let mut group = self.context.group.subscribe();
        let mut leave = self.context.leave.subscribe();
        while !*stop.borrow_and_update() {
            let leaving = *leave.borrow_and_update();
            let settled = {
                let group = group.borrow_and_update();
                self.election.observe(group.leader.as_ref(), Instant::now());
                group.settled
            };
            self.publish_term();
            final_term.send_replace(leaving);
            let mut wait = ELECTION_POLL;
            if settled && (!leaving || self.election.leads(Instant::now())) {
                wait = self.step().await;
                self.publish_term();
            }
            tokio::select! {
                () = sleep(wait) => {}
                Ok(()) = group.changed() => {}
                Ok(()) = leave.changed() => {}
                Ok(()) = stop.changed() => {}
            }
        }
    }

    /// Gives up the Lease, so that another balancer takes it at once.
    pub(super) async fn release(&mut self) {
        self.context.term.send_replace(None);
        if let Some(lease) = self.election.release(SystemTime::now()) {
            // If it fails, the Lease expires.
            self.replace(&lease).await.ok();
        }
    }

    /// Makes the write that is due, if any. Returns the time until the next.
    async fn step(&mut self) -> Duration {
        let began = Instant::now();
        let written = match self.election.step(began, SystemTime::now()) {
            Step::Wait(time) => {
                if self.election.follows(began) {
                    self.context.calls.end_role(Role::Candidate);
                }
                return time;
            }
            Step::Create(lease) => {
                let params = PostParams::default();
                let create = self.api.create(&params, &lease);
                self.context.calls.run(self.call(), create).await
            }
            Step::Replace(lease) => self.replace(&lease).await,
        };
        let now = Instant::now();
        match written {
            Ok(lease) => self.election.wrote(lease, began, now),
            Err(_) => self.election.failed(now),
        }
        match self.election.step(now, SystemTime::now()) {
            Step::Wait(time) => time,
            Step::Create(_) | Step::Replace(_) => Duration::ZERO,
        }
    }

    async fn replace(&self, lease: &Lease) -> Result<Lease, CallError> {
        let name = self.context.identity.leader_lease();
        let params = PatchParams::default();
        let patch = Patch::Merge(lease);
        let patch = self.api.patch(&name, &params, &patch);
        self.context.calls.run(self.call(), patch).await
    }

    fn call(&self) -> Call<'_> {
        Call::write(Role::Candidate, Resource::Leases, &self.attempt).within(LIMIT)
    }

    fn publish_term(&self) {
        let term = self.election.leads_until(Instant::now());
        self.context
            .term
            .send_if_modified(|known| std::mem::replace(known, term) != term);
    }
}
