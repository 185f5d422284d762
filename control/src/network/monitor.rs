//! The netlink monitor: notifications trigger dumps, and dumps are the truth.

use std::collections::{HashSet, VecDeque};
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, error, warn};
use vl3lb_common::Duration;
use vl3lb_common::next_hop::Link;

use super::announcement;
use super::change;
use super::dump::dump;
use super::message;
use super::query;
use super::resolution::Resolution;
use super::tables::Tables;
use super::view::NetworkView;
use crate::observe::events::Events;

/// Interval of complete dumps, in addition to notifications.
const RESYNC: Duration = Duration::from_secs(30);
/// A dump that takes longer has lost its last message.
const DUMP_LIMIT: Duration = Duration::from_secs(5);
/// Announcements of an address (RFC 5227 and RFC 4861 send up to three), as the first may be lost while a link comes up.
const ANNOUNCEMENTS: u32 = 3;
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
const RECONNECT: Duration = Duration::from_secs(1);
/// Bytes of the notification socket: a few thousand messages.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// Requests for neighbours that may wait.
const REQUESTS: usize = 1024;
/// Destinations that the kernel is asked for in a row, before other work.
const QUESTIONS: usize = 256;

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// The newest view; `None` before the first complete one.
pub type NetworkReceiver = watch::Receiver<Option<Arc<NetworkView>>>;

/// Requests neighbours from the [`Monitor`].
#[derive(Debug, Clone)]
pub struct Resolver {
    backends: Arc<watch::Sender<HashSet<IpAddr>>>,
    requests: mpsc::Sender<IpAddr>,
    published: Arc<watch::Sender<Option<Link>>>,
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

    /// A snapshot for `link` is in force: packets for its MAC address reach the workers.
    pub fn published(&self, link: Link) {
        self.published
            .send_if_modified(|last| last.replace(link) != Some(link));
    }

    /// Resolves a neighbour that a packet needs. Dropped if too many wait; the next packet requests it again.
    pub fn resolve(&self, neighbor: IpAddr) {
        if self.requests.try_send(neighbor).is_err() {
            debug!("too many unresolved neighbours: {neighbor} waits");
        }
    }
}

/// Observes one interface for as long as it runs.
#[derive(Debug)]
pub struct Monitor {
    interface: String,
    tables: Tables,
    resolution: Resolution,
    view: watch::Sender<Option<Arc<NetworkView>>>,
    events: Arc<Events>,
    backends: watch::Receiver<HashSet<IpAddr>>,
    requests: mpsc::Receiver<IpAddr>,
    /// Destinations whose route the kernel has not been asked for since its routing changed.
    unverified: VecDeque<IpAddr>,
    /// Index of the interface that the data plane is attached to.
    attached: Option<watch::Receiver<Option<u32>>>,
    /// The link of the snapshot in force; `None` before the first.
    published: watch::Receiver<Option<Link>>,
    /// When the addresses are announced next, and how often from then on.
    announcement: Option<(Instant, u32)>,
}

impl Monitor {
    /// A monitor of `interface`, by name, so that it is found again when it comes back with
    /// another index. The balancer's addresses are `addresses`, or the interface's own if there are none. Changes of
    /// the interface are emitted to `events`.
    pub fn new(
        interface: String,
        addresses: Vec<IpAddr>,
        events: Arc<Events>,
    ) -> (Self, NetworkReceiver, Resolver) {
        let (view, view_receiver) = watch::channel(None);
        let (backends, backends_receiver) = watch::channel(HashSet::new());
        let (requests, requests_receiver) = mpsc::channel(REQUESTS);
        let (published, published_receiver) = watch::channel(None);
        let monitor = Self {
            tables: Tables::new(addresses, &interface),
            interface,
            resolution: Resolution::default(),
            view,
            events,
            backends: backends_receiver,
            requests: requests_receiver,
            unverified: VecDeque::new(),
            attached: None,
            published: published_receiver,
            announcement: None,
        };
        let resolver = Resolver {
            backends: Arc::new(backends),
            requests,
            published: Arc::new(published),
        };
        (monitor, view_receiver, resolver)
    }

    /// Leaves the link silent until the data plane is attached to it and has a snapshot for it: neighbours that learn
    /// the interface's MAC address before would send packets of flows to the kernel, which resets them.
    #[must_use]
    pub fn with_attachment(self, attached: watch::Receiver<Option<u32>>) -> Self {
        Self {
            attached: Some(attached),
            ..self
        }
    }

    /// Observes the interface in the network namespace of the calling thread. Ends when every
    /// [`Resolver`] is dropped; errors are logged and retried.
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

