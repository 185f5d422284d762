//! nginx's stream module as a UDP proxy, one worker.

use std::fmt::Write as _;

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, backend_address};

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::{Requirement, program};
use crate::compare::services::{PACKETS, Service};

/// Where Debian's package puts the module.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) fn peer() -> Peer {
    Peer {
        name: "nginx",
        about: "nginx stream, UDP, one worker",
        packets: Some(PacketPath::Balanced),
        connections: false,
        requirements: vec![
            Requirement::Program("nginx", "nginx-light"),
            Requirement::File(MODULE.into(), "Debian: libnginx-mod-stream"),
        ],
        start: Box::new(start),
    }
}

fn start(host: &PeerHost<'_>) -> Result<Running, Failure> {
    host.node.widen_ports()?;
    let directory = host.directory.display().to_string();
    let file = host.write("nginx.conf", &config(PACKETS, &directory))?;
    let steering = host.steer_to_own_core()?;
    let mut running = host.start("nginx", &[&program("nginx"), "-c", &file.display().to_string()])?;
    running.commands.push(steering);
    Ok(running)
}

fn config(service: Service, directory: &str) -> String {
    let mut text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\n\
         pid {directory}/nginx.pid;\nerror_log stderr error;\nload_module {MODULE};\n\
         events {{ worker_connections 15000; multi_accept on; }}\n\
         stream {{\n  upstream backends {{\n"
    );
    for index in 0..service.backends {
        let address = backend_address(index);
        writeln!(text, "    server {address}:{};", service.target_port).expect("a string takes all text");
    }
    write!(
        text,
        "  }}\n  server {{ listen {BALANCER_ADDRESS}:{} udp; proxy_pass backends; proxy_timeout 30s; }}\n}}\n",
        service.port
    )
    .expect("a string takes all text");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_udp_service_is_proxied_to_its_backends() {
        let config = config(PACKETS, "/tmp/x");
        assert!(config.contains("pid /tmp/x/nginx.pid;"));
        assert!(config.contains("    server 172.16.1.20:7001;\n    server 172.16.1.21:7001;\n"));
        assert!(
            config.contains("listen 172.16.1.103:7000 udp; proxy_pass backends;"),
            "{config}"
        );
        assert_eq!(config.matches('{').count(), config.matches('}').count());
    }
}
