//! A bare AF_XDP reflector, `vl3-perf reflect`: the bound for every balancer on AF_XDP.

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::Requirement;
use crate::compare::services::PACKETS;
use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, INTERFACE};

pub(super) fn peer(name: &'static str, about: &'static str, mode: &'static str) -> Peer {
    Peer {
        name,
        about,
        packets: Some(PacketPath::Reflected),
        connections: false,
        requirements: Requirement::of_mode(mode),
        start: Box::new(move |host| start(host, mode)),
    }
}

fn start(host: &PeerHost<'_>, mode: &str) -> Result<Running, Failure> {
    let program = std::env::current_exe().map_err(Failure::system("find the path of this program"))?;
    let listen = format!("{BALANCER_ADDRESS}:{}", PACKETS.port);
    let program = program.display().to_string();
    host.start(
        "reflector",
        &[&program, "reflect", INTERFACE, &listen, "--mode", mode],
    )
}
