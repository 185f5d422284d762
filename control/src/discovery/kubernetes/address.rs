//! The addresses at which the balancer reaches a pod.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use serde::Deserialize;

use crate::config::{AddressFrom, unicast};

/// The annotation in which Multus lists a pod's networks (Network Plumbing Working Group, "Kubernetes Network Custom
/// Resource Definition De-facto Standard", section 5).
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// The addresses of `pod` without duplicates, none if it has none yet. Unreadable annotations and addresses that no
/// backend can have are left out and passed to `noted`.
pub(super) fn addresses(pod: &Pod, from: &AddressFrom, noted: &mut impl FnMut(String)) -> Vec<IpAddr> {
    let texts = match from {
        AddressFrom::PodIp => pod_ips(pod),
        AddressFrom::NetworkStatus(name) => match annotation(pod, NETWORK_STATUS) {
            Some(json) => network_ips(json, name).unwrap_or_else(|error| {
                noted(format!("{NETWORK_STATUS}: {error}"));
                Vec::new()
            }),
            None => Vec::new(),
        },
        // They come from its connection.
        AddressFrom::Nsm => Vec::new(),
        AddressFrom::Annotation(key) => {
            let list = annotation(pod, key).unwrap_or_default();
            let parts = list.split(',').map(str::trim);
            parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
        }
    };
    let mut addresses = Vec::with_capacity(texts.len());
    for text in texts {
        match unicast(&text) {
            Some(address) if addresses.contains(&address) => {}
            Some(address) => addresses.push(address),
            None => noted(format!("{from}: {text:?} is not a unicast address")),
        }
    }
    addresses
}

/// The annotation that holds the addresses; `None` if they are not in one.
pub(super) fn claim(from: &AddressFrom) -> Option<String> {
    match from {
        AddressFrom::NetworkStatus(_) => Some(NETWORK_STATUS.to_owned()),
        AddressFrom::Annotation(key) => Some(key.clone()),
        AddressFrom::PodIp | AddressFrom::Nsm => None,
    }
}

fn pod_ips(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else {
        return Vec::new();
    };
    let several = status.pod_ips.iter().flatten().map(|ip| &ip.ip);
    let one = status.pod_ip.iter();
    several.chain(one).filter(|ip| !ip.is_empty()).cloned().collect()
}

pub(super) fn annotation<'a>(object: &'a impl Resource, key: &str) -> Option<&'a str> {
    object.meta().annotations.as_ref()?.get(key).map(String::as_str)
}

/// One network of a pod.
#[derive(Deserialize)]
struct Network {
    /// `NAMESPACE/NAME`, or the bare name of the cluster's default network.
    #[serde(default)]
    name: String,
    #[serde(default)]
    interface: String,
    #[serde(default)]
    ips: Vec<String>,
}

fn network_ips(json: &str, network_or_interface: &str) -> Result<Vec<String>, serde_json::Error> {
    let networks: Vec<Network> = serde_json::from_str(json)?;
    let is_wanted = |network: &Network| {
        let bare = network.name.rsplit('/').next();
        network.name == network_or_interface
            || bare == Some(network_or_interface)
            || network.interface == network_or_interface
    };
    Ok(networks
        .into_iter()
        .filter(is_wanted)
        .flat_map(|network| network.ips)
        .collect())
}
