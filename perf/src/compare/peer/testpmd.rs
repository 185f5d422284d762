//! dpdk-testpmd on DPDK's AF_XDP driver, which swaps addresses and ports: another bare reflector.

use crate::failure::Failure;
use crate::net::INTERFACE;

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::{Requirement, program};

pub(super) fn peer() -> Peer {
    Peer {
        name: "testpmd",
        about: "dpdk-testpmd 5tswap on DPDK's AF_XDP driver: no NAT",
        packets: Some(PacketPath::Reflected),
        connections: false,
        requirements: vec![
            Requirement::Ethernet,
            Requirement::Program("dpdk-testpmd", "dpdk-dev and librte-net-af-xdp"),
        ],
        start: Box::new(start),
    }
}

fn start(host: &PeerHost<'_>) -> Result<Running, Failure> {
    let words = arguments(host.cores.peer_core(), std::process::id());
    let mut line = vec![program("dpdk-testpmd")];
    line.extend(words);
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    host.start("testpmd", &line)
}

/// Two logical cores on one real one: testpmd wants one for its command line, which sleeps.
fn arguments(core: usize, process: u32) -> Vec<String> {
    format!(
        "--lcores 0@{core},1@{core} --no-huge -m 256 --no-pci --no-telemetry --file-prefix vl3-perf-{process} \
         --vdev net_af_xdp0,iface={INTERFACE},start_queue=0 -- \
         --forward-mode=5tswap --auto-start --nb-cores=1 --total-num-mbufs=16384"
    )
    .split_whitespace()
    .map(str::to_owned)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_on_the_peers_core_and_the_vl3_interface() {
        let arguments = arguments(3, 77).join(" ");
        assert!(arguments.starts_with("--lcores 0@3,1@3 "), "{arguments}");
        assert!(arguments.contains("iface=nsm-1,") && arguments.contains("vl3-perf-77"));
    }
}
