//! The zone of a node, from its label.

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use super::cache::Record;

/// The label of a node, and of a pod where the cluster copies it from the node.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

/// A node and its zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NodeRecord {
    pub(super) node: String,
    pub(super) zone: String,
}

impl Record for NodeRecord {
    type Object = Node;
    type Options = ();
    const EVERYWHERE: &'static str = "the cluster";

    fn api(client: Client, _namespace: Option<&str>) -> Api<Node> {
        Api::all(client)
    }

    /// `None` without a zone.
    fn read(node: &Node, (): &()) -> Option<Self> {
        let labels = node.metadata.labels.as_ref()?;
        Some(Self {
            node: node.metadata.name.clone()?,
            zone: labels.get(ZONE)?.clone(),
        })
    }
}
