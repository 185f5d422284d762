//! Following the kernel: notifications tell that something changed, dumps tell what is.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, error, warn};
use vl3lb_common::Duration;

use super::change;
use super::message;
use super::resolution::Resolution;
use super::tables::{Dump, Tables};
use super::view::NetworkView;
use crate::observe::events::Events;

/// Everything is read again this often, whatever the notifications said.
const RESYNC: Duration = Duration::from_secs(30);
/// A dump that takes longer has lost its end.
const DUMP_LIMIT: Duration = Duration::from_secs(5);
const RECONNECT: Duration = Duration::from_secs(1);
/// Notifications that fit: a few thousand.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// Neighbours that packets asked for and nobody looked at yet.
const REQUESTS: usize = 1024;

const GROUPS: [MulticastGroup; 6] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// The newest view; `None` before the first complete one.
pub type NetworkReceiver = watch::Receiver<Option<Arc<NetworkView>>>;

/// Tells the [`Monitor`] which neighbours are needed.
#[derive(Debug, Clone)]
pub struct Resolver {
    backends: Arc<watch::Sender<HashSet<IpAddr>>>,
    requests: mpsc::Sender<IpAddr>,
}

impl Resolver {
    /// Resolves the next hops of all these addresses, and keeps them fresh.
    pub fn keep(&self, backends: HashSet<IpAddr>) {
        self.backends.send_if_modified(|known| {
            let changed = *known != backends;
            *known = backends;
            changed
        });
    }

    /// A packet needs this neighbour. Forgotten if there are too many at once; the next packet
    /// resolution again.
    pub fn resolve(&self, neighbor: IpAddr) {
        if self.requests.try_send(neighbor).is_err() {
            debug!("too many unresolved neighbours at once, {neighbor} has to wait");
        }
    }
}

/// Follows one interface for as long as it runs.
#[derive(Debug)]
pub struct Monitor {
    interface: String,
    tables: Tables,
    resolution: Resolution,
    view: watch::Sender<Option<Arc<NetworkView>>>,
    events: Arc<Events>,
    backends: watch::Receiver<HashSet<IpAddr>>,
    requests: mpsc::Receiver<IpAddr>,
}

impl Monitor {
    /// A monitor of `interface`, by name, so that it is found again when it comes back with
    /// another index. With `addresses` these are the balancer's, else the interface's own. What
    /// people should know of it is told to `events`.
    pub fn new(
        interface: String,
        addresses: Vec<IpAddr>,
        events: Arc<Events>,
    ) -> (Self, NetworkReceiver, Resolver) {
        let (view, view_receiver) = watch::channel(None);
        let (backends, backends_receiver) = watch::channel(HashSet::new());
        let (requests, requests_receiver) = mpsc::channel(REQUESTS);
        let monitor = Self {
            interface,
            tables: Tables::new(addresses),
            resolution: Resolution::default(),
            view,
            events,
            backends: backends_receiver,
            requests: requests_receiver,
        };
        let resolver = Resolver {
            backends: Arc::new(backends),
            requests,
        };
        (monitor, view_receiver, resolver)
    }

    /// Follows the interface of the network namespace of the calling thread. Ends when every
    /// [`Resolver`] is gone; errors are logged and retried.
    pub async fn run(mut self) {
        loop {
            match self.session().await {
                Ok(()) => return,
                Err(error) => {
                    error!("follow {} by netlink: {error}; trying again", self.interface);
                    sleep(RECONNECT).await;
                }
            }
        }
    }

