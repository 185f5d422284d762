//! What is compared: one file for each peer, which says how it is configured and started and what it can carry.

mod direct;
mod haproxy;
mod nftables;
mod nginx;
mod reflector;
mod routing;
mod testpmd;
mod vl3lb;
mod vpp;

use std::fs;
use std::path::{Path as FilePath, PathBuf};

use crate::failure::Failure;
use crate::net::{INTERFACE, PeerNode, Process, Wire, on_path, start};

use super::cores::Cores;

pub(crate) use vl3lb::{ADMIN_PORT, Vl3Lb};

/// Something that stands where the balancer stands.
pub(crate) trait Peer {
    /// As in `--peer`.
    fn name(&self) -> &'static str;

    /// What it is, in a line.
    fn about(&self) -> &'static str;

    /// How the tester's packets pass it; `None` if it takes no UDP packets.
    fn packets(&self) -> Option<Path>;

    /// Whether TCP connections to the services end at the backends.
    fn connections(&self) -> bool;

    /// Why it cannot run here.
    fn absent(&self) -> Option<String>;

    /// Why it cannot work on this wire.
    fn refuses(&self, _wire: Wire) -> Option<String> {
        None
    }

    /// Configures and starts it in `place`.
    fn start(&self, place: &Place<'_>) -> Result<Running, Failure>;
}

/// How a packet of the tester goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    /// To the service; it comes out to a backend, and the backend's reply to the client.
    Balanced,
    /// To the backend itself, by way of the peer, and the reply likewise.
    Routed,
    /// To the service; it comes straight back to the client.
    Reflected,
}

/// Where a peer runs.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) node: &'a PeerNode<'a>,
    /// For its files: configuration, sockets, logs.
    pub(crate) directory: &'a FilePath,
    pub(crate) cores: &'a Cores,
    /// The vl3-lb binary.
    pub(crate) balancer: &'a FilePath,
}

/// A started peer; dropping it ends its processes. What it did to its namespace goes with that.
#[derive(Debug, Default)]
pub(crate) struct Running {
    pub(crate) processes: Vec<Process>,
    /// What was run, for the report.
    pub(crate) commands: Vec<String>,
}

/// Every peer, in the order of the report.
pub(crate) fn all(balancer: &FilePath) -> Vec<Box<dyn Peer>> {
    let vl3lb =
        |name, about, mode| -> Box<dyn Peer> { Box::new(Vl3Lb::new(name, about, mode, balancer.to_owned())) };
    let reflector =
        |name, about, mode| -> Box<dyn Peer> { Box::new(reflector::Reflector::new(name, about, mode)) };
    vec![
        vl3lb("vl3-lb-native", "vl3-lb, native XDP", "native"),
        vl3lb("vl3-lb-generic", "vl3-lb, generic XDP", "generic"),
        vl3lb("vl3-lb-companion", "vl3-lb, companion veth pair", "companion"),
        reflector(
            "reflector-native",
            "bare AF_XDP reflector, native XDP: no NAT",
            "native",
        ),
        reflector(
            "reflector-generic",
            "bare AF_XDP reflector, generic XDP: no NAT",
            "generic",
        ),
        Box::new(testpmd::Testpmd),
        Box::new(vpp::Vpp),
        Box::new(nftables::Nftables),
        Box::new(nginx::Nginx),
        Box::new(haproxy::Haproxy),
        Box::new(routing::Routing),
        Box::new(direct::Direct),
    ]
}

impl Place<'_> {
    /// Writes one of its files.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.directory.join(name);
        fs::write(&path, text).map_err(|error| Failure::new(format!("write {}: {error}", path.display())))?;
        Ok(path)
    }

    /// Starts a program on the peer's cores.
    fn start(&self, name: &str, program: &[&str]) -> Result<Running, Failure> {
        let program: Vec<String> = program.iter().map(|&word| word.to_owned()).collect();
        let log = self.directory.join(format!("{name}.log"));
        let process = start(self.node.netns(), &self.cores.peer_list(), &program, &log)?;
        Ok(Running {
            processes: vec![process],
            commands: vec![program.join(" ")],
        })
    }

    /// Lets the kernel work for the peer on the peer's core, not on that of whoever sends: receive packet
    /// steering.
    fn steer_to_own_core(&self) -> Result<String, Failure> {
        let path = format!("/sys/class/net/{INTERFACE}/queues/rx-0/rps_cpus");
        let line = format!("echo {:x} > {path}", self.cores.peer_mask());
        let program = ["sh", "-c", &line].map(str::to_owned);
        let output = crate::net::output(self.node.netns(), &self.cores.peer_list(), &program)?;
        if output.status.success() {
            Ok(line)
        } else {
            let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(Failure::new(format!("{line}: {}", complaint.trim())))
        }
    }

    /// Makes the namespace a router that does not complain about one-armed traffic.
    fn forward(&self) -> Result<(), Failure> {
        for (path, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv4/conf/all/send_redirects", "0"),
            (&format!("net/ipv4/conf/{INTERFACE}/send_redirects"), "0"),
        ] {
            self.node.netns().sysctl(path, value)?;
        }
        Ok(())
    }
}

/// The reason if one of `programs` is missing, and what to install.
fn missing(programs: &[&str], package: &str) -> Option<String> {
    let program = programs.iter().find(|program| on_path(program).is_none())?;
    Some(format!("{program} is not installed (Debian: {package})"))
}

/// The reason if `mode` of the steer program is none on this wire.
fn no_native(mode: &str, wire: Wire) -> Option<String> {
    (wire == Wire::Tun && mode == "native").then(|| "a TUN device has no native XDP".to_owned())
}

/// The reason of a program that knows no packets without an Ethernet header.
fn ethernet_only(wire: Wire) -> Option<String> {
    (wire == Wire::Tun).then(|| "it takes Ethernet frames only, and a TUN device has raw IP".to_owned())
}

/// The path of a program that is known to be there.
fn program(name: &str) -> String {
    on_path(name).map_or_else(|| name.to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_peer_can_do_something() {
        let peers = all(FilePath::new("/vl3-lb"));
        let mut names: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), peers.len());
        for peer in &peers {
            assert!(peer.packets().is_some() || peer.connections(), "{}", peer.name());
        }
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_its_package() {
        assert_eq!(missing(&["sh"], "dash"), None);
        let reason = missing(&["sh", "no-such-program"], "no-such-package").unwrap();
        assert_eq!(
            reason,
            "no-such-program is not installed (Debian: no-such-package)"
        );
    }
}
