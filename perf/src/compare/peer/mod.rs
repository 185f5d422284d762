//! The peers of a comparison: how each is configured and started, and which traffic it can carry.

mod haproxy;
mod nftables;
mod nginx;
mod redirect;
mod reflector;
mod testpmd;
mod unbalanced;
pub(crate) mod vl3lb;
mod vpp;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use vl3lb_testbed::process;

use crate::failure::Failure;
use crate::net::{self, INTERFACE, Network, PeerNode, Process};
use vl3lb::FastPath;

use super::cores::Cores;
use super::requirement::Requirement;
use super::services::Service;

/// A program, or a set-up of the kernel, that takes the balancer's place in the network.
pub(crate) struct Peer {
    /// As in `--peer`.
    pub(crate) name: &'static str,
    /// A description of one line.
    pub(crate) about: &'static str,
    /// The path of the tester's packets; `None` if it takes no UDP packets.
    pub(crate) packets: Option<PacketPath>,
    /// Whether TCP connections to the services end at the backends.
    pub(crate) connections: bool,
    pub(crate) requirements: Vec<Requirement>,
    /// Configures and starts it.
    pub(crate) start: Start,
}

type Start = Box<dyn Fn(&PeerHost<'_>) -> Result<Running, Failure>>;

/// The path of the tester's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PacketPath {
    /// To the service, from the peer to a backend; the reply back to the client.
    Balanced,
    /// To a backend through the peer, and the reply back.
    Routed,
    /// To the service, from the peer straight back to the client.
    Reflected,
}

/// The node, cores and files of a peer.
#[derive(Debug)]
pub(crate) struct PeerHost<'a> {
    pub(crate) network: &'a Network,
    pub(crate) node: &'a PeerNode<'a>,
    /// For its configuration, sockets and logs.
    pub(crate) directory: &'a Path,
    pub(crate) cores: &'a Cores,
    pub(crate) services: &'a [Service],
    /// Capacity of vl3-lb's flow table.
    pub(crate) flows: u32,
    /// Whether vl3-lb has to stay on the peer's core. Else its worker begins there if that is the first one.
    pub(crate) is_pinned: bool,
}

/// A started peer. Dropping it ends its processes; its namespace goes with the node.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) processes: Vec<Process>,
    /// Commands and configuration, for the report.
    pub(crate) commands: Vec<String>,
    /// Programs in the kernel, routes: what ends with this.
    pub(crate) held: Vec<Box<dyn Held>>,
    /// The command that captures from it: measured with and without it. Empty: nothing does.
    pub(crate) capture: Vec<String>,
}

/// Something that is undone when it is dropped.
pub(crate) trait Held: fmt::Debug {}

impl<T: fmt::Debug> Held for T {}

/// Every peer, in the order of the report. `balancer` is the vl3-lb binary.
pub(crate) fn all(balancer: &Path) -> Vec<Peer> {
    vec![
        vl3lb::peer(
            "vl3-lb-fastpath",
            "vl3-lb, companion veth pair, established flows in the kernel",
            "companion",
            FastPath::Auto,
            balancer,
        ),
        vl3lb::peer(
            "vl3-lb-native",
            "vl3-lb, native XDP",
            "native",
            FastPath::Off,
            balancer,
        ),
        vl3lb::peer(
            "vl3-lb-generic",
            "vl3-lb, generic XDP",
            "generic",
            FastPath::Off,
            balancer,
        ),
        vl3lb::peer(
            "vl3-lb-companion",
            "vl3-lb, companion veth pair, all packets through the worker",
            "companion",
            FastPath::Off,
            balancer,
        ),
        reflector::peer(
            "reflector-native",
            "bare AF_XDP reflector, native XDP: no NAT",
            "native",
        ),
        reflector::peer(
            "reflector-generic",
            "bare AF_XDP reflector, generic XDP: no NAT",
            "generic",
        ),
        testpmd::peer(),
        vpp::peer(),
        nftables::peer(),
        nftables::with_flowtable(),
        nginx::peer(),
        haproxy::peer(),
        redirect::peer(),
        unbalanced::routing(),
        unbalanced::direct(),
    ]
}

/// Peers that are measured only if `--peer` names them: the bound of `flood`, and what an operator may do to vl3-lb
/// meanwhile.
pub(crate) fn on_request(balancer: &Path) -> Vec<Peer> {
    vec![
        nftables::behind_filter(),
        vl3lb::captured(
            "vl3-lb-fastpath-captured",
            "vl3-lb-fastpath during a capture of one flow in 1,000",
            "companion",
            FastPath::Auto,
            balancer,
        ),
        vl3lb::captured(
            "vl3-lb-native-captured",
            "vl3-lb-native during a capture of one flow in 1,000",
            "native",
            FastPath::Off,
            balancer,
        ),
    ]
}

impl PeerHost<'_> {
    /// Begins a capture by its command, if there is one. It ends when the process is dropped.
    pub(crate) fn begin_capture(&self, command: &[String]) -> Result<Option<Process>, Failure> {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        if words.is_empty() {
            return Ok(None);
        }
        // Its reader has no core of its own.
        let started = self.start_on(&self.cores.all_list(), "capture", &words)?;
        Ok(started.processes.into_iter().next())
    }

    /// Writes one of the peer's files.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(Failure::system(format!("write {}", path.display())))?;
        Ok(path)
    }

    /// Starts a program on the peer's core.
    fn start(&self, name: &str, program: &[&str]) -> Result<Running, Failure> {
        self.start_on(&self.cores.peer_list(), name, program)
    }

    /// Starts a program on these cores.
    pub(crate) fn start_on(&self, cores: &str, name: &str, program: &[&str]) -> Result<Running, Failure> {
        let program: Vec<String> = program.iter().map(|&word| word.to_owned()).collect();
        let log = self.directory.join(format!("{name}.log"));
        let process = net::start(self.node.netns(), cores, &program, &log)?;
        Ok(Running {
            processes: vec![process],
            commands: vec![program.join(" ")],
            ..Running::default()
        })
    }

    /// Receive packet steering: the kernel works for the peer on the peer's core instead of the sender's.
    fn steer_to_own_core(&self) -> Result<String, Failure> {
        self.steer_to(self.cores.peer_mask())
    }

    /// Ends that: the kernel works on the core that a packet comes from, as it does by default. Programs with sockets run on
    /// all cores, and an interrupt of another core for each packet costs more than it gains.
    pub(crate) fn steer_to_all_cores(&self) -> Result<String, Failure> {
        self.steer_to(0)
    }

    /// Returns the command.
    fn steer_to(&self, cores: u128) -> Result<String, Failure> {
        let path = format!("/sys/class/net/{INTERFACE}/queues/rx-0/rps_cpus");
        let line = format!("echo {cores:x} > {path}");
        process::run(self.node.netns().command("sh").args(["-c", &line]))?;
        Ok(line)
    }

    /// Makes the node a router that sends no ICMP redirects for one-armed traffic.
    fn forward(&self) -> Result<(), Failure> {
        let redirects = format!("net/ipv4/conf/{INTERFACE}/send_redirects");
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            (&redirects, "0"),
        ] {
            self.node.netns().sysctl(path, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_peer_is_measurable() {
        let mut peers = all(Path::new("/vl3-lb"));
        peers.extend(on_request(Path::new("/vl3-lb")));
        let mut names: Vec<&str> = peers.iter().map(|peer| peer.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), peers.len());
        for peer in &peers {
            assert!(peer.packets.is_some() || peer.connections, "{}", peer.name);
        }
    }
}
