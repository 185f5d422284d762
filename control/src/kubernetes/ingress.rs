//! The addresses that each group of balancers wrote into the status of a Service.
//!
//! `status.loadBalancer.ingress` is one list that every writer replaces as a whole. So that several groups can serve
//! one Service, each group records its own addresses in an annotation,
//! `GROUP.NAMESPACE.vl3-lb.io/ingress: ADDRESS,ADDRESS`, and writes the list as the union of all such annotations.
//! Writers that race see each other's annotation on the next watch event and then write the same list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::unicast;

/// The end of the annotation's name.
const SUFFIX: &str = ".vl3-lb.io/ingress";
/// Maximum number of addresses read from one annotation.
const MOST_ADDRESSES: usize = 256;

/// The addresses of one group in the status of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupIngress {
    /// The name of the annotation.
    pub annotation: String,
    pub addresses: Vec<IpAddr>,
}

impl GroupIngress {
    /// Reads the addresses of all groups from the annotations of a Service. Malformed addresses are ignored.
    pub(crate) fn read_all(annotations: &BTreeMap<String, String>) -> Vec<Self> {
        let groups = annotations.iter().filter(|(name, _)| name.ends_with(SUFFIX));
        let groups = groups.map(|(name, value)| Self {
            annotation: name.clone(),
            addresses: value
                .split(',')
                .filter_map(unicast)
                .take(MOST_ADDRESSES)
                .collect(),
        });
        groups.collect()
    }

    /// The annotation's name for `group` in `namespace`: the namespace of its balancers, not of the Service.
    pub(crate) fn annotation(group: &str, namespace: &str) -> String {
        format!("{group}.{namespace}{SUFFIX}")
    }
}

/// The addresses in `groups` except those of `annotation`, sorted, each once.
pub(crate) fn others(groups: &[GroupIngress], annotation: &str) -> BTreeSet<IpAddr> {
    let groups = groups.iter().filter(|group| group.annotation != annotation);
    groups.flat_map(|group| group.addresses.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_all_groups_are_read_and_other_annotations_ignored() {
        let annotations = [
            (
                "finance.lb.vl3-lb.io/ingress",
                "172.16.1.1, 2001:db8::1,nonsense,127.0.0.1",
            ),
            ("ledger.lb.vl3-lb.io/ingress", "172.16.1.1,172.16.2.1"),
            ("vl3-lb.io/enabled", "true"),
        ];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let groups = GroupIngress::read_all(&BTreeMap::from(annotations));
        let own = GroupIngress::annotation("finance", "lb");
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].annotation, own);
        let ips =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(groups[0].addresses, ips(&["172.16.1.1", "2001:db8::1"]));
        assert_eq!(
            others(&groups, &own),
            ips(&["172.16.1.1", "172.16.2.1"]).into_iter().collect()
        );
    }
}
