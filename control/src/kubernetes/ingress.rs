//! Which group of balancers wrote which addresses into the status of a Service.
//!
//! `status.loadBalancer.ingress` is one list that every writer replaces as a whole. So that several groups can serve
//! one Service, each group records its own addresses in an annotation,
//! `GROUP.NAMESPACE.vl3-lb.io/ingress: ADDRESS,ADDRESS`, and writes the list as the union of all such annotations.
//! Writers that raced see each other's annotation, and then write the same list.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::unicast;

/// The end of the annotation's name.
const SUFFIX: &str = ".vl3-lb.io/ingress";
/// The most addresses that are read from one annotation.
const MOST_ADDRESSES: usize = 256;

/// The addresses of one group in the status of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngressClaim {
    /// The name of the annotation.
    pub annotation: String,
    pub addresses: Vec<IpAddr>,
}

impl IngressClaim {
    /// Those of all groups, from the annotations of a Service. Malformed addresses are left out.
    pub(crate) fn read_all(annotations: &BTreeMap<String, String>) -> Vec<Self> {
        let claims = annotations.iter().filter(|(name, _)| name.ends_with(SUFFIX));
        let claims = claims.map(|(name, value)| Self {
            annotation: name.clone(),
            addresses: value
                .split(',')
                .filter_map(unicast)
                .take(MOST_ADDRESSES)
                .collect(),
        });
        claims.collect()
    }

    /// The annotation's name for `group` in `namespace`: the namespace of its balancers, not of the Service.
    pub(crate) fn annotation(group: &str, namespace: &str) -> String {
        format!("{group}.{namespace}{SUFFIX}")
    }
}

/// The addresses in `claims` except those of `annotation`, sorted, each once.
pub(crate) fn others(claims: &[IngressClaim], annotation: &str) -> BTreeSet<IpAddr> {
    let claims = claims.iter().filter(|claim| claim.annotation != annotation);
    claims.flat_map(|claim| claim.addresses.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_all_groups_are_read_and_the_rest_is_ignored() {
        let annotations = [
            (
                "finance.lb.vl3-lb.io/ingress",
                "172.16.1.1, 2001:db8::1,nonsense,127.0.0.1",
            ),
            ("ledger.lb.vl3-lb.io/ingress", "172.16.1.1,172.16.2.1"),
            ("vl3-lb.io/enabled", "true"),
        ];
        let annotations = annotations.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let claims = IngressClaim::read_all(&BTreeMap::from(annotations));
        let own = IngressClaim::annotation("finance", "lb");
        assert_eq!(claims.len(), 2);
        assert_eq!(claims[0].annotation, own);
        let ips =
            |texts: &[&str]| -> Vec<IpAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        assert_eq!(claims[0].addresses, ips(&["172.16.1.1", "2001:db8::1"]));
        assert_eq!(
            others(&claims, &own),
            ips(&["172.16.1.1", "172.16.2.1"]).into_iter().collect()
        );
    }
}
