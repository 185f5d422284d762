//! No balancer: the servers themselves run where the balancer stands.

use crate::failure::Failure;

use super::{Path, Peer, Place, Running};
use crate::compare::servers;

#[derive(Debug)]
pub(super) struct Direct;

impl Peer for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn about(&self) -> &'static str {
        "no balancer: the servers at the balancer's place"
    }

    fn packets(&self) -> Option<Path> {
        None
    }

    fn connections(&self) -> bool {
        true
    }

    fn absent(&self) -> Option<String> {
        servers::absent()
    }

    fn start(&self, place: &Place<'_>) -> Result<Running, Failure> {
        let processes = servers::start(
            place.node.netns(),
            &place.cores.all_list(),
            place.directory,
            servers::At::Service,
        )?;
        Ok(Running {
            processes,
            commands: vec!["nginx and iperf3 -s at the balancer's address".to_owned()],
        })
    }
}
