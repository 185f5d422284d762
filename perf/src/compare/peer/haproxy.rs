//! HAProxy in TCP mode, one thread, spliced.

use std::fmt::Write as _;

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, backend_address};

use super::{Peer, PeerHost, Running};
use crate::compare::requirement::{Requirement, program};
use crate::compare::services::Service;

pub(super) fn peer() -> Peer {
    Peer {
        name: "haproxy",
        about: "HAProxy, TCP mode, splice, one thread",
        packets: None,
        connections: true,
        requirements: vec![Requirement::Program("haproxy", "haproxy")],
        start: Box::new(start),
    }
}

fn start(host: &PeerHost<'_>) -> Result<Running, Failure> {
    host.node.widen_ports()?;
    let file = host.write("haproxy.cfg", &config(host.services))?;
    let steering = host.steer_to_own_core()?;
    let mut running = host.start(
        "haproxy",
        &[&program("haproxy"), "-db", "-f", &file.display().to_string()],
    )?;
    running.commands.push(steering);
    Ok(running)
}

fn config(services: &[Service]) -> String {
    let mut text = "global\n  nbthread 1\n\
                    defaults\n  mode tcp\n  option splice-auto\n  timeout connect 5s\n  \
                    timeout client 300s\n  timeout server 300s\n"
        .to_owned();
    for service in services.iter().filter(|service| !service.udp) {
        writeln!(
            text,
            "listen {}\n  bind {BALANCER_ADDRESS}:{}",
            service.name, service.port
        )
        .expect("a string takes all text");
        for index in 0..service.backends {
            let address = backend_address(index);
            writeln!(text, "  server s{index} {address}:{}", service.target_port)
                .expect("a string takes all text");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::services::ALL;

    #[test]
    fn tcp_services_are_listened_on_and_udp_is_not() {
        let config = config(&ALL);
        assert!(
            config
                .contains("listen web\n  bind 172.16.1.103:8080\n  server s0 172.16.1.20:8081\n  server s1 ")
        );
        assert!(config.contains("listen bulk\n  bind 172.16.1.103:5201\n  server s0 172.16.1.20:5201\n"));
        assert!(!config.contains("7000"), "{config}");
    }
}
