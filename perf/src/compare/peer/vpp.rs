//! VPP on its AF_XDP driver with cnat translations, as the predecessor used it.

use std::fmt::Write as _;

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, BALANCER_MAC, INTERFACE, backend_address};

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::{Requirement, program};
use crate::compare::services::Service;

pub(super) fn peer() -> Peer {
    Peer {
        name: "vpp",
        about: "VPP, AF_XDP driver, cnat translation",
        packets: Some(PacketPath::Balanced),
        connections: true,
        requirements: vec![
            Requirement::Ethernet,
            Requirement::Program("vpp", "none; packages are at packagecloud.io/fdio"),
        ],
        start: Box::new(start),
    }
}

fn start(host: &PeerHost<'_>) -> Result<Running, Failure> {
    let directory = host.directory.display().to_string();
    let commands = commands(host.services);
    let commands_file = host.write("vpp.cli", &commands)?;
    let config = config(
        &directory,
        &commands_file.display().to_string(),
        host.cores.peer_core(),
    );
    let file = host.write("vpp.conf", &config)?;
    // The kernel's own address would answer for the interface that VPP takes over.
    host.node.netns().ip(&format!("addr flush dev {INTERFACE}"))?;
    let mut running = host.start("vpp", &[&program("vpp"), "-c", &file.display().to_string()])?;
    running.commands.push(commands);
    Ok(running)
}

fn config(directory: &str, commands: &str, core: usize) -> String {
    format!(
        "unix {{ nodaemon nosyslog cli-listen {directory}/vpp.sock runtime-dir {directory} startup-config {commands} }}\n\
         cpu {{ main-core {core} }}\n\
         plugins {{ plugin default {{ disable }} plugin af_xdp_plugin.so {{ enable }} plugin cnat_plugin.so {{ enable }} }}\n"
    )
}

/// A translation to a real address changes the source to the balancer's, which makes it a full NAT.
fn commands(services: &[Service]) -> String {
    let mut text = format!(
        "create interface af_xdp host-if {INTERFACE} name {INTERFACE} num-rx-queues 1\n\
         set interface mac address {INTERFACE} {BALANCER_MAC}\n\
         set interface ip address {INTERFACE} {BALANCER_ADDRESS}/24\n\
         set interface state {INTERFACE} up\n"
    );
    for service in services {
        write!(
            text,
            "cnat translation add proto {} real {BALANCER_ADDRESS} {}",
            service.protocol().to_uppercase(),
            service.port
        )
        .expect("a string takes all text");
        for index in 0..service.backends {
            let address = backend_address(index);
            write!(text, " to {BALANCER_ADDRESS}->{address} {}", service.target_port)
                .expect("a string takes all text");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::services::ALL;

    #[test]
    fn each_service_is_a_translation_with_a_new_source() {
        let commands = commands(&ALL);
        assert!(commands.contains(
            "cnat translation add proto TCP real 172.16.1.103 5201 to 172.16.1.103->172.16.1.20 5201\n"
        ));
        assert!(commands.contains(
            "cnat translation add proto UDP real 172.16.1.103 7000 to 172.16.1.103->172.16.1.20 7001 to "
        ));
        assert!(commands.starts_with("create interface af_xdp host-if nsm-1 name nsm-1 "));
    }

    #[test]
    fn it_keeps_its_files_and_its_core_to_itself() {
        let config = config("/tmp/x", "/tmp/x/vpp.cli", 1);
        assert!(config.contains("cli-listen /tmp/x/vpp.sock"));
        assert!(config.contains("startup-config /tmp/x/vpp.cli"));
        assert!(config.contains("main-core 1"));
        assert_eq!(config.matches('{').count(), config.matches('}').count());
    }
}
