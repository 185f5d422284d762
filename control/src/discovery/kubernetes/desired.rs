//! Services and pods become the desired set.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::pod::Member;
use crate::config::{Service, TargetPort};
use crate::discovery::{BackendSpec, Desired, Origin, ServiceSpec, Takes};

/// Each service with the pods that it selects, and what is wrong with pods, in words. The order of
/// `pods` does not matter.
///
/// Cost: O(services x pods).
pub(super) fn collect(services: &[Service], pods: &[Arc<Member>]) -> (Desired, BTreeSet<String>) {
    let owners = owners(pods);
    let mut problems = BTreeSet::new();
    let services = services.iter().map(|service| {
        let selected = pods.iter().filter(|pod| service.selector.matches(&pod.labels));
        let mut backends = Vec::new();
        for pod in selected {
            let noted = pod.problems.iter().map(|problem| told(pod, problem));
            problems.extend(noted);
            match port(service, pod) {
                Ok(port) => backends.extend(backends_of(pod, port, &owners)),
                Err(problem) if pod.takes == Takes::NewFlows => {
                    problems.insert(told(pod, &problem));
                }
                Err(_) => {}
            }
        }
        ServiceSpec::new(service, usual_port(service, &backends), backends)
    });
    let services = services.collect();
    (Desired { services }, problems)
}

fn told(pod: &Member, problem: &str) -> String {
    format!("pod {}/{}: {problem}", pod.namespace, pod.name)
}

/// Who has each address. The network gives one to the next pod as soon as the last one is dead, which
/// may be before that is seen here. Pods of the node's network share theirs and are left out.
fn owners(pods: &[Arc<Member>]) -> HashMap<IpAddr, &Member> {
    let mut owners: HashMap<IpAddr, &Member> = HashMap::new();
    for pod in pods.iter().filter(|pod| !pod.host_network) {
        for &address in &pod.addresses {
            let owner = owners.entry(address).or_insert(pod);
            if pod.displaces(owner) {
                *owner = pod;
            }
        }
    }
    owners
}

fn backends_of(
    pod: &Member,
    port: u16,
    owners: &HashMap<IpAddr, &Member>,
) -> impl Iterator<Item = BackendSpec> {
    pod.addresses.iter().map(move |&address| {
        let owner = owners.get(&address).filter(|_| !pod.host_network);
        let displaced = owner.is_some_and(|owner| owner.uid != pod.uid);
        BackendSpec {
            address,
            port,
            instance: Some(Arc::clone(&pod.uid)),
            weight: pod.weight,
            takes: if displaced { Takes::Nothing } else { pod.takes },
            origin: Origin::Kubernetes,
            pod: Some(Arc::clone(&pod.place)),
        }
    })
}

fn port(service: &Service, pod: &Member) -> Result<u16, String> {
    match &service.target_port {
        TargetPort::Number(number) => Ok(*number),
        TargetPort::Name(name) => pod.port(name, service.protocol).ok_or_else(|| {
            format!(
                "no {} port named {name}, which service {} asks for; left out",
                service.protocol, service.name
            )
        }),
    }
}

/// The port that most backends have, the lowest of several; without any the service's own.
fn usual_port(service: &Service, backends: &[BackendSpec]) -> u16 {
    if let TargetPort::Number(number) = service.target_port {
        return number;
    }
    let mut counts: HashMap<u16, usize> = HashMap::new();
    for backend in backends {
        *counts.entry(backend.port).or_default() += 1;
    }
    let usual = counts
        .into_iter()
        .max_by_key(|&(port, count)| (count, std::cmp::Reverse(port)));
    usual.map_or(service.port, |(port, _)| port)
}
