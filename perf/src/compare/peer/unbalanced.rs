//! No balancer, as a bound: plain routing to a known backend, and servers in the balancer's place.

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::servers;
use crate::failure::Failure;

/// The kernel routes, without NAT: the latency that every other peer adds to.
pub(super) fn routing() -> Peer {
    Peer {
        name: "routing",
        about: "no balancer: the kernel routes to a known backend, no NAT",
        packets: Some(PacketPath::Routed),
        connections: false,
        requirements: Vec::new(),
        start: Box::new(start_routing),
    }
}

/// The servers themselves in the balancer's node.
pub(super) fn direct() -> Peer {
    Peer {
        name: "direct",
        about: "no balancer: the servers at the balancer's place",
        packets: None,
        connections: true,
        requirements: servers::REQUIREMENTS.to_vec(),
        start: Box::new(start_direct),
    }
}

fn start_routing(host: &PeerHost<'_>) -> Result<Running, Failure> {
    host.forward()?;
    let steering = host.steer_to_own_core()?;
    Ok(Running {
        commands: vec!["sysctl net.ipv4.ip_forward=1".to_owned(), steering],
        ..Running::default()
    })
}

fn start_direct(host: &PeerHost<'_>) -> Result<Running, Failure> {
    let (netns, cores) = (host.node.netns(), host.cores.all_list());
    Ok(Running {
        processes: servers::start(netns, &cores, host.directory, |service| service.port)?,
        commands: vec!["nginx and iperf3 -s at the balancer's address".to_owned()],
        ..Running::default()
    })
}
