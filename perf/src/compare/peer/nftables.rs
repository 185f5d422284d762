//! The kernel: nftables DNAT to a random backend, and masquerade; alone, or with a flowtable.

use std::fmt::Write as _;
use std::process::Command;

use vl3lb_dataplane::testing::FloodFilter;

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, INTERFACE, backend_address};

use super::{PacketPath, Peer, PeerHost, Running};
use crate::compare::requirement::Requirement;
use crate::compare::services::Service;

pub(super) fn peer() -> Peer {
    Peer {
        name: "nftables",
        about: "kernel: nftables DNAT and masquerade",
        packets: Some(PacketPath::Balanced),
        connections: true,
        requirements: vec![Requirement::Program("nft", "nftables")],
        start: Box::new(|host| start(host, "")),
    }
}

/// Established flows leave by the flowtable's hook at the interface instead of the whole forwarding path.
pub(super) fn with_flowtable() -> Peer {
    Peer {
        name: "nftables-flowtable",
        about: "kernel: the same with a flowtable for established flows",
        requirements: [peer().requirements, vec![Requirement::Flowtable]].concat(),
        start: Box::new(|host| start(host, &flowtable())),
        ..peer()
    }
}

/// A flood is dropped by its sources before nftables, which no balancer could do: the bound for `flood`.
pub(super) fn behind_filter() -> Peer {
    Peer {
        name: "nftables-filtered",
        about: "kernel: nftables behind an XDP program that drops a flood by its sources",
        requirements: [peer().requirements, vec![Requirement::NativeXdp]].concat(),
        start: Box::new(|host| {
            let mut running = start(host, "")?;
            let program = host.node.netns().run(|| FloodFilter::attach(INTERFACE))?;
            running
                .commands
                .push("XDP: dataplane/bpf/flood_filter.bpf.c".to_owned());
            running.held.push(Box::new(program));
            Ok(running)
        }),
        ..peer()
    }
}

fn start(host: &PeerHost<'_>, more: &str) -> Result<Running, Failure> {
    host.forward()?;
    let rules = rules(host.services) + more;
    host.node
        .netns()
        .feed(Command::new("nft").args(["-f", "-"]), &rules)?;
    let steering = host.steer_to_own_core()?;
    Ok(Running {
        commands: vec![format!("nft -f - <<'END'\n{rules}END"), steering],
        ..Running::default()
    })
}

fn rules(services: &[Service]) -> String {
    let mut text =
        "table ip balancer {\n  chain prerouting {\n    type nat hook prerouting priority dstnat;\n"
            .to_owned();
    for service in services {
        let count = service.backends;
        let backends: Vec<String> = (0..count)
            .map(|index| format!("{index} : {} . {}", backend_address(index), service.target_port))
            .collect();
        writeln!(
            text,
            "    ip daddr {BALANCER_ADDRESS} {} dport {} dnat ip to numgen random mod {count} map {{ {} }}",
            service.protocol(),
            service.port,
            backends.join(", ")
        )
        .expect("a string takes all text");
    }
    text.push_str("  }\n  chain postrouting {\n    type nat hook postrouting priority srcnat;\n    masquerade\n  }\n}\n");
    text
}

fn flowtable() -> String {
    format!(
        "table ip shortcut {{\n  flowtable known {{\n    hook ingress priority 0; devices = {{ {INTERFACE} }};\n  }}\n  \
         chain forward {{\n    type filter hook forward priority 0;\n    ct state established flow add @known\n  }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::services::ALL;

    #[test]
    fn each_service_is_translated_to_its_backends() {
        let rules = rules(&ALL);
        assert!(
            rules.contains(
                "ip daddr 172.16.1.103 tcp dport 8080 dnat ip to numgen random mod 8 map { 0 : 172.16.1.20 . 8081, 1 : "
            ),
            "{rules}"
        );
        assert!(
            rules.contains("tcp dport 5201 dnat ip to numgen random mod 1 map { 0 : 172.16.1.20 . 5201 }")
        );
        assert!(rules.contains("udp dport 7000"));
        assert!(rules.contains("masquerade"));
    }
}
