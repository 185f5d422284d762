//! Clients of a network service of Network Service Mesh as backends.
//!
//! The registry lists the endpoints of the network service. The manager of an endpoint's node knows the connections of
//! the endpoint: the manager of this node for an endpoint that is here, another one for an endpoint elsewhere.
//!
//! | step | file |
//! |---|---|
//! | the loop: reports become sets of clients | `follower` |
//! | endpoints: a full list at each connect, then changes | `registry` |
//! | connections of one endpoint: a full list at each connect, then changes | `monitor` |
//! | what is kept of registrations and connections | `endpoint`, `connection`, `subject` |
//! | endpoints and their connections, as the streams report them | `inventory` |
//! | which client an address and a name belong to | `owners`, `conflict` |
//! | clients become the desired set, or addresses of pods | `clients` |
//! | status and events | `record` |
//!
//! Nothing is sent before the first list of the registry and those of the managers that answer. Whatever stream is lost,
//! its backends stay; it is opened again with growing pauses, and its new list replaces the old one.

mod clients;
mod conflict;
mod connection;
mod endpoint;
mod follower;
mod inventory;
mod monitor;
mod owners;
mod record;
mod registry;
mod stream;
mod subject;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future;
use tokio::sync::watch;

use super::{DesiredSender, ServiceSpec, Source, SourceStatus, StaticFile};
use crate::config::{self, Service};
use crate::discovery::kubernetes::{Connections, ConnectionsReceiver};
use crate::network::NetworkReceiver;
use crate::nsm::connector::Connector;
use crate::nsm::{Target, TargetError};
use crate::observe::events::Events;

use follower::{Follower, RollReceiver, Scope};
use stream::Dial;

/// Follows the clients of a network service.
#[derive(Debug, Clone)]
pub struct NsmClients<D = Connector> {
    dial: D,
    scope: Scope,
    network: NetworkReceiver,
    events: Arc<Events>,
}

impl NsmClients {
    /// Follows network service `service` through the manager of this node. A client with the name of `nsm`, and clients at
    /// an address of `network`, are the balancer itself.
    pub fn new(
        connector: Connector,
        nsm: &config::Nsm,
        service: &str,
        network: NetworkReceiver,
        events: Arc<Events>,
    ) -> Result<Self, TargetError> {
        Ok(Self {
            dial: connector,
            scope: Scope {
                service: service.to_owned(),
                manager: Target::try_from(&nsm.connect_to)?,
                limit: nsm.request_timeout,
                own_name: nsm.name.clone(),
            },
            network,
            events,
        })
    }
}

#[expect(private_bounds, reason = "other crates use it with the default only")]
impl<D: Dial> NsmClients<D> {
    /// The addresses of pods for `addressFrom: nsm`, and the task that keeps them current. It runs for ever.
    pub fn connections(
        self,
        status: watch::Sender<SourceStatus>,
    ) -> (ConnectionsReceiver, impl Future<Output = ()> + Send) {
        let (sender, receiver) = watch::channel(None);
        let task = async move {
            let (output, mut rolls) = watch::channel(None);
            let followed = self.follow(output, status);
            let passed_on = async {
                loop {
                    let roll = next(&mut rolls).await;
                    let connections: Connections = roll.clients.connections();
                    sender.send_replace(Some(Arc::new(connections)));
                }
            };
            let never: (Infallible, Infallible) = future::join(followed, passed_on).await;
            match never.0 {}
        };
        (receiver, task)
    }

    fn follow(
        self,
        output: follower::RollSender,
        status: watch::Sender<SourceStatus>,
    ) -> impl Future<Output = Infallible> + Send {
        let Self {
            dial,
            scope,
            network,
            events,
        } = self;
        Follower::new(dial, scope, output, status, events).run(network)
    }
}

/// Clients of a network service as backends of the configuration file's services. Follows the file too.
pub struct Nsm<E, D = Connector> {
    file: StaticFile<E>,
    /// The state of the file; that of the network service is this source's own.
    file_status: watch::Sender<SourceStatus>,
    clients: NsmClients<D>,
}

impl<E, D> std::fmt::Debug for Nsm<E, D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nsm")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl<E, D> Nsm<E, D> {
    /// Backends for the services of `file`, whose state goes to `file_status`.
    pub fn new(
        file: StaticFile<E>,
        file_status: watch::Sender<SourceStatus>,
        clients: NsmClients<D>,
    ) -> Self {
        Self {
            file,
            file_status,
            clients,
        }
    }
}

impl<E, D> Source for Nsm<E, D>
where
    E: Fn(&str) -> Option<String> + Send + Sync,
    D: Dial,
{
    async fn run(self, desired: DesiredSender, status: watch::Sender<SourceStatus>) {
        let (send_services, services) = watch::channel(Vec::new());
        let (output, rolls) = watch::channel(None);
        let file = self.file.follow(&self.file_status, |config| {
            send_services.send_replace(config.services.clone());
        });
        let clients = self.clients.follow(output, status);
        let sets = assemble(services, rolls, &desired);
        let _: ((), Infallible, Infallible) = future::join3(file, clients, sets).await;
    }
}

/// Sends a set for each change of the services or of the clients.
async fn assemble(
    mut services: watch::Receiver<Vec<Service>>,
    mut rolls: RollReceiver,
    desired: &DesiredSender,
) -> Infallible {
    let mut roll = next(&mut rolls).await;
    let mut last: Vec<Arc<ServiceSpec>> = Vec::new();
    loop {
        let mut set = roll.clients.desired(&services.borrow_and_update(), &last);
        set.observed = Some(roll.observed);
        last.clone_from(&set.services);
        desired.send_replace(Some(Arc::new(set)));
        tokio::select! {
            new = next(&mut rolls) => roll = new,
            () = changed(&mut services) => roll.observed = tokio::time::Instant::now(),
        }
    }
}

/// Waits for the next clients; for ever if there are no more.
async fn next(rolls: &mut RollReceiver) -> follower::Roll {
    while rolls.changed().await.is_ok() {
        if let Some(roll) = rolls.borrow_and_update().clone() {
            return roll;
        }
    }
    future::pending().await
}

/// Waits for a change of the file's services; for ever if there can be none.
async fn changed(services: &mut watch::Receiver<Vec<Service>>) {
    if services.changed().await.is_err() {
        future::pending().await
    }
}
