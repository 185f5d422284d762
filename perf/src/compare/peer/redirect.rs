//! A bare tc program that sends back what it gets: the bound for every balancer in the kernel.

use vl3lb_dataplane::testing::Redirect;

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::Requirement;
use crate::failure::Failure;
use crate::net::INTERFACE;

pub(super) fn peer() -> Peer {
    Peer {
        name: "redirect",
        about: "no balancer: a tc program that sends back what it gets, no NAT",
        packets: Some(PacketPath::Routed),
        connections: true,
        // The switch between TUN devices knows one way to the balancer's address only.
        requirements: vec![Requirement::Ethernet],
        start: Box::new(start),
    }
}

fn start(host: &PeerHost<'_>) -> Result<Running, Failure> {
    let bounce = host.network.bounce()?;
    let program = host.node.netns().run(|| Redirect::attach(INTERFACE))?;
    let steering = host.steer_to_own_core()?;
    Ok(Running {
        commands: vec!["tcx ingress: dataplane/bpf/redirect.bpf.c".to_owned(), steering],
        held: vec![Box::new(program), Box::new(bounce)],
        ..Running::default()
    })
}
