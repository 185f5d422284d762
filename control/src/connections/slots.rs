//! The table of connections: admits new ones and closes idle ones at the limits.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};
use tokio::sync::oneshot;

/// A server may use one in this number of the process's descriptors.
const SHARE: u64 = 8;
/// Bounds of the connections of a server.
const FEWEST: usize = 16;
const MOST: usize = 512;
/// One source may use one in this number of a server's connections.
const SOURCE_SHARE: usize = 4;

/// The maximum number of connections of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub total: usize,
    pub per_source: usize,
}

impl Limits {
    /// The limits of one server, from RLIMIT_NOFILE of this process.
    pub fn of_process() -> Self {
        // `None`: unlimited.
        Self::of_descriptors(getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX))
    }

    fn of_descriptors(descriptors: u64) -> Self {
        let total = usize::try_from(descriptors / SHARE)
            .unwrap_or(MOST)
            .clamp(FEWEST, MOST);
        Self {
            total,
            per_source: total / SOURCE_SHARE,
        }
    }

    /// Removes the limit per source.
    #[must_use]
    pub const fn for_one_source(self) -> Self {
        Self {
            per_source: self.total,
            ..self
        }
    }
}

/// Where connections come from, for the limit of one source: an IPv4 address, the /64 network of an IPv6
/// address, or the local machine (a Unix socket).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Local,
    Network(IpAddr),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The connections of one server. Clones share them.
#[derive(Debug, Clone)]
pub struct Slots {
    limits: Limits,
    table: Arc<Mutex<Table>>,
}

#[derive(Debug, Default)]
struct Table {
    connections: HashMap<u64, Connection>,
    /// Counts admissions, starts and ends of requests: orders connections by their last activity.
    clock: u64,
}

#[derive(Debug)]
struct Connection {
    source: Source,
    /// Requests in progress.
    requests: usize,
    last_activity: u64,
    /// Closes it.
    close: oneshot::Sender<()>,
}

impl Slots {
    /// An empty table for at most `limits.total` connections.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            table: Arc::default(),
        }
    }

    /// Admits a connection from `source`. At a limit another one is closed: of the same source if that
    /// has its share, else of the source with the most connections; the one that has been idle longest,
    /// or, if none is idle, the one whose request is oldest.
    ///
    /// Cost: O(connections) at a limit and for counting those of the source.
    pub fn admit(&self, source: Source) -> Slot {
        let mut table = self.table();
        if table.count(source) >= self.limits.per_source {
            table.close_one_of(source);
        } else if table.connections.len() >= self.limits.total {
            table.close_one();
        }
        let (close, closed) = oneshot::channel();
        let id = table.tick();
        table.connections.insert(
            id,
            Connection {
                source,
                requests: 0,
                last_activity: id,
                close,
            },
        );
        Slot {
            id,
            table: Arc::clone(&self.table),
            closed,
        }
    }

    /// Closes one connection, as if the limit were reached. False if there is none.
    pub fn close_one(&self) -> bool {
        self.table().close_one()
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.table().connections.len()
    }

    /// Whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        lock(&self.table)
    }
}

/// Consistent after every step, so a panic elsewhere does not spoil it.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Table {
    const fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn count(&self, source: Source) -> usize {
        self.connections
            .values()
            .filter(|connection| connection.source == source)
            .count()
    }

    fn close_one(&mut self) -> bool {
        let mut counts: HashMap<Source, usize> = HashMap::new();
        for connection in self.connections.values() {
            *counts.entry(connection.source).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        self.close_where(|connection| counts.get(&connection.source) == Some(&most))
    }

    fn close_one_of(&mut self, source: Source) -> bool {
        self.close_where(|connection| connection.source == source)
    }

    fn close_where(&mut self, candidate: impl Fn(&Connection) -> bool) -> bool {
        let victim = self
            .connections
            .iter()
            .filter(|(_, connection)| candidate(connection))
            .min_by_key(|(_, connection)| (connection.requests > 0, connection.last_activity))
            .map(|(&id, _)| id);
        let victim = victim.and_then(|id| self.connections.remove(&id));
        // A slot that is dropped at this moment needs no message.
        victim.is_some_and(|connection| connection.close.send(()).is_ok())
    }

    fn update(&mut self, id: u64, change: impl FnOnce(&mut Connection)) {
        let now = self.tick();
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.last_activity = now;
            change(connection);
        }
    }
}