    /// One pair of netlink sockets: one for notifications, which may overflow, one for requests.
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
            let next_probe = self.resolution.next().filter(|_| self.is_served());
            let next_announcement = self
                .announcement
                .map(|(time, _)| time)
                .filter(|_| self.is_served());
            let next_question = (!self.unverified.is_empty()).then(Instant::now);
            let next = next_probe
                .into_iter()
                .chain(next_announcement)
                .chain(next_question)
                .min();
            tokio::select! {
                notification = notifications.next() => {
                    if self.receive(notification, &mut notifications)? {
                        self.dump(&handle).await?;
                    }
                    self.verify(&handle).await;
                    self.publish();
                }
                // The first tick is at once: the first dump.
                _ = resync.tick() => {
                    self.dump(&handle).await?;
                    self.verify(&handle).await;
                    self.publish();
                }
                changed = self.backends.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.question_backends();
                    self.verify(&handle).await;
                    self.publish();
                    self.keep_backends();
                }
                Some(neighbor) = self.requests.recv() => {
                    // A client on the link, or a gateway: a sample of what packets go to.
                    self.question(neighbor);
                    self.resolution.need(neighbor, Instant::now());
                }
                () = changed(&mut self.attached) => self.appear(),
                Ok(()) = self.published.changed() => {}
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if self.verify(&handle).await {
                        self.publish();
                    }
                }
            }
            self.announce();
            self.probe(&handle).await;
        }
    }

    /// Takes all waiting notifications. True if a dump is needed.
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
                warn!("netlink notifications were lost; starting a new dump");
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
            RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => true,
            // A route that moves to another interface matters too.
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => true,
            _ => false,
        }
    }

    /// Dumps link, addresses, routes and neighbours of the interface.
    async fn dump(&mut self, handle: &Handle) -> io::Result<()> {
        let dump = timeout(DUMP_LIMIT, dump(handle, &self.interface))
            .await
            .map_err(|_| io::Error::other("no complete answer in time"))?
            .map_err(io::Error::other)?;
        self.tables.replace(dump);
        self.question_backends();
        Ok(())
    }

    /// Has the kernel asked for the routes to all backends that it has not been asked for.
    fn question_backends(&mut self) {
        let backends = self.backends.borrow().clone();
        self.unverified.clear();
        for backend in backends {
            self.question(backend);
        }
    }

    fn question(&mut self, destination: IpAddr) {
        if self.tables.question(destination).is_some() {
            self.unverified.push_back(destination);
        }
    }

    /// Asks the kernel for some routes. Whether it was asked. Only what it answers otherwise than its tables say changes
    /// the view.
    async fn verify(&mut self, handle: &Handle) -> bool {
        let Some(index) = self.tables.index() else {
            self.unverified.clear();
            return false;
        };
        let count = self.unverified.len().min(QUESTIONS);
        for destination in self.unverified.drain(..count).collect::<Vec<_>>() {
            let Some(own) = self.tables.question(destination) else {
                continue;
            };
            let question = query::route(handle, destination, own, index);
            match timeout(DUMP_LIMIT, question).await {
                Ok(Ok(answer)) => self.tables.answer(destination, answer),
                Ok(Err(error)) => debug!("ask the kernel for the route to {destination}: {error}"),
                Err(_) => debug!("ask the kernel for the route to {destination}: no answer"),
            }
        }
        count > 0
    }

    /// Publishes the view if it changed, with events.
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
        if can_probe && (is_new || has_new_address) {
            self.appear();
        }
        self.keep_backends();
    }

    /// Announces the addresses and probes all neighbours, as the interface or an address of it is new.
    fn appear(&mut self) {
        let now = Instant::now();
        self.announcement = Some((now, ANNOUNCEMENTS));
        for neighbor in self.tables.take_former_neighbors() {
            self.resolution.need(neighbor, now);
        }
        self.resolution.restart(now);
    }

    /// Whether the data plane takes the packets for this interface and its MAC address.
    fn is_served(&self) -> bool {
        let index = self.tables.index();
        let is_attached = |attached: &watch::Receiver<Option<u32>>| *attached.borrow() == index;
        let link = self.view.borrow().as_ref().map(|view| view.next_hops.link);
        let published = *self.published.borrow();
        self.attached.as_ref().is_none_or(is_attached) && (published.is_none() || published == link)
    }

    /// Announces the addresses if that is due.
    fn announce(&mut self) {
        let now = Instant::now();
        let Some((time, left)) = self.announcement else {
            return;
        };
        if time > now || !self.is_served() {
            return;
        }
        self.announcement = (left > 1).then_some((now + ANNOUNCE_INTERVAL, left - 1));
        let view = self.view.borrow().clone();
        let Some(view) = view.filter(|view| view.is_up()) else {
            return;
        };
        let (Some(index), Link::Ethernet(mac)) = (view.index, view.next_hops.link) else {
            return;
        };
        for &own in &view.addresses {
            if let Err(error) = announcement::announce(index, own, mac) {
                debug!("announce {own} on {}: {error}", self.interface);
            }
        }
    }

    /// Updates the next hops of all backends after a change of routes or backends.
    fn keep_backends(&mut self) {
        let backends = self.backends.borrow_and_update();
        let neighbors = backends
            .iter()
            .filter_map(|&backend| self.tables.neighbor_of(backend))
            .collect();
        self.resolution.keep(&neighbors, Instant::now());
    }

    /// Makes the kernel resolve the due addresses: NTF_USE has the effect of a packet sent by the kernel.
    async fn probe(&mut self, handle: &Handle) {
        if !self.is_served() {
            return;
        }
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
                Ok(()) => debug!("requested resolution of neighbour {neighbor}"),
                Err(error) => warn!("request resolution of neighbour {neighbor}: {error}"),
            }
        }
    }
}

/// Waits for a change; for ever without a sender.
async fn changed(attached: &mut Option<watch::Receiver<Option<u32>>>) {
    if let Some(attached) = attached
        && attached.changed().await.is_ok()
    {
        return;
    }
    pending().await
}
