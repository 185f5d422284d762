//! Everything known about the network service: its endpoints, and the connections of each. Pure: streams and time are
//! arguments.
//!
//! A restarted manager lists no endpoints and no connections until these have registered and healed, while the data
//! plane works all the time. So nothing is forgotten only because a new list lacks it: it stays for [`UNCONFIRMED`],
//! unless it is deleted explicitly, or its client appears elsewhere. Health checks find what is dead meanwhile.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::connection::{Client, Connection};
use super::endpoint::{Manager, Registration};

/// How long a connection is kept that the manager's new list lacks, and an endpoint that the registry's lacks. Clients
/// heal within seconds of a restart, endpoints register again every 40 s.
pub(super) const UNCONFIRMED: Duration = Duration::from_secs(60);
/// A connection that was down for so long does not heal. Its client may still use its address.
pub(super) const LONG_DOWN: Duration = Duration::from_secs(30);
/// How long a closed connection may take to be requested again: a client that selects another endpoint closes it first.
pub(super) const REOPENING: Duration = Duration::from_secs(10);
/// How long a client that has closed its connection is remembered, which ends its flows.
const CLOSED: Duration = Duration::from_secs(70);

/// A client at an address: flows to one never continue to another.
pub(super) type Holder = (Arc<str>, Arc<str>, IpAddr);

/// Endpoints and connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Inventory {
    endpoints: BTreeMap<Arc<str>, Endpoint>,
    /// Whether the registry was listed once.
    is_listed: bool,
    /// Connections seen so far.
    seen: u64,
    /// Changes so far. A refresh that changes nothing does not count.
    revision: u64,
    /// When clients lost an address by closing or changing a connection.
    closed: BTreeMap<Holder, Instant>,
}

#[derive(Debug, Clone)]
struct Endpoint {
    manager: Manager,
    /// Since when the registry does not list it.
    unlisted: Option<Instant>,
    stream: Stream,
    /// By the id that the manager gave them.
    records: BTreeMap<String, Record>,
}

/// An endpoint that is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) manager: &'a Manager,
    pub(super) stream: Stream,
    /// Whether the registry lists it.
    pub(super) is_listed: bool,
    pub(super) connections: u64,
}

/// The state of an endpoint's monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// There was no list yet.
    Starting,
    /// There was no list yet, and an attempt has failed.
    Failing(Instant),
    Live,
    Lost(Instant),
}

/// A connection that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) connection: Arc<Connection>,
    /// Its place in the order of first appearance.
    pub(super) seen: u64,
    /// Since when it is down.
    down: Option<Instant>,
    /// Since when the manager's list lacks it.
    unconfirmed: Option<Instant>,
}

impl Record {
    /// Whether it has been down for so long that it will not heal.
    pub(super) fn is_long_down(&self, now: Instant) -> bool {
        self.down.is_some_and(|since| now >= since + LONG_DOWN)
    }

    /// Whether the manager lists it as working.
    pub(super) const fn is_firm(&self) -> bool {
        self.down.is_none() && self.unconfirmed.is_none()
    }
}

impl Inventory {
    /// Takes over a complete list of the registry.
    pub(super) fn list(&mut self, registrations: Vec<Registration>, now: Instant) {
        self.is_listed = true;
        for (name, endpoint) in &mut self.endpoints {
            if !registrations.iter().any(|listed| listed.name == *name) {
                endpoint.unlisted.get_or_insert(now);
            }
        }
        for registration in registrations {
            self.register(registration, now);
        }
    }

    /// An endpoint was registered, or its registration was repeated.
    pub(super) fn register(&mut self, registration: Registration, now: Instant) {
        let Registration { name, manager } = registration;
        if !self.endpoints.contains_key(&name) {
            self.revision += 1;
        }
        let endpoint = self.endpoints.entry(name).or_insert_with(|| Endpoint {
            manager: manager.clone(),
            unlisted: None,
            stream: Stream::Starting,
            records: BTreeMap::new(),
        });
        endpoint.unlisted = None;
        if endpoint.manager != manager {
            endpoint.manager = manager;
            endpoint.stream.lose(now);
        }
    }

    /// An endpoint has left the registry, or its registration expired.
    pub(super) fn unregister(&mut self, name: &str, now: Instant) {
        if let Some(endpoint) = self.endpoints.get_mut(name) {
            endpoint.unlisted.get_or_insert(now);
        }
    }

