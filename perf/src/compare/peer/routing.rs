//! No NAT: the kernel routes, the client knows the backend. What every other peer's latency is compared with.

use crate::failure::Failure;

use super::{Path, Peer, Place, Running};

#[derive(Debug)]
pub(super) struct Routing;

impl Peer for Routing {
    fn name(&self) -> &'static str {
        "routing"
    }

    fn about(&self) -> &'static str {
        "no balancer: the kernel routes to a known backend, no NAT"
    }

    fn packets(&self) -> Option<Path> {
        Some(Path::Routed)
    }

    fn connections(&self) -> bool {
        false
    }

    fn absent(&self) -> Option<String> {
        None
    }

    fn start(&self, place: &Place<'_>) -> Result<Running, Failure> {
        place.forward()?;
        let steering = place.steer_to_own_core()?;
        Ok(Running {
            processes: Vec::new(),
            commands: vec!["sysctl net.ipv4.ip_forward=1".to_owned(), steering],
        })
    }
}
