//! Filters of services, backends, flows and events.
//!
//! The same filter twice means either, different filters mean both, and `!` before a value negates it. Names
//! are exact; `*` is a wildcard. Filters are query parameters, so that long lists are reduced at the server.

mod capture;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;

use crate::api::{Backend, BackendState, Event, Service, ServiceState, Time};
use vl3lb_common::Protocol;
use vl3lb_common::flow_query::{FlowRecord, FlowState};

use crate::config::{ADDRESS_MARK, ConfigError, duration};

pub use capture::PacketFilter;

/// The values of a port, for errors.
const PORT: &str = "0-65535";

/// The values of one filter.
#[derive(Debug, Clone)]
struct Values<T> {
    accepted: Vec<T>,
    rejected: Vec<T>,
}

impl<T> Default for Values<T> {
    fn default() -> Self {
        Self {
            accepted: Vec::new(),
            rejected: Vec::new(),
        }
    }
}

impl<T> Values<T> {
    fn add(
        &mut self,
        name: &str,
        text: &str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<(), ConfigError> {
        let (list, value) = match text.strip_prefix('!') {
            Some(value) => (&mut self.rejected, value),
            None => (&mut self.accepted, text),
        };
        let parsed = parse(value).ok_or_else(|| ConfigError::new(name, value, allowed))?;
        list.push(parsed);
        Ok(())
    }

    fn accept(&self, matches: impl Fn(&T) -> bool) -> bool {
        (self.accepted.is_empty() || self.accepted.iter().any(&matches))
            && !self.rejected.iter().any(&matches)
    }
}

/// An exact name, or one with `*` for any number of characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name(String);

impl Name {
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.to_owned()))
    }

    fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return self.0 == name;
        };
        let Some(mut tail) = name.strip_prefix(first) else {
            return false;
        };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            match tail.find(part) {
                Some(at) => tail = &tail[at + part.len()..],
                None => return false,
            }
        }
        tail.ends_with(last)
    }

    /// Whether it is the name of `service`, or the one that it shares with others (`web` of `web@172.16.1.103`).
    fn matches_service(&self, service: &str) -> bool {
        let shared = service.split_once(ADDRESS_MARK);
        self.matches(service) || shared.is_some_and(|(name, _)| self.matches(name))
    }
}

/// A network, or a single address as one.
fn network(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).ok()
}

/// An address of a backend, with or without its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Endpoint {
    address: IpAddr,
    port: Option<u16>,
}

impl Endpoint {
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse() {
            return Some(Self { address, port: None });
        }
        let endpoint: SocketAddr = text.parse().ok()?;
        Some(Self {
            address: endpoint.ip(),
            port: Some(endpoint.port()),
        })
    }

    fn matches(self, address: IpAddr, port: u16) -> bool {
        self.address == address && self.port.is_none_or(|filter| filter == port)
    }
}

/// Names of services. One that does not exist is an error for the reader.
#[derive(Debug, Clone, Default)]
struct ServiceNames(Values<Name>);

impl ServiceNames {
    fn add(&mut self, text: &str) -> Result<(), ConfigError> {
        self.0.add("service", text, "the name of a service", Name::parse)
    }

    /// The first filter name without a wildcard that is none of `known`.
    fn missing<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.0
            .accepted
            .iter()
            .filter(|name| !name.0.contains('*'))
            .find(|name| !known.clone().any(|known| name.matches_service(known)))
            .map(|name| name.0.as_str())
    }
}

/// Filters of services.
#[derive(Debug, Clone, Default)]
pub struct ServiceFilter {
    names: ServiceNames,
    state: Values<ServiceState>,
}