    /// The manager's complete list of the connections of `endpoint`, by the manager's ids.
    pub(super) fn replace(
        &mut self,
        endpoint: &str,
        connections: BTreeMap<String, Connection>,
        now: Instant,
    ) {
        let Some(known) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        known.stream = Stream::Live;
        for (id, record) in &mut known.records {
            if !connections.contains_key(id) {
                record.unconfirmed.get_or_insert(now);
                self.revision += 1;
            }
        }
        self.update(endpoint, connections, now);
    }

    /// Connections of `endpoint` were requested, refreshed or changed.
    pub(super) fn update(&mut self, endpoint: &str, connections: BTreeMap<String, Connection>, now: Instant) {
        for (id, connection) in connections {
            self.put(endpoint, id, connection, now);
        }
    }

    fn put(&mut self, endpoint: &str, id: String, connection: Connection, now: Instant) {
        let Some(known) = self.endpoints.get_mut(endpoint) else {
            return;
        };
        let manager = known.manager.clone();
        let old = known.records.remove(&id);
        let before = old.clone();
        let lost = old.as_ref().map_or_else(Vec::new, |old| {
            let mut holders = holders(&old.connection);
            let is_kept = |(name, id, address): &Holder| {
                let client = &connection.client;
                *name == client.name && *id == client.id && connection.addresses.contains(address)
            };
            holders.retain(|holder| !is_kept(holder));
            holders
        });
        self.close(lost, now);
        self.supersede(endpoint, &id, &manager, &connection.client, now);
        let down = connection.is_down.then(|| {
            let before = old.as_ref().and_then(|old| old.down);
            before.unwrap_or(now)
        });
        let connection = match &old {
            Some(old) if *old.connection == connection => Arc::clone(&old.connection),
            _ => Arc::new(connection),
        };
        let seen = old.map_or_else(
            || {
                self.seen += 1;
                self.seen
            },
            |old| old.seen,
        );
        let record = Record {
            connection,
            seen,
            down,
            unconfirmed: None,
        };
        self.revision += u64::from(before.as_ref() != Some(&record));
        for holder in holders(&record.connection) {
            self.closed.remove(&holder);
        }
        if let Some(known) = self.endpoints.get_mut(endpoint) {
            known.records.insert(id, record);
        }
    }

    /// Forgets what a connection of `client` replaces: the same connection of the manager at another endpoint, and
    /// connections of the client that their managers do not list any more.
    fn supersede(&mut self, endpoint: &str, id: &str, manager: &Manager, client: &Client, now: Instant) {
        let mut gone = Vec::new();
        for (name, other) in &mut self.endpoints {
            let moved = (**name != *endpoint && other.manager == *manager)
                .then(|| other.records.remove(id))
                .flatten();
            gone.extend(moved);
            let replaced = other.records.extract_if(.., |_, record| {
                record.unconfirmed.is_some() && record.connection.client.is_same(client)
            });
            gone.extend(replaced.map(|(_, record)| record));
        }
        let lost = gone
            .iter()
            .flat_map(|record| holders(&record.connection))
            .collect();
        self.close(lost, now);
    }

