//! The record of a pod: about one of its ten kilobytes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Api, Client};
use vl3lb_common::{Duration, Protocol};

use super::address::{addresses, annotation, claim};
use super::cache::Record;
use super::claims::Denial;
use super::node::ZONE;
use super::service::protocol;
use crate::config::{AddressFrom, unicast};
use crate::discovery::{Eligibility, PodPlace};

/// Share of new flows, 0 to 1000.
const WEIGHT: &str = "vl3-lb.io/weight";
/// `"true"` on a pod: no new flows. On a Service: the drain time of its backends.
pub(super) const DRAIN: &str = "vl3-lb.io/drain";
/// `"true"` on a pod: new flows only while no other backend of its service gets them.
const BACKUP: &str = "vl3-lb.io/backup";
const HEAVIEST: u16 = 1000;

/// A pod as a possible backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodRecord {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Names of pod and node, for display.
    pub(super) place: Arc<PodPlace>,
    /// Distinguishes it from other pods with its name or addresses.
    pub(super) uid: Arc<str>,
    /// Seconds since 1970.
    pub(super) created: i64,
    pub(super) labels: BTreeMap<String, String>,
    /// Both families.
    pub(super) addresses: Vec<IpAddr>,
    /// The annotation that the addresses are from; `None`: the kubelet or the network reported them.
    pub(super) claim: Option<PodClaim>,
    /// Claimed addresses that it must not have.
    pub(super) denied: Vec<Denial>,
    /// The addresses in its status: its own, and those of its node.
    pub(super) reported: Vec<Reported>,
    /// Whether it has the node's addresses, which other pods have too.
    pub(super) host_network: bool,
    pub(super) ports: Vec<NamedPort>,
    /// The zone of its node, if the pod is labelled with it.
    pub(super) zone: Option<String>,
    pub(super) weight: u16,
    pub(super) backup: bool,
    pub(super) eligibility: Eligibility,
    /// Being deleted: no new flows while another backend is eligible, even if an endpoint says that it is ready.
    pub(super) terminating: bool,
    /// Drained by annotation: no new flows at all.
    pub(super) drained: bool,
    /// Whether its condition Ready is true, also while it is being deleted.
    pub(super) serving: bool,
    /// When its eligibility changed.
    pub(super) changed: Option<SystemTime>,
    /// Its faults, in words.
    pub(super) problems: Vec<String>,
}

/// Addresses in an annotation, which anyone who may edit the pod may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PodClaim {
    pub(super) annotation: String,
    pub(super) addresses: Vec<IpAddr>,
}

/// An address in a pod's status, which the kubelet writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) address: IpAddr,
    /// Whether the node has it.
    pub(super) is_node: bool,
}

/// A port that a container gave a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedPort {
    name: String,
    protocol: Protocol,
    number: u16,
}

impl PodRecord {
    /// Reads `pod`. Unusable values are left out and named in `problems`.
    pub(super) fn read(pod: &Pod, address_from: &AddressFrom) -> Self {
        let mut problems = Vec::new();
        let mut noted = |problem: String| problems.push(problem);
        let terminating = pod.metadata.deletion_timestamp.is_some();
        let drained = is_drained(pod, &mut noted);
        let serving = readiness(pod).is_some_and(|ready| ready.status == "True");
        let eligibility = eligibility(pod, serving && !terminating && !drained);
        let weight = weight(pod, &mut noted);
        let backup = is_backup(pod, &mut noted);
        let addresses = addresses(pod, address_from, &mut noted);
        if addresses.is_empty() && eligibility == Eligibility::NewFlows && *address_from != AddressFrom::Nsm {
            noted(format!("ready, but without address from {}", address_from));
        }
        let spec = pod.spec.as_ref();
        let labels = pod.metadata.labels.iter().flatten();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.clone().unwrap_or_default();
        Self {
            place: Arc::new(PodPlace {
                pod: format!("{namespace}/{name}"),
                node: spec.and_then(|spec| spec.node_name.clone()),
            }),
            namespace,
            name,
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            created: pod
                .metadata
                .creation_timestamp
                .as_ref()
                .map_or(0, |time| time.0.as_second()),
            zone: labels
                .clone()
                .find(|(label, _)| *label == ZONE)
                .map(|(_, zone)| zone.clone()),
            labels: labels
                .map(|(label, value)| (label.clone(), value.clone()))
                .collect(),
            claim: claim(address_from).map(|annotation| PodClaim {
                annotation,
                addresses: addresses.clone(),
            }),
            addresses,
            denied: Vec::new(),
            reported: reported(pod),
            host_network: spec.and_then(|spec| spec.host_network) == Some(true),
            ports: spec.map(named_ports).unwrap_or_default(),
            weight,
            backup,
            eligibility,
            terminating,
            drained,
            serving,
            changed: changed(pod),
            problems,
        }
    }

