//! The format of a balancer's Lease (`coordination.k8s.io/v1`): its name is that of the pod, the label
//! `vl3-lb.io/group` names the group, and annotations hold addresses, services and readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use vl3lb_common::Duration;

use super::identity::Identity;
use crate::config::unicast;

/// The label that balancers of one group share.
pub(super) const GROUP: &str = "vl3-lb.io/group";
const ADDRESSES: &str = "vl3-lb.io/addresses";
const SERVICES: &str = "vl3-lb.io/services";
/// The addresses of services that do not listen at all of the balancer's: `NAME=ADDRESS ADDRESS,NAME=ADDRESS`.
const SERVICE_ADDRESSES: &str = "vl3-lb.io/service-addresses";
const READY: &str = "vl3-lb.io/ready";

/// A balancer whose Lease has not changed for this long is dead.
pub(super) const DURATION: Duration = Duration::from_secs(15);
/// Accepted durations of other balancers' Leases, in seconds.
const DURATIONS: std::ops::RangeInclusive<i32> = 3..=600;
/// Accepted addresses of one balancer.
const MOST_ADDRESSES: usize = 16;

/// The state that a balancer publishes in its Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Presence {
    /// Whether it accepts new flows.
    pub(super) ready: bool,
    /// The addresses of its services, both families.
    pub(super) addresses: Vec<IpAddr>,
    /// The names of its services.
    pub(super) services: BTreeSet<String>,
    /// The addresses of services that do not listen at all of `addresses`, by name.
    pub(super) service_addresses: BTreeMap<String, Vec<IpAddr>>,
}

/// The Lease of `identity` at `now`, to be applied as a whole.
pub(super) fn write(identity: &Identity, presence: &Presence, duration: Duration, now: SystemTime) -> Lease {
    let addresses: Vec<String> = presence.addresses.iter().map(ToString::to_string).collect();
    let services: Vec<&str> = presence.services.iter().map(String::as_str).collect();
    let mut annotations: BTreeMap<String, String> = [
        (ADDRESSES, addresses.join(",")),
        (SERVICES, services.join(",")),
        (READY, presence.ready.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    if !presence.service_addresses.is_empty() {
        let services = presence.service_addresses.iter().map(|(name, addresses)| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{name}={}", addresses.join(" "))
        });
        let services: Vec<String> = services.collect();
        annotations.insert(SERVICE_ADDRESSES.to_owned(), services.join(","));
    }
    // Garbage-collected with the pod.
    let owner = identity.uid.as_ref().map(|uid| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: identity.pod.clone(),
        uid: uid.clone(),
        ..OwnerReference::default()
    });
    Lease {
        metadata: ObjectMeta {
            name: Some(identity.pod.clone()),
            namespace: Some(identity.namespace.clone()),
            labels: Some([(GROUP.to_owned(), identity.group.clone())].into()),
            annotations: Some(annotations),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(identity.pod.clone()),
            lease_duration_seconds: Some(seconds(duration)),
            renew_time: Some(micro_time(now)),
            ..LeaseSpec::default()
        }),
    }
}

/// A balancer's Lease, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerLease {
    pub(super) name: String,
    pub(super) presence: Presence,
    pub(super) duration: Duration,
    /// Changes with each renewal. Compared with earlier values only, never with a clock.
    pub(super) renewed: Option<Timestamp>,
}

impl PeerLease {
    /// Reads `lease`; malformed values count as absent.
    pub(super) fn read(lease: &Lease) -> Self {
        let annotations = lease.metadata.annotations.as_ref();
        let items = |key: &str| {
            let text = annotations.and_then(|annotations| annotations.get(key));
            text.into_iter()
                .flat_map(|text| text.split(','))
                .map(str::trim)
                .filter(|item| !item.is_empty())
        };
        let spec = lease.spec.as_ref();
        let duration = spec.and_then(|spec| spec.lease_duration_seconds);
        Self {
            name: lease.metadata.name.clone().unwrap_or_default(),
            presence: Presence {
                ready: items(READY).eq(["true"]),
                addresses: items(ADDRESSES)
                    .filter_map(unicast)
                    .take(MOST_ADDRESSES)
                    .collect(),
                services: items(SERVICES).map(str::to_owned).collect(),
                service_addresses: items(SERVICE_ADDRESSES).filter_map(service_addresses).collect(),
            },
            duration: duration
                .map(|seconds| seconds.clamp(*DURATIONS.start(), *DURATIONS.end()))
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(DURATION, Duration::from_secs),
            renewed: spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0),
        }
    }
}

