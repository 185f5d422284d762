//! Ports that are this host's and not flows': of its programs, reserved ones, and the kernel's ephemeral ports.
//!
//! The kernel has no notification about sockets that are opened, so they are read once a second, or less often where that is
//! costly. What is found is left out of the NAT ports, and packets to it go to the kernel.

mod sctp;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tracing::{error, warn};
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Duration, PortSet, Protocol};

use crate::config::local_port_range;
use crate::network::NetworkReceiver;
use sockets::Socket;

/// The sockets of the host are read this often.
const READ: Duration = Duration::from_secs(1);
/// Two reads are also this many times the last one's CPU time apart, so that they spend 0.2% of a CPU, but not further apart
/// than [`LONGEST_READ`]. The kernel walks its whole table of connections, however few there are, which takes 6 ms
/// where there are 24 GB of memory.
const REST: u32 = 500;
/// A SYN is repeated for the second time after 3 s.
const LONGEST_READ: Duration = Duration::from_millis(2_500);
/// Two reads are at least this many times the last one's CPU time apart: hosts with very many sockets spend 2% of a CPU.
const LEAST_REST: u32 = 50;
/// A port stays the kernel's for so long after its last socket: for as long as TIME-WAIT, and so that a program that opens
/// and closes sockets does not change the NAT ports all the time.
const HOLD: Duration = Duration::from_secs(60);
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// Uses that are logged one by one.
const LOGGED: usize = 10;

/// A use of a port in the range of NAT ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LocalPort {
    /// A socket of a program other than the balancer has this address and port.
    Socket(Protocol, SocketAddr),
    /// The administrator reserved these ports for a program (`net.ipv4.ip_local_reserved_ports`).
    Reserved(u16, u16),
}

impl fmt::Display for LocalPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(protocol, address) => write!(f, "{protocol} {address}"),
            Self::Reserved(first, last) if first == last => write!(f, "reserved port {first}"),
            Self::Reserved(first, last) => write!(f, "reserved ports {first}-{last}"),
        }
    }
}

/// The ports of the range of NAT ports that are this host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalPorts {
    /// All of them. The same set while nothing changes.
    pub(crate) kernel: Arc<PortSet>,
    /// Those to warn of: not the balancer's own and not ephemeral ones. Ascending.
    pub(crate) uses: Vec<LocalPort>,
}

/// The newest ports.
pub type LocalPortsReceiver = watch::Receiver<Arc<LocalPorts>>;

/// What the host says.
#[derive(Debug, Default)]
struct Host {
    sockets: Vec<Socket>,
    reserved: Vec<RangeInclusive<u16>>,
    ephemeral: Option<RangeInclusive<u16>>,
}

impl Host {
    fn read() -> Self {
        let reserved = std::fs::read_to_string(RESERVED_PORTS).unwrap_or_default();
        Self {
            sockets: sockets::read(),
            reserved: parse_reserved(&reserved),
            ephemeral: local_port_range().ok(),
        }
    }
}

/// What the host says, and the CPU time that asking takes: in elapsed time, a host that is busy for a moment would be read
/// much later the next time.
fn timed_read() -> (Host, Duration) {
    let begin = thread_time();
    let host = Host::read();
    (host, thread_time().saturating_sub(begin))
}

/// CPU time of this thread since its begin.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Time until the next read after one that spent so much CPU time.
fn pause(spent: Duration) -> Duration {
    READ.max((spent * REST).min(LONGEST_READ)).max(spent * LEAST_REST)
}

/// Reads the host's sockets for as long as it runs.
#[derive(Debug)]
pub(crate) struct Watcher {
    network: NetworkReceiver,
    ports: Ports,
    newest: watch::Sender<Arc<LocalPorts>>,
}

impl Watcher {
    /// A watcher of the ports of `nat_ports` at the own addresses of `network`. Reads them once, so that the first snapshot
    /// leaves them out: listeners that were opened before are seen.
    pub(crate) async fn new(nat_ports: NatPorts, network: NetworkReceiver) -> (Self, LocalPortsReceiver) {
        let (newest, receiver) = watch::channel(Arc::default());
        let mut watcher = Self {
            network,
            ports: Ports::new(nat_ports),
            newest,
        };
        watcher.read().await;
        (watcher, receiver)
    }

    /// Reads the ports once a second or less often where that is costly, and when the own addresses change.
    pub(crate) async fn run(mut self) {
        loop {
            let spent = self.read().await;
            tokio::select! {
                () = sleep(pause(spent)) => {}
                changed = self.network.changed() => {
                    if changed.is_err() { return; }
                }
            }
        }
    }