    /// One pair of netlink sockets: one for notifications, which may overflow, one for questions.
    async fn session(&mut self) -> io::Result<()> {
        let mut connections = JoinSet::new();
        let (mut connection, _, mut notifications) = rtnetlink::new_multicast_connection(&GROUPS)?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        connections.spawn(connection);
        let (connection, handle, _) = rtnetlink::new_connection()?;
        connections.spawn(connection);

        let mut resync = interval(RESYNC);
        resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next_probe = self.resolution.next();
            tokio::select! {
                notification = notifications.next() => {
                    if self.receive(notification, &mut notifications)? {
                        self.dump(&handle).await?;
                    }
                    self.publish();
                }
                // The first tick is at once: the first dump.
                _ = resync.tick() => {
                    self.dump(&handle).await?;
                    self.publish();
                }
                changed = self.backends.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.keep_backends();
                }
                Some(neighbor) = self.requests.recv() => self.resolution.need(neighbor, Instant::now()),
                () = sleep_until(next_probe.unwrap_or_else(Instant::now)), if next_probe.is_some() => {}
            }
            self.probe(&handle).await;
        }
    }

    /// Takes in all notifications that are there. Whether only a dump can tell what is now.
    fn receive(
        &mut self,
        first: Option<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
        more: &mut (impl Stream<Item = (NetlinkMessage<RouteNetlinkMessage>, SocketAddr)> + Unpin),
    ) -> io::Result<bool> {
        let closed = || io::Error::other("the socket was closed");
        let mut dump = false;
        let mut notification = first.ok_or_else(closed)?;
        loop {
            dump |= self.receive_one(notification.0);
            match more.next().now_or_never() {
                Some(next) => notification = next.ok_or_else(closed)?,
                None => return Ok(dump),
            }
        }
    }

    fn receive_one(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> bool {
        let index = self.tables.index();
        let message = match message.payload {
            NetlinkPayload::InnerMessage(message) => message,
            NetlinkPayload::Overrun(_) => {
                warn!("netlink notifications were lost; reading everything again");
                return true;
            }
            _ => return false,
        };
        let neighbor = |message| message::neighbor(message, index?);
        match &message {
            RouteNetlinkMessage::NewNeighbour(new) => {
                if let Some((address, reach, mac)) = neighbor(new) {
                    self.tables.set_neighbor(address, reach, mac);
                }
                false
            }
            RouteNetlinkMessage::DelNeighbour(old) => {
                if let Some((address, ..)) = neighbor(old) {
                    self.tables.remove_neighbor(address);
                }
                false
            }
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                Some(link.header.index) == index || message::link_name(link) == Some(&self.interface)
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                Some(address.header.index) == index
            }
            // A route that now leaves elsewhere matters as much as one that leaves here.
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => true,
            _ => false,
        }
    }

    /// Reads everything about the interface.
    async fn dump(&mut self, handle: &Handle) -> io::Result<()> {
        let dump = timeout(DUMP_LIMIT, dump(handle, &self.interface))
            .await
            .map_err(|_| io::Error::other("no complete answer in time"))?
            .map_err(io::Error::other)?;
        self.tables.replace(dump);
        Ok(())
    }

    /// Sends the view if it changed, and says so if people should know.
    fn publish(&mut self) {
        let view = self.tables.view();
        let last = self.view.borrow().clone();
        if last.as_deref() == Some(view) {
            return;
        }
        let absent = NetworkView::absent();
        let last = last.as_deref().unwrap_or(&absent);
        self.events.emit_all(change::events(&self.interface, last, view));
        let is_new = view.index != last.index
            || view.next_hops.link != last.next_hops.link
            || view.is_up() && !last.is_up();
        let has_new_address = view.addresses.iter().any(|own| !last.addresses.contains(own));
        let can_probe = view.is_up() && !view.addresses.is_empty();
        self.view.send_replace(Some(Arc::new(view.clone())));
        // The requests carry the interface's MAC address and the balancer's own address: everyone who knew the
        // interface before learns from them, without waiting until its own entry fails.
        if can_probe && (is_new || has_new_address) {
            let now = Instant::now();
            for neighbor in self.tables.take_former_neighbors() {
                self.resolution.need(neighbor, now);
            }
            self.resolution.restart(now);
        }
        self.keep_backends();
    }

    /// The neighbours behind all backends, by the routes as they are now.
    fn keep_backends(&mut self) {
        let backends = self.backends.borrow_and_update();
        let neighbors = backends
            .iter()
            .filter_map(|&backend| self.tables.neighbor_of(backend))
            .collect();
        self.resolution.keep(&neighbors, Instant::now());
    }

    /// Has the kernel resolve what is due: NTF_USE does what a packet of its own would.
    async fn probe(&mut self, handle: &Handle) {
        let tables = &self.tables;
        let due = self
            .resolution
            .due(Instant::now(), |neighbor| tables.reach(neighbor));
        let Some(index) = tables.index().filter(|_| tables.has_neighbors()) else {
            return;
        };
        for neighbor in due {
            let request = handle
                .neighbours()
                .add(index, neighbor)
                .state(NeighbourState::None)
                .flags(NeighbourFlags::Use)
                .replace();
            match request.execute().await {
                Ok(()) => debug!("asked the kernel for neighbour {neighbor}"),
                Err(error) => warn!("ask the kernel for neighbour {neighbor}: {error}"),
            }
        }
    }
}

async fn dump(handle: &Handle, interface: &str) -> Result<Dump, rtnetlink::Error> {
    let mut dump = Dump::default();
    // By walking all links: asking for one that is not there would be an error like any other.
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        if message::link_name(&link) == Some(interface) {
            dump.link = Some(message::link_attributes(&link));
        }
    }
    let Some(link) = dump.link else {
        return Ok(dump);
    };
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        dump.addresses
            .extend(message::usable_address(&address, link.index));
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        let mut routes = handle.route().get(request).execute();
        while let Some(route) = routes.try_next().await? {
            dump.routes.extend(message::route(&route, link.index));
        }
    }
    let mut neighbors = handle.neighbours().get().execute();
    while let Some(neighbor) = neighbors.try_next().await? {
        dump.neighbors.extend(message::neighbor(&neighbor, link.index));
    }
    Ok(dump)
}
