//! Addresses of pods in the vL3 network, from NSM connections, for `addressFrom: nsm`.
//!
//! The source of connections is elsewhere: it keeps a channel with the set of all present connections. No desired set is
//! sent before the first set of connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::watch;

use crate::discovery::PodPlace;

/// A pod's end of a connection to the vL3 network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The name of the pod that requested it.
    pub pod: String,
    /// Its namespace, if that is known.
    pub namespace: Option<String>,
    /// Its node, if that is known.
    pub node: Option<String>,
    /// Its addresses in the vL3 network, of both families.
    pub addresses: Vec<IpAddr>,
}

/// All connections at one time. Order and duplicates are irrelevant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connections(HashMap<String, Vec<Connection>>);

/// The receiving half of a source of connections; `None` until it knows all of them.
pub type ConnectionsReceiver = watch::Receiver<Option<Arc<Connections>>>;

impl FromIterator<Connection> for Connections {
    fn from_iter<T: IntoIterator<Item = Connection>>(connections: T) -> Self {
        let mut by_pod: HashMap<String, Vec<Connection>> = HashMap::new();
        for connection in connections {
            by_pod.entry(connection.pod.clone()).or_default().push(connection);
        }
        Self(by_pod)
    }
}

impl Connections {
    /// The addresses of the pod at `place`, sorted and without duplicates; none if it is not connected.
    ///
    /// A pod may have the name of its predecessor on another node (as in a StatefulSet), whose connection may still be
    /// listed, or that of a pod in another namespace. So nodes and namespaces must be the same where both are known.
    pub(in crate::discovery) fn addresses(&self, place: &PodPlace) -> Vec<IpAddr> {
        let Some((namespace, name)) = place.pod.split_once('/') else {
            return Vec::new();
        };
        let connections = self.0.get(name).into_iter().flatten();
        let own = connections.filter(|connection| {
            let is_of_node = match (&connection.node, &place.node) {
                (Some(there), Some(here)) => there == here,
                _ => true,
            };
            is_of_node && connection.namespace.as_deref().is_none_or(|of| of == namespace)
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