    /// Returns the CPU time that it took.
    async fn read(&mut self) -> Duration {
        let (host, spent) = match spawn_blocking(timed_read).await {
            Ok(read) => read,
            Err(cause) => {
                error!("read the sockets of this host: {cause}");
                return Duration::ZERO;
            }
        };
        self.publish(&host);
        spent
    }

    fn publish(&mut self, host: &Host) {
        let network = self.network.borrow_and_update().clone();
        let own = network.as_ref().map(|network| &network.addresses[..]);
        let before = Arc::clone(&self.newest.borrow());
        let now = self.ports.update(host, own, &before, Instant::now());
        if now == *before {
            return;
        }
        let is_new = |port: &&LocalPort| !before.uses.contains(port);
        let new: Vec<String> = now.uses.iter().filter(is_new).map(ToString::to_string).collect();
        if !new.is_empty() {
            let more = if new.len() > LOGGED { " and others" } else { "" };
            let shown = new[..new.len().min(LOGGED)].join(", ");
            warn!("natPorts leaves out ports of programs on this host: {shown}{more}");
        }
        self.newest.send_replace(Arc::new(now));
    }
}

/// Which ports are the kernel's. Pure.
#[derive(Debug)]
struct Ports {
    nat_ports: NatPorts,
    /// Ports of sockets, and when one was seen last.
    held: BTreeMap<u16, Instant>,
}

impl Ports {
    const fn new(nat_ports: NatPorts) -> Self {
        Self {
            nat_ports,
            held: BTreeMap::new(),
        }
    }

    /// The ports by what the host says `now`. `own` are the balancer's addresses; while they are not known, sockets at any
    /// address count.
    fn update(
        &mut self,
        host: &Host,
        own: Option<&[IpAddr]>,
        before: &LocalPorts,
        now: Instant,
    ) -> LocalPorts {
        let is_own = |address: IpAddr| {
            address.is_unspecified()
                || own.map_or_else(|| !address.is_loopback(), |own| own.contains(&address))
        };
        let used: Vec<&Socket> = host
            .sockets
            .iter()
            .filter(|socket| {
                self.nat_ports.contains(socket.local.port()) && is_own(socket.local.ip().to_canonical())
            })
            .collect();
        self.held
            .extend(used.iter().map(|socket| (socket.local.port(), now)));
        self.held.retain(|_, seen| now.duration_since(*seen) < HOLD);

        let mut kernel = PortSet::default();
        for &port in self.held.keys() {
            kernel.insert(port);
        }
        let reserved: Vec<_> = host
            .reserved
            .iter()
            .filter_map(|range| self.within(range))
            .collect();
        let ephemeral = host.ephemeral.as_ref().and_then(|range| self.within(range));
        for (first, last) in reserved.iter().copied().chain(ephemeral) {
            kernel.insert_range(first..=last);
        }
        // Connections that a listener of the balancer has accepted, or that are not accepted yet, are the balancer's too.
        let balancers: HashSet<(Protocol, u16)> = used
            .iter()
            .filter(|socket| socket.is_balancers)
            .map(|socket| (socket.protocol, socket.local.port()))
            .collect();
        let is_ephemeral = |port| ephemeral.is_some_and(|(first, last)| (first..=last).contains(&port));
        let others = used
            .iter()
            .filter(|socket| {
                !balancers.contains(&(socket.protocol, socket.local.port()))
                    && !is_ephemeral(socket.local.port())
            })
            .map(|socket| LocalPort::Socket(socket.protocol, socket.local));
        let reserved = reserved
            .iter()
            .map(|&(first, last)| LocalPort::Reserved(first, last));
        let uses: BTreeSet<LocalPort> = others.chain(reserved).collect();
        LocalPorts {
            kernel: if kernel == *before.kernel {
                Arc::clone(&before.kernel)
            } else {
                Arc::new(kernel)
            },
            uses: uses.into_iter().collect(),
        }
    }

    /// The part of `range` that is in the range of NAT ports.
    fn within(&self, range: &RangeInclusive<u16>) -> Option<(u16, u16)> {
        let first = self.nat_ports.first().max(*range.start());
        let last = self.nat_ports.last().min(*range.end());
        (first <= last).then_some((first, last))
    }
}

/// Reads `8080,9000-9010`.
fn parse_reserved(text: &str) -> Vec<RangeInclusive<u16>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.trim().split(',').filter_map(range).collect()
}

#[cfg(test)]
mod tests;