/// The entry of one connection in the table; dropping it removes the entry.
#[derive(Debug)]
pub struct Slot {
    id: u64,
    table: Arc<Mutex<Table>>,
    closed: oneshot::Receiver<()>,
}

impl Slot {
    /// The counter of this connection's requests.
    pub fn requests(&self) -> Requests {
        Requests {
            id: self.id,
            table: Arc::clone(&self.table),
        }
    }

    /// Waits until the connection is to be closed. Cancel-safe.
    pub async fn closed(&mut self) {
        // An error means that the sender is gone, which closes the connection, too.
        (&mut self.closed).await.ok();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.table).connections.remove(&self.id);
    }
}

/// Counts the requests of one connection.
#[derive(Debug, Clone)]
pub struct Requests {
    id: u64,
    table: Arc<Mutex<Table>>,
}

impl Requests {
    /// Begins a request: the connection is not idle until the value is dropped.
    pub fn begin(&self) -> Busy {
        lock(&self.table).update(self.id, |connection| connection.requests += 1);
        Busy(self.clone())
    }
}

/// A request in progress.
#[derive(Debug)]
pub struct Busy(Requests);

impl Drop for Busy {
    fn drop(&mut self) {
        let Requests { id, table } = &self.0;
        lock(table).update(*id, |connection| connection.requests -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(host: u8) -> Source {
        Source::from(IpAddr::from([172, 16, 1, host]))
    }

    fn slots(total: usize, per_source: usize) -> Slots {
        Slots::new(Limits { total, per_source })
    }

    fn is_closed(slot: &mut Slot) -> bool {
        !matches!(slot.closed.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    #[test]
    fn limits_leave_most_descriptors_to_the_balancer() {
        for (descriptors, total, per_source) in [
            (64, 16, 4),
            (1024, 128, 32),
            (20_000, 512, 128),
            (u64::MAX, 512, 128),
        ] {
            let limits = Limits::of_descriptors(descriptors);
            assert_eq!(limits, Limits { total, per_source }, "{descriptors}");
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_source() {
        let of = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:172.16.1.2"), source(2));
        assert_ne!(source(2), source(3));
    }

    #[test]
    fn at_its_share_a_source_loses_its_connection_that_is_idle_longest() {
        let slots = slots(10, 2);
        let mut first = slots.admit(source(1));
        let mut other = slots.admit(source(2));
        let mut second = slots.admit(source(1));
        drop(first.requests().begin());
        let mut third = slots.admit(source(1));
        assert!(is_closed(&mut second), "idle for longer than the first");
        assert!(!is_closed(&mut first) && !is_closed(&mut other) && !is_closed(&mut third));
        assert_eq!(slots.len(), 3);
    }

    #[test]
    fn a_full_server_closes_a_connection_of_the_source_with_the_most() {
        let slots = slots(4, 3);
        let mut probe = slots.admit(source(9));
        let mut hoard: Vec<_> = (0..3).map(|_| slots.admit(source(1))).collect();
        let mut new = slots.admit(source(2));
        assert!(is_closed(&mut hoard[0]));
        assert!(!is_closed(&mut probe) && !is_closed(&mut new));
        assert_eq!(slots.len(), 4);
    }

    #[test]
    fn a_request_in_progress_is_closed_only_if_nothing_is_idle() {
        let slots = slots(2, 2);
        let mut older = slots.admit(source(1));
        let _older_request = older.requests().begin();
        let mut newer = slots.admit(source(1));
        let newer_request = newer.requests().begin();
        let mut third = slots.admit(source(1));
        assert!(is_closed(&mut older), "all are busy");
        let third_request = third.requests().begin();
        drop(newer_request);
        let _fourth = slots.admit(source(1));
        assert!(is_closed(&mut newer), "idle now");
        assert!(!is_closed(&mut third));
        drop(third_request);
    }

    #[test]
    fn an_ended_connection_frees_its_place() {
        let slots = slots(1, 1);
        drop(slots.admit(source(1)));
        assert!(slots.is_empty());
        let mut slot = slots.admit(source(1));
        assert!(!is_closed(&mut slot));
        assert!(slots.close_one() && is_closed(&mut slot));
        assert!(!slots.close_one());
    }
}