    /// Connections of `endpoint` were closed or have expired. Unknown ids have no effect.
    pub(super) fn delete<'a>(
        &mut self,
        endpoint: &str,
        ids: impl IntoIterator<Item = &'a str>,
        now: Instant,
    ) {
        for id in ids {
            let known = self.endpoints.get_mut(endpoint);
            if let Some(record) = known.and_then(|known| known.records.remove(id)) {
                self.close(holders(&record.connection), now);
            }
        }
    }

    /// The monitor of `endpoint` ended or cannot be started. Its connections stay.
    pub(super) fn lose(&mut self, endpoint: &str, now: Instant) {
        if let Some(known) = self.endpoints.get_mut(endpoint) {
            known.stream.lose(now);
        }
    }

    fn close(&mut self, holders: Vec<Holder>, now: Instant) {
        self.revision += holders.len() as u64;
        for holder in holders {
            self.closed.insert(holder, now);
        }
    }

    /// Forgets what has not been confirmed in time.
    pub(super) fn expire(&mut self, now: Instant) {
        self.closed.retain(|_, since| now < *since + CLOSED);
        for endpoint in self.endpoints.values_mut() {
            let is_unlisted = endpoint.unlisted.is_some_and(|since| now >= since + UNCONFIRMED);
            endpoint.records.retain(|_, record| {
                let is_missing = record.unconfirmed.is_some_and(|since| now >= since + UNCONFIRMED);
                // An endpoint that has left cannot heal what is down.
                let is_orphaned = is_unlisted && record.is_long_down(now);
                !is_missing && !is_orphaned
            });
        }
        self.endpoints.retain(|_, endpoint| !endpoint.is_over(now));
    }

    /// Changes so far of what [`super::owners::Owners::resolve`] depends on, but for those of time.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// When the next thing is to be forgotten or judged anew; `None` if nothing is pending.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        let closed = self
            .closed
            .values()
            .flat_map(|since| [*since + REOPENING, *since + CLOSED]);
        let endpoints = self.endpoints.values().flat_map(|endpoint| {
            let stream = endpoint.stream.lost().map(|since| since + UNCONFIRMED);
            let unlisted = endpoint.unlisted.map(|since| since + UNCONFIRMED);
            let stream = stream.filter(|_| unlisted.is_some());
            let records = endpoint.records.values().flat_map(|record| {
                let unconfirmed = record.unconfirmed.map(|since| since + UNCONFIRMED);
                let down = record.down.map(|since| since + LONG_DOWN);
                unconfirmed.into_iter().chain(down)
            });
            records.chain(stream).chain(unlisted)
        });
        closed.chain(endpoints).filter(|at| *at > now).min()
    }

    /// The endpoints to monitor, with the manager of each.
    pub(super) fn monitored(&self) -> impl Iterator<Item = (&Arc<str>, &Manager)> {
        self.endpoints
            .iter()
            .map(|(name, endpoint)| (name, &endpoint.manager))
    }

    /// Whether the lists of the registry and the managers suffice for a first set: an endpoint whose manager does not
    /// answer does not hold up the others.
    pub(super) fn is_complete(&self) -> bool {
        let streams = || self.endpoints.values().map(|endpoint| endpoint.stream);
        let is_known = |stream| matches!(stream, Stream::Live | Stream::Lost(_));
        let is_settled = |stream| is_known(stream) || matches!(stream, Stream::Failing(_));
        self.is_listed && streams().all(is_settled) && (self.endpoints.is_empty() || streams().any(is_known))
    }

    /// The endpoints, for display.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Known<'_>> {
        self.endpoints.iter().map(|(name, endpoint)| Known {
            name,
            manager: &endpoint.manager,
            stream: endpoint.stream,
            is_listed: endpoint.unlisted.is_none(),
            connections: endpoint.records.len() as u64,
        })
    }

    /// Whether an endpoint is called `name`.
    pub(super) fn has_endpoint(&self, name: &str) -> bool {
        self.endpoints.contains_key(name)
    }

    /// All connections that are known.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.endpoints
            .values()
            .flat_map(|endpoint| endpoint.records.values())
    }

    /// Clients at addresses that they gave up for good: they had time to request them again.
    pub(super) fn closed(&self, now: Instant) -> impl Iterator<Item = &Holder> {
        let over = self
            .closed
            .iter()
            .filter(move |(_, since)| now >= **since + REOPENING);
        over.map(|(holder, _)| holder)
    }
}

impl Endpoint {
    /// Whether it has left the registry and nothing confirms its connections.
    fn is_over(&self, now: Instant) -> bool {
        let is_past = |since: Instant| now >= since + UNCONFIRMED;
        let is_unlisted = self.unlisted.is_some_and(is_past);
        let is_silent = match self.stream {
            // It still serves: its registration is missing for another reason.
            Stream::Live => self.records.is_empty(),
            Stream::Lost(since) => is_past(since),
            Stream::Starting | Stream::Failing(_) => true,
        };
        is_unlisted && is_silent
    }
}

impl Stream {
    /// It ended, or an attempt to open it failed.
    const fn lose(&mut self, now: Instant) {
        *self = match *self {
            Self::Starting => Self::Failing(now),
            Self::Live => Self::Lost(now),
            Self::Failing(since) => Self::Failing(since),
            Self::Lost(since) => Self::Lost(since),
        };
    }

    const fn lost(self) -> Option<Instant> {
        match self {
            Self::Lost(since) | Self::Failing(since) => Some(since),
            Self::Starting | Self::Live => None,
        }
    }
}

/// The client of `connection` at each of its addresses.
pub(super) fn holders(connection: &Connection) -> Vec<Holder> {
    let Client { name, id, .. } = &connection.client;
    let addresses = connection.addresses.iter();
    addresses
        .map(|address| (Arc::clone(name), Arc::clone(id), *address))
        .collect()
}
