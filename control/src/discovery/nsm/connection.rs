//! The part of an NSM connection that discovery keeps. Monitors show the bearer tokens of all clients: they end here.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::subject::Subject;
use crate::config::unicast;
use crate::nsm::proto::connection::{self as proto, State};

/// A client's connection to an endpoint of the network service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// The client's own words.
    pub(super) labels: BTreeMap<String, String>,
    /// Of both families, in order; at least one.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether a part of the control plane on its path is lost. The data plane may still work.
    pub(super) is_down: bool,
}

/// A client, as the first segment of a connection's path names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Client {
    /// Usually the pod's name.
    pub(super) name: Arc<str>,
    /// The client's id of the connection, which it keeps when it moves to another endpoint.
    pub(super) id: Arc<str>,
    /// `None` if its token cannot be read.
    pub(super) subject: Option<Subject>,
}

/// Why a connection of an event is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Skip {
    /// Its path is empty, or names no client.
    NoPath,
    /// It only passes the endpoint, or is a connection that the endpoint requested itself.
    OtherEndpoint,
    OtherService,
    /// It has no address, or none that a backend can have.
    NoAddress,
}

impl Skip {
    pub(super) const ALL: [Self; 4] = [
        Self::NoPath,
        Self::OtherEndpoint,
        Self::OtherService,
        Self::NoAddress,
    ];

    /// The value in JSON and metric labels.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::NoPath => "no_path",
            Self::OtherEndpoint => "other_endpoint",
            Self::OtherService => "other_service",
            Self::NoAddress => "no_address",
        }
    }
}

impl Connection {
    /// Reads a connection of an event about `endpoint` of `service`. Errors: why it is left out.
    pub(super) fn read(event: proto::Connection, endpoint: &str, service: &str) -> Result<Self, Skip> {
        let mut segments = event.path.unwrap_or_default().path_segments;
        let last = segments.last().map(|segment| segment.name.clone());
        let first = segments.first_mut().map(std::mem::take).ok_or(Skip::NoPath)?;
        // The tokens of the others end here.
        drop(segments);
        if first.id.is_empty() {
            return Err(Skip::NoPath);
        }
        // An empty name means that no endpoint was selected yet.
        let is_of_endpoint = match event.network_service_endpoint_name.as_str() {
            "" => last.as_deref() == Some(endpoint),
            name => name == endpoint,
        };
        if !is_of_endpoint {
            return Err(Skip::OtherEndpoint);
        }
        if event.network_service != service {
            return Err(Skip::OtherService);
        }
        let ip_context = event.context.unwrap_or_default().ip_context.unwrap_or_default();
        let mut addresses: Vec<IpAddr> = ip_context
            .src_ip_addrs
            .iter()
            .filter_map(|text| address(text))
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(Skip::NoAddress);
        }
        Ok(Self {
            client: Client {
                subject: Subject::read(&first.token),
                name: first.name.into(),
                id: first.id.into(),
            },
            labels: event.labels.into_iter().collect(),
            addresses,
            is_down: event.state == i32::from(State::Down),
        })
    }

    /// The node that the connection names.
    pub(super) fn node(&self) -> Option<&String> {
        self.labels.get("nodeName").filter(|node| !node.is_empty())
    }
}

impl Client {
    /// Whether both are the same client, by its own word. Its identity may have changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.id == other.id
    }

    /// The name of its pod: the admission webhook of NSM appends a UUID to the name of a bare pod.
    pub(super) fn pod(&self) -> &str {
        let uuid = self.name.len().checked_sub(36).filter(|at| *at > 1);
        let cut = uuid.and_then(|at| Some((self.name.get(..at)?, self.name.get(at..)?)));
        match cut {
            Some((pod, uuid)) if is_uuid(uuid) => pod.strip_suffix('-').unwrap_or(&self.name),
            _ => &self.name,
        }
    }

    /// The namespace of its pod, where its identity names one.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.subject.as_ref()?.namespace()
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client {} ({})", self.name, self.id)
    }
}

/// An address as in an IP context, `172.16.0.2/32`; `None` if no backend can have it.
fn address(text: &str) -> Option<IpAddr> {
    unicast(text.split('/').next().unwrap_or(text))
}

fn is_uuid(text: &str) -> bool {
    let letters = text.char_indices();
    text.len() == 36
        && letters.into_iter().all(|(at, letter)| match at {
            8 | 13 | 18 | 23 => letter == '-',
            _ => letter.is_ascii_hexdigit(),
        })
}
