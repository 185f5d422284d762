//! Where pods are in the vL3 network: what a source of NSM's connections tells, for `addressFrom: nsm`.
//!
//! The source itself is not here. It keeps a channel with all connections of now, as every source of this
//! program produces whole sets; without its first one no backends are sent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::discovery::PodPlace;

/// The end of one connection to the vL3 network that a pod asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Who asked: the pod, and its node if the connection's path tells it.
    pub client: PodPlace,
    /// Its addresses in the vL3 network, of both families.
    pub addresses: Vec<IpAddr>,
}

/// All connections at one time. Order does not matter and duplicates do no harm.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connections(HashMap<String, Vec<Connection>>);

/// What a source knows; `None` until it knows all connections.
pub type ConnectionsReceiver = watch::Receiver<Option<Arc<Connections>>>;

impl FromIterator<Connection> for Connections {
    fn from_iter<T: IntoIterator<Item = Connection>>(connections: T) -> Self {
        let mut by_pod: HashMap<String, Vec<Connection>> = HashMap::new();
        for connection in connections {
            let pod = connection.client.pod.clone();
            by_pod.entry(pod).or_default().push(connection);
        }
        Self(by_pod)
    }
}

impl Connections {
    /// The addresses of the pod at `place`, each once and in order; none if it is not connected.
    ///
    /// A pod has the name of one that was before it on another node (as a StatefulSet's have), whose
    /// connection may be known for a while still: both nodes have to be the same where both are known.
    pub(super) fn addresses(&self, place: &PodPlace) -> Vec<IpAddr> {
        let connections = self.0.get(&place.pod).into_iter().flatten();
        let own = connections.filter(|connection| {
            let nodes = connection.client.node.as_ref().zip(place.node.as_ref());
            nodes.is_none_or(|(there, here)| there == here)
        });
        let mut addresses: Vec<IpAddr> = own
            .flat_map(|connection| &connection.addresses)
            .copied()
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
