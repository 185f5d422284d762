//! Ports of the NAT range that programs of this host use.
//!
//! Packets to a NAT port of an own address are the balancer's, so such a program gets none.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use procfs::net::TcpState;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{Duration, Protocol, Timestamp};

/// The sockets of the host are read at most this often: it takes a millisecond for a thousand of them.
const READ: Duration = Duration::from_secs(5);
const RESERVED_PORTS: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// A use of a NAT port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LocalPort {
    /// A socket has this address and port.
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

/// The sockets of the host, as last read.
#[derive(Debug, Default)]
pub(super) struct LocalPorts {
    read: Option<Timestamp>,
    sockets: Vec<(Protocol, SocketAddr)>,
    reserved: Vec<RangeInclusive<u16>>,
}

impl LocalPorts {
    /// Ports of `nat_ports` in use at `addresses`, ascending. Reads the host's sockets if that was some seconds ago.
    pub(super) fn within(
        &mut self,
        nat_ports: NatPorts,
        addresses: &[IpAddr],
        now: Timestamp,
    ) -> Vec<LocalPort> {
        if self.read.is_none_or(|read| now.since(read) >= READ) {
            self.read = Some(now);
            self.sockets = read_sockets();
            let reserved = std::fs::read_to_string(RESERVED_PORTS).unwrap_or_default();
            self.reserved = parse_reserved(&reserved);
        }
        within(&self.sockets, &self.reserved, nat_ports, addresses)
    }
}

fn within(
    sockets: &[(Protocol, SocketAddr)],
    reserved: &[RangeInclusive<u16>],
    nat_ports: NatPorts,
    addresses: &[IpAddr],
) -> Vec<LocalPort> {
    let is_own = |address: IpAddr| address.is_unspecified() || addresses.contains(&address);
    let used = sockets
        .iter()
        .filter(|(_, local)| nat_ports.contains(local.port()) && is_own(local.ip().to_canonical()))
        .map(|&(protocol, local)| LocalPort::Socket(protocol, local));
    let reserved = reserved.iter().filter_map(|range| {
        let first = nat_ports.first().max(*range.start());
        let last = nat_ports.last().min(*range.end());
        (first <= last).then_some(LocalPort::Reserved(first, last))
    });
    used.chain(reserved)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// The local addresses of all TCP and UDP sockets of this network namespace; none of those that cannot be read.
/// Connections that are over (TIME-WAIT) count as long as the kernel knows them.
fn read_sockets() -> Vec<(Protocol, SocketAddr)> {
    let tcp = [procfs::net::tcp(), procfs::net::tcp6()];
    let tcp = tcp
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.state != TcpState::TimeWait)
        .map(|entry| (Protocol::Tcp, entry.local_address));
    let udp = [procfs::net::udp(), procfs::net::udp6()];
    let udp = udp
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| (Protocol::Udp, entry.local_address));
    tcp.chain(udp).collect()
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
mod tests {
    use super::*;

    #[test]
    fn ports_of_the_range_at_own_addresses_are_found() {
        let own: IpAddr = "172.16.1.103".parse().unwrap();
        let sockets = [
            (Protocol::Tcp, "172.16.1.103:15020"),
            (Protocol::Tcp, "0.0.0.0:20000"),
            (Protocol::Udp, "[::]:20000"),
            (Protocol::Tcp, "[::ffff:172.16.1.103]:15333"),
            // Out of the range, or at other addresses.
            (Protocol::Tcp, "172.16.1.103:10239"),
            (Protocol::Tcp, "127.0.0.1:15020"),
            (Protocol::Udp, "10.0.0.1:15020"),
        ]
        .map(|(protocol, address)| (protocol, address.parse::<SocketAddr>().unwrap()));
        let reserved = parse_reserved("8080,10000-10300,32767,40000-50000\n");
        let ports = NatPorts::new(10_240, 32_767).unwrap();
        let shown: BTreeSet<String> = within(&sockets, &reserved, ports, &[own])
            .iter()
            .map(LocalPort::to_string)
            .collect();
        let want = [
            "TCP 172.16.1.103:15020",
            "TCP 0.0.0.0:20000",
            "UDP [::]:20000",
            "TCP [::ffff:172.16.1.103]:15333",
            "reserved ports 10240-10300",
            "reserved port 32767",
        ];
        assert_eq!(shown, want.map(str::to_owned).into());
        assert_eq!(within(&[], &parse_reserved("\n"), ports, &[own]), []);
    }

    #[test]
    fn a_listener_of_this_process_is_read_at_most_every_few_seconds() {
        let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let first = listen();
        let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
        let mut ports = LocalPorts::default();
        let mut sees = |listener: &std::net::TcpListener, seconds: u64| {
            let range = NatPorts::new(port(listener), port(listener)).unwrap();
            let now = Timestamp(seconds * 1_000_000_000);
            let found = ports.within(range, &["127.0.0.1".parse().unwrap()], now);
            found.contains(&LocalPort::Socket(Protocol::Tcp, listener.local_addr().unwrap()))
        };
        assert!(sees(&first, 100));
        let second = listen();
        assert!(!sees(&second, 104));
        assert!(sees(&second, 105));
    }
}
