//! Services and backends from Kubernetes: pods for the services of the configuration file, and Services of the cluster
//! that ask to be served. All of it comes from watches of the API server.
//!
//! | step | file |
//! |---|---|
//! | the loop: changes become sets, failures become status | `follower` |
//! | which collections are watched, and their caches | `watches`, `cache` |
//! | the records kept of objects | `pod`, `address`, `service`, `slice`, `node` |
//! | the indexed records | `inventory`, `selection` |
//! | which addresses objects may claim, and how many backends a namespace may have | `claims`, `reported`, `quota`, `denied` |
//! | which Services are served, under which names and ports | `admission` |
//! | where pods are in the vL3 network | `connections` |
//! | services, pods and endpoints become the desired set | `assembly`, `backends` |
//! | near backends first | `locality` |
//!
//! The first set is sent after the first complete lists of all collections that are needed and may be read. During an outage
//! the last set stays, edits of the file are applied to the known records, and watches are retried with growing, random
//! pauses.
//!
//! All pods of the namespaces are watched with all their labels, not only those that a service selects. So another pod
//! that has taken over an address is known at once, and an edit of a selector needs no new list.

mod address;
mod admission;
mod assembly;
mod backends;
mod cache;
mod claims;
mod connections;
mod denied;
mod follower;
mod inventory;
mod locality;
mod node;
mod pod;
mod quota;
mod reported;
mod selection;
mod service;
mod service_names;
mod slice;
#[cfg(test)]
mod tests;
mod unlisted;
mod watches;

use std::sync::Arc;

use futures_util::future;
use tokio::sync::watch;
use vl3lb_common::Protocol;

use super::{DesiredSender, Source, SourceStatus, StaticFile};
use crate::config::{AddressFrom, Config};
use crate::kubernetes::client::Server;
use crate::network::NetworkReceiver;

use admission::Listening;
use follower::{Follower, Output};

pub use admission::{Accepted, Refused, StaleStatus};
pub use connections::{Connection, Connections, ConnectionsReceiver};

/// Kubernetes as a source: pods as backends of the configuration file's services, and Services of the cluster if they
/// are configured. Follows the file too.
pub struct Kubernetes<E> {
    file: StaticFile<E>,
    /// The state of the file; that of the API server is this source's own.
    file_status: watch::Sender<SourceStatus>,
    server: Server,
    connections: Option<ConnectionsReceiver>,
    network: Option<NetworkReceiver>,
    accepted: watch::Sender<Arc<Vec<Accepted>>>,
    refused: watch::Sender<Arc<Vec<Refused>>>,
    stale_statuses: watch::Sender<Arc<Vec<StaleStatus>>>,
}

impl<E> std::fmt::Debug for Kubernetes<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl<E> Kubernetes<E> {
    /// Backends for the services of `file`, whose state goes to `file_status`. API server and credentials come from a
    /// kubeconfig (KUBECONFIG), else from the pod's service account.
    pub fn new(file: StaticFile<E>, file_status: watch::Sender<SourceStatus>) -> Self {
        Self {
            file,
            file_status,
            server: Server::Inferred,
            connections: None,
            network: None,
            accepted: watch::Sender::default(),
            refused: watch::Sender::default(),
            stale_statuses: watch::Sender::default(),
        }
    }

    /// The Services of the cluster that are served.
    pub fn accepted(&self) -> watch::Receiver<Arc<Vec<Accepted>>> {
        self.accepted.subscribe()
    }

    /// Services or ports that cannot be served.
    pub fn refused(&self) -> watch::Receiver<Arc<Vec<Refused>>> {
        self.refused.subscribe()
    }

    /// Services that are not served, whose status still lists the balancers' addresses.
    pub fn stale_statuses(&self) -> watch::Receiver<Arc<Vec<StaleStatus>>> {
        self.stale_statuses.subscribe()
    }

    /// Sets where the addresses of pods in the vL3 network come from, for `addressFrom: nsm`.
    #[must_use]
    pub fn with_connections(mut self, connections: ConnectionsReceiver) -> Self {
        self.connections = Some(connections);
        self
    }

    /// Sets the balancer's network, on which the addresses that objects may claim depend. Nothing is sent before it is
    /// known. Without it no address is in a network of the interface.
    #[must_use]
    pub fn with_network(mut self, network: NetworkReceiver) -> Self {
        self.network = Some(network);
        self
    }

    /// Sets another API server.
    #[must_use]
    pub fn with_server(mut self, server: kube::Config) -> Self {
        self.server = Server::Given(Box::new(server));
        self
    }
}

impl<E> Source for Kubernetes<E>
where
    E: Fn(&str) -> Option<String> + Send + Sync,
{
    async fn run(self, desired: DesiredSender, status: watch::Sender<SourceStatus>) {
        let config = Arc::clone(self.file.started_with());
        let (send_services, services) = watch::channel(Vec::new());
        let kubernetes = config.kubernetes.clone().unwrap_or_default();
        let is_connected = kubernetes.address_from == AddressFrom::Nsm;
        let output = Output {
            desired,
            status,
            accepted: self.accepted,
            refused: self.refused,
            stale_statuses: self.stale_statuses,
        };
        let connections = self.connections.filter(|_| is_connected);
        let events = Arc::clone(self.file.events());
        let follower = Follower::new(kubernetes, listening(&config), services, output, events);
        let file = self.file.follow(&self.file_status, |config| {
            send_services.send_replace(config.services.clone());
        });
        future::join(file, follower.run(self.server, connections, self.network)).await;
    }
}

/// The addresses of the balancer's own servers, where no service can be served.
fn listening(config: &Config) -> Vec<Listening> {
    let mut listening = Vec::new();
    if !config.dns.listen.is_loopback() {
        let port = config.dns.listen.port();
        let servers = [Protocol::Tcp, Protocol::Udp];
        listening.extend(servers.map(|protocol| (protocol, port, "the DNS server (dns.listen)")));
    }
    if !config.admin.listen.ip().is_loopback() {
        let port = config.admin.listen.port();
        listening.push((Protocol::Tcp, port, "the HTTP server (admin.listen)"));
    }
    listening
}