/// A service and its addresses.
fn service_addresses(item: &str) -> Option<(String, Vec<IpAddr>)> {
    let (name, addresses) = item.split_once('=')?;
    let addresses = addresses.split_whitespace().filter_map(unicast);
    Some((name.to_owned(), addresses.take(MOST_ADDRESSES).collect()))
}

/// A time in the API's resolution of microseconds.
pub(super) fn micro_time(time: SystemTime) -> MicroTime {
    MicroTime(Timestamp::try_from(time).unwrap_or_default())
}

/// A duration in the Lease's whole seconds.
pub(super) fn seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_secs()).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_written_lease_reads_back() {
        let identity = Identity {
            group: "finance".to_owned(),
            namespace: "web".to_owned(),
            pod: "lb-1".to_owned(),
            uid: Some("u1".to_owned()),
            node: None,
        };
        let presence = Presence {
            ready: true,
            addresses: vec!["172.16.1.103".parse().unwrap(), "2001:db8::67".parse().unwrap()],
            services: ["dns".to_owned(), "finance".to_owned()].into(),
            service_addresses: [(
                "dns".to_owned(),
                vec!["172.16.1.103".parse().unwrap(), "2001:db8::67".parse().unwrap()],
            )]
            .into(),
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_795_501_860);
        let lease = write(&identity, &presence, DURATION, now);
        assert_eq!(
            serde_json::to_value(&lease).unwrap(),
            json!({
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {
                    "name": "lb-1",
                    "namespace": "web",
                    "labels": {"vl3-lb.io/group": "finance"},
                    "annotations": {
                        "vl3-lb.io/addresses": "172.16.1.103,2001:db8::67",
                        "vl3-lb.io/services": "dns,finance",
                        "vl3-lb.io/service-addresses": "dns=172.16.1.103 2001:db8::67",
                        "vl3-lb.io/ready": "true",
                    },
                    "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "lb-1", "uid": "u1"}],
                },
                "spec": {
                    "holderIdentity": "lb-1",
                    "leaseDurationSeconds": 15,
                    "renewTime": "2026-11-24T06:31:00.000000Z",
                },
            })
        );
        let read_back = PeerLease::read(&lease);
        assert_eq!(read_back.presence, presence);
        assert_eq!((read_back.name.as_str(), read_back.duration), ("lb-1", DURATION));
        assert!(read_back.renewed.is_some());
    }

    #[test]
    fn malformed_values_count_as_absent() {
        let read = |annotations: serde_json::Value, spec: serde_json::Value| {
            let lease = json!({"metadata": {"name": "x", "annotations": annotations}, "spec": spec});
            PeerLease::read(&serde_json::from_value(lease).unwrap())
        };
        let read_back = read(
            json!({
                ADDRESSES: "127.0.0.1, 224.0.0.1,172.16.1.9,,nonsense",
                READY: "True",
            }),
            json!({"leaseDurationSeconds": -5}),
        );
        assert_eq!(
            read_back.presence.addresses,
            ["172.16.1.9".parse::<IpAddr>().unwrap()]
        );
        assert!(!read_back.presence.ready);
        assert_eq!(read_back.duration, Duration::from_secs(3));
        let read_back = read(json!({}), json!({}));
        assert_eq!(
            (read_back.presence, read_back.duration),
            (Presence::default(), DURATION)
        );
    }
}
