//! The vL3 network of a test: pods with an interface `nsm-1` each, joined by what plays the vL3 NSE.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::attachment::{Attachment, Link};
use crate::netns::Netns;
use crate::switch::{Switch, SwitchPort};
use crate::tun;

/// The name of the vL3 interface in each pod.
pub const INTERFACE: &str = "nsm-1";

const GATEWAY: u8 = 1;
const FIRST_CLIENT: u8 = 10;
const FIRST_SERVER: u8 = 20;
const BALANCER: u8 = 103;

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address of the host with this number.
    fn address(self, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(172, 16, 1, host).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The balancer's address.
    pub fn balancer(self) -> IpAddr {
        self.address(BALANCER)
    }

    /// The router's address. There is none where a switch joins TUN devices.
    pub fn gateway(self) -> IpAddr {
        self.address(GATEWAY)
    }

    /// The address of the client with this index.
    pub fn client(self, index: u8) -> IpAddr {
        self.address(FIRST_CLIENT + index)
    }

    /// The address of the server with this index.
    pub fn server(self, index: u8) -> IpAddr {
        self.address(FIRST_SERVER + index)
    }
}

/// How the pods of veth links reach each other. TUN devices are always joined by a switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All on one Ethernet segment, a bridge: the next hop is the peer itself.
    Bridged,
    /// Each behind its own router port with host routes, as from an NSM vL3 NSE: the next hop is the router.
    Routed,
}

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub link: Link,
    pub layout: Layout,
    pub mtu: u16,
    pub clients: u8,
    pub servers: u8,
}

impl Shape {
    /// One client and three servers on one segment.
    pub const fn of(attachment: &Attachment) -> Self {
        Self {
            link: attachment.link,
            layout: Layout::Bridged,
            mtu: attachment.mtu,
            clients: 1,
            servers: 3,
        }
    }
}

/// A pod.
#[derive(Debug)]
pub struct Host {
    pub netns: Netns,
    /// The last part of its addresses.
    number: u8,
    /// The router's interface that leads to it.
    pub router_port: String,
}

impl Host {
    /// Its address of `family`.
    pub fn address(&self, family: Family) -> IpAddr {
        family.address(self.number)
    }
}

/// A vL3 network. Dropping it removes everything.
#[derive(Debug)]
pub struct Topology {
    // Stopped before the namespaces go.
    switch: Option<Switch>,
    pub clients: Vec<Host>,
    pub servers: Vec<Host>,
    pub balancer: Host,
    /// Where the veth pairs of the pods end.
    pub router: Option<Netns>,
}

impl Topology {
    /// Builds the network; all of it is up when this returns.
    pub fn build(shape: &Shape) -> Self {
        let host = |label: String, number: u8| Host {
            netns: Netns::new(&label),
            number,
            router_port: format!("to-{label}"),
        };
        let mut topology = Self {
            switch: None,
            clients: (0..shape.clients)
                .map(|i| host(format!("client{i}"), FIRST_CLIENT + i))
                .collect(),
            servers: (0..shape.servers)
                .map(|i| host(format!("server{i}"), FIRST_SERVER + i))
                .collect(),
            balancer: host("balancer".to_owned(), BALANCER),
            router: None,
        };
        match shape.link {
            Link::Tun { offloads } => topology.switch = Some(topology.switched(shape.mtu, offloads)),
            Link::Veth { queues } => topology.router = Some(topology.routed(shape, queues)),
        }
        topology
    }

    /// Where the balancer's veth pair ends. Panics on TUN links.
    pub fn router(&self) -> &Netns {
        self.router.as_ref().expect("a veth topology has a router")
    }

    /// Where the TUN devices of the pods end. Panics on veth links.
    pub fn switch(&self) -> &Switch {
        self.switch.as_ref().expect("a TUN topology has a switch")
    }

    fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.clients.iter().chain(&self.servers).chain([&self.balancer])
    }

    fn switched(&self, mtu: u16, offloads: bool) -> Switch {
        let ports = self.hosts().map(|host| {
            let device = tun::create(&host.netns, INTERFACE, offloads);
            let [v4, v6] = Family::BOTH.map(|family| host.address(family));
            host.netns.ip(&format!(
                "link set {INTERFACE} mtu {mtu} up
                 addr add {v4}/32 dev {INTERFACE}
                 addr add {v6}/128 dev {INTERFACE} nodad
                 route add 172.16.1.0/24 dev {INTERFACE}
                 route add 2001:db8::/64 dev {INTERFACE}"
            ));
            SwitchPort {
                device,
                addresses: vec![v4, v6],
            }
        });
        Switch::start(ports.collect(), offloads)
    }

    fn routed(&self, shape: &Shape, queues: u8) -> Netns {
        let router = Netns::new("router");
        let bridged = shape.layout == Layout::Bridged;
        let [v4, v6] = Family::BOTH.map(Family::gateway);
        if bridged {
            router.ip(&format!(
                "link add bridge mtu {mtu} type bridge stp_state 0 forward_delay 0
                 link set bridge up
                 addr add {v4}/24 dev bridge
                 addr add {v6}/64 dev bridge nodad",
                mtu = shape.mtu
            ));
        } else {
            router.sysctl("net/ipv4/ip_forward", "1");
            router.sysctl("net/ipv6/conf/all/forwarding", "1");
        }
        let mut lines = String::new();
        for host in self.hosts() {
            let (port, mtu, name) = (&host.router_port, shape.mtu, host.netns.name());
            // A second queue at the other hosts would spoil the spread at the balancer: a packet from
            // queue 1 counts as received on queue 0 by the next device (skb_tx_hash in the kernel).
            let queues = if host.number == BALANCER { queues } else { 1 };
            let queues = format!("numrxqueues {queues} numtxqueues {queues}");
            write!(
                lines,
                "link add {port} mtu {mtu} {queues} type veth peer {INTERFACE} mtu {mtu} {queues} netns {name}\n\
                 link set {port} up\n"
            )
            .expect("writing to a string");
            let [host4, host6] = Family::BOTH.map(|family| host.address(family));
            let more = if bridged {
                format!("link set {port} master bridge\n")
            } else {
                format!(
                    "addr add {v4}/32 dev {port}\naddr add {v6}/128 dev {port} nodad\n\
                     route add {host4}/32 dev {port}\nroute add {host6}/128 dev {port}\n"
                )
            };
            lines.push_str(&more);
        }
        router.ip(&lines);
        for host in self.hosts() {
            let [host4, host6] = Family::BOTH.map(|family| host.address(family));
            let lines = if bridged {
                format!(
                    "link set {INTERFACE} up
                     addr add {host4}/24 dev {INTERFACE}
                     addr add {host6}/64 dev {INTERFACE} nodad"
                )
            } else {
                format!(
                    "link set {INTERFACE} up
                     addr add {host4}/32 dev {INTERFACE}
                     addr add {host6}/128 dev {INTERFACE} nodad
                     route add {v4} dev {INTERFACE} scope link
                     route add default via {v4} dev {INTERFACE}
                     route add {v6} dev {INTERFACE}
                     route add default via {v6} dev {INTERFACE}"
                )
            };
            host.netns.ip(&lines);
        }
        router
    }
}
