//! Which Services are served, under which names. The file's services come first, then older Services:
//! what has a name or a port keeps it.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use vl3lb_common::Protocol;

use super::assembly::Listening;
use super::locality::Distribution;
use super::service::{Port, Reason, ServiceRecord};
use crate::config;

/// The longest DNS label (RFC 1035 section 2.3.4).
const LONGEST_NAME: usize = 63;

/// A Service that is served, all of it or in part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Whether it has the balancer's `spec.loadBalancerClass`, and its status is to say where it is.
    pub load_balancer: bool,
    /// The balancer's services that it became, one for each port.
    pub services: Vec<String>,
}

/// What is not done of what a Service asks for; all of it, unless the Service is among those accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// One of a few words in CamelCase, as Kubernetes' events have it.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// A Service that no balancer serves, and that has addresses in its status which one wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaleStatus {
    pub namespace: String,
    pub name: String,
}

/// A Service with those of its ports that are served, each under its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Admitted {
    pub(super) declared: Arc<ServiceRecord>,
    pub(super) ports: Vec<(Port, String)>,
}

/// What is taken, and by whom.
#[derive(Default)]
pub(super) struct Admission {
    names: HashMap<String, String>,
    ports: HashMap<(Protocol, u16), String>,
    means: Capabilities,
}

/// What the balancer can find out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// Which node it is on.
    pub(super) node: bool,
    /// Which zone it is in.
    pub(super) zone: bool,
    /// Whether the addresses in EndpointSlices are those of its network.
    pub(super) endpoints: bool,
}

/// What Services ask for, decided.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) admitted: Vec<Admitted>,
    pub(super) refused: Vec<Refused>,
    pub(super) stale_statuses: Vec<StaleStatus>,
}

impl Admission {
    /// Services of the file, and the ports where the balancer itself listens.
    pub(super) fn new(file: &[config::Service], listening: &[Listening], means: Capabilities) -> Self {
        let mut claims = Self {
            means,
            ..Self::default()
        };
        for &(protocol, port, server) in listening {
            claims.ports.insert((protocol, port), server.to_owned());
        }
        for service in file {
            let owner = "a service of the configuration file";
            claims.names.insert(service.name.clone(), owner.to_owned());
            claims.ports.insert(
                (service.protocol, service.port),
                format!("service {} of the configuration file", service.name),
            );
        }
        claims
    }

    /// Decides about all of `declared`, in any order.
    pub(super) fn decide<'a>(mut self, declared: impl Iterator<Item = &'a Arc<ServiceRecord>>) -> Decision {
        let mut by_age: Vec<&Arc<ServiceRecord>> = declared.collect();
        by_age.sort_by(|a, b| older(a, b));
        let mut decided = Decision::default();
        for declared in by_age {
            if declared.has_stale_status() {
                decided.stale_statuses.push(StaleStatus {
                    namespace: declared.namespace.clone(),
                    name: declared.name.clone(),
                });
            }
            if !declared.enabled {
                continue;
            }
            let mut reasons = declared.noted.clone();
            match self.admit(declared, &mut reasons) {
                Ok(admitted) => decided.admitted.push(admitted),
                Err(reason) => reasons.push(reason),
            }
            decided
                .refused
                .extend(reasons.into_iter().map(|reason| Refused::new(declared, reason)));
        }
        decided
    }

    fn admit(&mut self, declared: &Arc<ServiceRecord>, noted: &mut Vec<Reason>) -> Result<Admitted, Reason> {
        if let Some(reason) = declared.refused.clone().or_else(|| self.means.lack(declared)) {
            return Err(reason);
        }
        if declared.distribution.needs_zone() && !self.means.zone {
            noted.push(Reason::new(
                "ZoneUnknown",
                "trafficDistribution: the balancer does not know its zone: set NODE_ZONE, or NODE_NAME and \
                 kubernetes.topology",
            ));
        }
        if declared.publish_not_ready && !self.means.endpoints {
            noted.push(Reason::new(
                "NotReadyAddresses",
                "publishNotReadyAddresses is followed with kubernetes.addressFrom: pod-ip only; ignored",
            ));
        }
        let owner = format!("Service {}/{}", declared.namespace, declared.name);
        let names: Vec<String> = declared.ports.iter().map(|port| name(declared, port)).collect();
        let wanted: HashSet<&String> = names.iter().chain([&declared.name]).collect();
        if let Some((name, holder)) = wanted
            .iter()
            .filter_map(|name| Some((name, self.names.get(*name)?)))
            .min()
        {
            return Err(Reason::new(
                "NameConflict",
                format!("the name {name} is that of {holder}"),
            ));
        }
        if let Some(name) = names.iter().find(|name| name.len() > LONGEST_NAME) {
            return Err(Reason::new(
                "NameTooLong",
                format!("the name {name} has more than {LONGEST_NAME} letters"),
            ));
        }
        let mut ports = Vec::with_capacity(names.len());
        for (port, name) in declared.ports.iter().zip(&names) {
            let key = (port.protocol, port.port);
            if let Some(holder) = self.ports.get(&key) {
                noted.push(Reason::new(
                    "PortConflict",
                    format!("{} {} is that of {holder}", port.protocol, port.port),
                ));
                continue;
            }
            self.ports.insert(key, owner.clone());
            ports.push((port.clone(), name.clone()));
        }
        if ports.is_empty() {
            return Err(Reason::new("NoPorts", "none of its ports is free"));
        }
        for name in wanted {
            self.names.insert(name.clone(), owner.clone());
        }
        let declared = Arc::clone(declared);
        Ok(Admitted { declared, ports })
    }
}

impl Capabilities {
    /// What it takes to serve `declared` and is not there.
    fn lack(self, declared: &ServiceRecord) -> Option<Reason> {
        if declared.distribution == Distribution::LocalOnly && !self.node {
            return Some(Reason::new(
                "NodeUnknown",
                "traffic policy Local: the balancer does not know its node: set NODE_NAME",
            ));
        }
        (declared.selector.is_none() && !self.endpoints).then(|| {
            Reason::new(
                "NoSelector",
                "a Service without a selector has pod IPs only, and kubernetes.addressFrom asks for others",
            )
        })
    }
}

/// The names do not depend on which ports are served.
fn name(declared: &ServiceRecord, port: &Port) -> String {
    if declared.listed == 1 || port.name.is_empty() {
        declared.name.clone()
    } else {
        format!("{}-{}", declared.name, port.name)
    }
}

fn older(a: &ServiceRecord, b: &ServiceRecord) -> Ordering {
    let key = |service: &ServiceRecord| (service.created, service.namespace.clone(), service.name.clone());
    key(a).cmp(&key(b))
}

impl Admitted {
    pub(super) fn accepted(&self) -> Accepted {
        Accepted {
            namespace: self.declared.namespace.clone(),
            name: self.declared.name.clone(),
            uid: self.declared.uid.to_string(),
            load_balancer: self.declared.load_balancer,
            services: self.ports.iter().map(|(_, name)| name.clone()).collect(),
        }
    }
}

impl Refused {
    pub(super) fn new(declared: &ServiceRecord, reason: Reason) -> Self {
        Self {
            namespace: declared.namespace.clone(),
            name: declared.name.clone(),
            uid: declared.uid.to_string(),
            reason: reason.word,
            message: reason.message,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            name,
            message,
            ..
        } = self;
        write!(f, "Service {namespace}/{name}: {message}")
    }
}
