//! A bare AF_XDP reflector: `vl3-perf reflect`. What a balancer on AF_XDP could reach if balancing took no time.

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, INTERFACE, Wire};

use super::{Path, Peer, Place, Running, no_native};
use crate::compare::services::PACKETS;

/// The reflector in one mode.
#[derive(Debug)]
pub(super) struct Reflector {
    name: &'static str,
    about: &'static str,
    mode: &'static str,
}

impl Reflector {
    pub(super) const fn new(name: &'static str, about: &'static str, mode: &'static str) -> Self {
        Self { name, about, mode }
    }
}

impl Peer for Reflector {
    fn name(&self) -> &'static str {
        self.name
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn packets(&self) -> Option<Path> {
        Some(Path::Reflected)
    }

    fn connections(&self) -> bool {
        false
    }

    fn absent(&self) -> Option<String> {
        None
    }

    fn refuses(&self, wire: Wire) -> Option<String> {
        no_native(self.mode, wire)
    }

    fn start(&self, place: &Place<'_>) -> Result<Running, Failure> {
        let own =
            std::env::current_exe().map_err(|error| Failure::new(format!("find this program: {error}")))?;
        let listen = format!("{BALANCER_ADDRESS}:{}", PACKETS.port);
        let own = own.display().to_string();
        place.start(
            "reflector",
            &[&own, "reflect", INTERFACE, &listen, "--mode", self.mode],
        )
    }
}