    /// The number of the port called `name`; the first of several.
    pub(super) fn port(&self, name: &str, protocol: Protocol) -> Option<u16> {
        let mut ports = self.ports.iter();
        let port = ports.find(|port| port.name == name && port.protocol == protocol)?;
        Some(port.number)
    }

    /// Whether it is being deleted and still serves: it gets new flows if no other backend does.
    pub(super) const fn is_last_resort(&self) -> bool {
        self.terminating && self.serving && !self.drained
    }

    /// Whether it owns an address that `other` has too: a live pod before a dead one, then the newer one.
    pub(super) fn displaces(&self, other: &Self) -> bool {
        let rank = |pod: &Self| {
            (
                pod.eligibility != Eligibility::Dead,
                pod.created,
                Arc::clone(&pod.uid),
            )
        };
        rank(self) > rank(other)
    }
}

/// The addresses in the status of `pod`.
fn reported(pod: &Pod) -> Vec<Reported> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let shares_node = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let pods = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let pods = pods.chain(&status.pod_ip).map(|ip| (ip, shares_node));
    let nodes = status.host_ips.iter().flatten().map(|ip| &ip.ip);
    let nodes = nodes.chain(&status.host_ip).map(|ip| (ip, true));
    let mut reported: Vec<Reported> = Vec::new();
    for (text, is_node) in pods.chain(nodes) {
        let Some(address) = unicast(text) else { continue };
        let known = Reported { address, is_node };
        if !reported.contains(&known) {
            reported.push(known);
        }
    }
    reported
}

/// An unready or terminating pod gets no new flows; its existing flows may still work, and end with it at the latest. A
/// pod that is being deleted reaches a final phase as soon as its containers have exited, while their last packets may
/// still be in flight, so it does not count as dead.
fn eligibility(pod: &Pod, ready: bool) -> Eligibility {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    let is_deleted = pod.metadata.deletion_timestamp.is_some();
    if matches!(phase, Some("Failed" | "Succeeded")) && !is_deleted {
        Eligibility::Dead
    } else if ready {
        Eligibility::NewFlows
    } else {
        Eligibility::ExistingFlows
    }
}

fn readiness(pod: &Pod) -> Option<&PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready")
}

fn is_drained(pod: &Pod, noted: &mut impl FnMut(String)) -> bool {
    match annotation(pod, DRAIN) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            noted(format!(
                "annotation {DRAIN}: {other:?}, allowed true, false; taken for true"
            ));
            true
        }
    }
}

/// When its deletion was requested, else when it became ready or unready.
fn changed(pod: &Pod) -> Option<SystemTime> {
    if let Some(end) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or_default();
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or_default());
        return instant(end)?.checked_sub(grace);
    }
    instant(readiness(pod)?.last_transition_time.as_ref()?)
}

fn weight(pod: &Pod, noted: &mut impl FnMut(String)) -> u16 {
    let Some(text) = annotation(pod, WEIGHT) else {
        return 1;
    };
    let weight = text.trim().parse().ok().filter(|weight| *weight <= HEAVIEST);
    weight.unwrap_or_else(|| {
        noted(format!(
            "annotation {WEIGHT}: {text:?}, allowed 0-{HEAVIEST}; taken for 1"
        ));
        1
    })
}

fn is_backup(pod: &Pod, noted: &mut impl FnMut(String)) -> bool {
    match annotation(pod, BACKUP) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            noted(format!(
                "annotation {BACKUP}: {other:?}, allowed true, false; taken for false"
            ));
            false
        }
    }
}

/// The named ports of containers and sidecars (init containers that are always restarted).
fn named_ports(spec: &PodSpec) -> Vec<NamedPort> {
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars).flat_map(ports).collect()
}

fn ports(container: &Container) -> impl Iterator<Item = NamedPort> {
    container.ports.iter().flatten().filter_map(|port| {
        let protocol = protocol(port.protocol.as_deref())?;
        Some(NamedPort {
            name: port.name.clone()?,
            protocol,
            number: u16::try_from(port.container_port)
                .ok()
                .filter(|number| *number > 0)?,
        })
    })
}

/// A time of the API server, in whole seconds.
pub(super) fn instant(time: &Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.0.as_second()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

impl Record for PodRecord {
    type Object = Pod;
    type Options = AddressFrom;

    fn api(client: Client, namespace: Option<&str>) -> Api<Pod> {
        match namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        }
    }

    fn read(pod: &Pod, address_from: &AddressFrom) -> Option<Self> {
        Some(Self::read(pod, address_from))
    }
}
