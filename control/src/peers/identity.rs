//! This balancer's pod and group.

use crate::kubernetes::ingress::GroupIngress;

/// The pod that the balancer runs in, and the group that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Balancers of one group in one namespace have the same configuration.
    pub group: String,
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Kubernetes deletes the balancer's Lease with this pod; without it the Lease of a killed pod stays.
    pub uid: Option<String>,
    pub node: Option<String>,
}

impl Identity {
    /// Reads the downward API: POD_NAME, POD_NAMESPACE, POD_UID and NODE_NAME. `None` without the first two.
    pub fn read(group: &str, env: &impl Fn(&str) -> Option<String>) -> Option<Self> {
        let text = |name| {
            env(name)
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        Some(Self {
            group: group.to_owned(),
            namespace: text("POD_NAMESPACE")?,
            pod: text("POD_NAME")?,
            uid: text("POD_UID"),
            node: text("NODE_NAME"),
        })
    }

    /// The name of the leader's Lease.
    pub(super) fn leader_lease(&self) -> String {
        format!("{}-leader", self.group)
    }

    /// The annotation of the group's addresses in the status of a Service.
    pub(super) fn ingress_annotation(&self) -> String {
        GroupIngress::annotation(&self.group, &self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balancer_outside_a_pod_has_no_identity() {
        let pod = [
            ("POD_NAME", "vl3-lb-7c9d"),
            ("POD_NAMESPACE", "web"),
            ("POD_UID", " "),
        ];
        let read = |known: &[(&str, &str)]| {
            let known = known.to_vec();
            Identity::read("finance", &move |name| {
                let found = known.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(read(&pod[1..]), None);
        assert_eq!(read(&pod[..1]), None);
        let identity = read(&pod).unwrap();
        assert_eq!((identity.pod.as_str(), identity.uid), ("vl3-lb-7c9d", None));
    }
}