impl ServiceFilter {
    /// Adds a filter. `Ok(false)`: there is no filter of that name. Errors: the value.
    pub fn add(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        match name {
            "service" => self.names.add(value)?,
            "state" => self
                .state
                .add(name, value, &names(&ServiceState::ALL, |s| s.name()), |text| {
                    by_name(&ServiceState::ALL, text, |s| s.name())
                })?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A service that is named, without a wildcard, and is none of `known`.
    pub fn missing<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.names.missing(known)
    }

    /// Whether `service` passes.
    pub fn accepts(&self, service: &Service) -> bool {
        self.names.0.accept(|name| name.matches_service(&service.name))
            && self.state.accept(|&state| state == service.state)
    }
}

/// Filters of backends.
#[derive(Debug, Clone, Default)]
pub struct BackendFilter {
    names: ServiceNames,
    state: Values<BackendState>,
    node: Values<Name>,
}

impl BackendFilter {
    /// Adds a filter. `Ok(false)`: there is no filter of that name. Errors: the value.
    pub fn add(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        match name {
            "service" => self.names.add(value)?,
            "state" => self
                .state
                .add(name, value, &names(&BackendState::ALL, |s| s.name()), |text| {
                    by_name(&BackendState::ALL, text, |s| s.name())
                })?,
            "node" => self.node.add(name, value, "the name of a node", Name::parse)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A service that is named, without a wildcard, and is none of `known`.
    pub fn missing<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.names.missing(known)
    }

    /// Whether `backend` passes.
    pub fn accepts(&self, backend: &Backend) -> bool {
        self.names.0.accept(|name| name.matches_service(&backend.service))
            && self.state.accept(|&state| state == backend.state)
            && self
                .node
                .accept(|name| backend.node.as_ref().is_some_and(|node| name.matches(node)))
    }
}

/// Filters of events.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    names: ServiceNames,
    since: Option<Duration>,
}

impl EventFilter {
    /// Adds a filter. `Ok(false)`: there is no filter of that name. Errors: the value.
    pub fn add(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        match name {
            "service" => self.names.add(value)?,
            "since" => {
                let age =
                    duration::parse(value).map_err(|_| ConfigError::new(name, value, duration::FORM))?;
                self.since = Some(age);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A service that is named, without a wildcard, and is none of `known`.
    pub fn missing<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.names.missing(known)
    }

    /// Whether `event` passes at `now`.
    pub fn accepts(&self, event: &Event, now: Time) -> bool {
        let service = event.service.as_deref();
        self.names
            .0
            .accept(|name| service.is_some_and(|service| name.matches_service(service)))
            && self.since.is_none_or(|since| now.since(event.time) <= since)
    }

    /// Whether events before `oldest` could pass at `now`.
    pub fn reaches_beyond(&self, oldest: Time, now: Time) -> bool {
        self.since.is_none_or(|since| now.since(oldest) < since)
    }
}

/// Filters of the two ends of a flow, which flows and captured packets share.
#[derive(Debug, Clone, Default)]
struct EndFilter {
    names: ServiceNames,
    backend: Values<Endpoint>,
    client: Values<IpNet>,
    port: Values<u16>,
    protocol: Values<Protocol>,
}

impl EndFilter {
    /// Adds a filter. `Ok(false)`: there is no filter of that name. Errors: the value.
    fn add(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        match name {
            "service" => self.names.add(value)?,
            "backend" => {
                self.backend
                    .add(name, value, "an address, with or without a port", Endpoint::parse)?
            }
            "client" => {
                self.client
                    .add(name, value, "an address or a network such as 10.0.0.0/8", network)?
            }
            "port" => self.port.add(name, value, PORT, parse)?,
            "proto" => self.protocol.add(name, value, "TCP, UDP or SCTP", protocol)?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Filters of flows.
#[derive(Debug, Clone, Default)]
pub struct FlowFilter {
    ends: EndFilter,
    nat_port: Values<u16>,
    state: Values<FlowState>,
    older: Values<Duration>,
    idle: Values<Duration>,
    worker: Values<u16>,
}

impl FlowFilter {
    /// Adds a filter. `Ok(false)`: there is no filter of that name. Errors: the value.
    pub fn add(&mut self, name: &str, value: &str) -> Result<bool, ConfigError> {
        match name {
            "nat-port" => self.nat_port.add(name, value, PORT, parse)?,
            "state" => self
                .state
                .add(name, value, &names(&FlowState::ALL, |s| s.name()), |text| {
                    by_name(&FlowState::ALL, text, |s| s.name())
                })?,
            "older" => self.older.add(name, value, duration::FORM, time)?,
            "idle" => self.idle.add(name, value, duration::FORM, time)?,
            "worker" => self.worker.add(name, value, "the number of a worker", parse)?,
            _ => return self.ends.add(name, value),
        }
        Ok(true)
    }

    /// A service that is named, without a wildcard, and is none of `known`.
    pub fn missing<'a>(&self, known: impl Iterator<Item = &'a str> + Clone) -> Option<&str> {
        self.ends.names.missing(known)
    }

    /// Whether `flow`, of the service named `service`, passes.
    pub fn accepts(&self, flow: &FlowRecord, service: Option<&str>) -> bool {
        self.ends
            .names
            .0
            .accept(|name| service.is_some_and(|service| name.matches_service(service)))
            && self.ends.port.accept(|&port| port == flow.service_port)
            && self.nat_port.accept(|&port| port == flow.nat_port)
            && self.ends.protocol.accept(|&protocol| protocol == flow.protocol)
            && self.state.accept(|&state| state == flow.state)
            && self.worker.accept(|&worker| worker == flow.worker)
            && self.ends.client.accept(|network| network.contains(&flow.client))
            && self
                .ends
                .backend
                .accept(|backend| backend.matches(flow.backend, flow.backend_port))
            && self
                .older
                .accept(|age| u128::from(flow.age_micros) >= age.as_micros())
            && self
                .idle
                .accept(|idle| u128::from(flow.idle_micros) >= idle.as_micros())
    }

    /// Whether flows of `worker` can pass.
    pub fn accepts_worker(&self, worker: u16) -> bool {
        self.worker.accept(|&filter| filter == worker)
    }
}

fn parse<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn time(text: &str) -> Option<Duration> {
    duration::parse(text).ok()
}

fn protocol(text: &str) -> Option<Protocol> {
    by_name(&Protocol::ALL, &text.to_ascii_uppercase(), |protocol| {
        protocol.name()
    })
}

fn by_name<T: Copy>(all: &[T], text: &str, name: impl Fn(T) -> &'static str) -> Option<T> {
    all.iter().copied().find(|&value| name(value) == text)
}

fn names<T: Copy>(all: &[T], name: impl Fn(T) -> &'static str) -> String {
    let names: Vec<_> = all.iter().map(|&value| name(value)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
