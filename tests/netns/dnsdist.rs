//! dnsdist as a backend that reads the client's address from the header of PROXY protocol version 2, in datagrams and in
//! connections, and answers by it.

use std::net::IpAddr;

use serde_json::json;
use tempfile::TempDir;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_testbed::process::Process;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::dig;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

/// The services' port, and dnsdist's.
const SERVICE: u16 = 5353;
const SERVER: u16 = 5300;
/// The client's source port.
const CLIENT: u16 = 41_000;

/// Answers with the address of the client or of the service, or with both ports as an IPv4 address; only to clients whose
/// address is in `allowed`. Headers are accepted of the balancer alone.
fn dnsdist_config(allowed: &[IpAddr]) -> String {
    let listed = |addresses: &[IpAddr]| {
        let texts: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
        texts.join(", ")
    };
    let balancer = Family::BOTH.map(Family::balancer);
    format!(
        "setLocal(\"0.0.0.0:{SERVER}\")
addLocal(\"[::]:{SERVER}\")
setSecurityPollSuffix(\"\")
setProxyProtocolACL({{{}}})
setProxyProtocolApplyACLToProxiedClients(true)
setACL({{{}}})
local function answer(text)
    return function(query) return DNSAction.Spoof, text(query) end
end
local function halves(port)
    return string.format(\"%d.%d\", math.floor(port / 256), port % 256)
end
addAction(\"client.\", LuaAction(answer(function(query) return query.remoteaddr:toString() end)))
addAction(\"service.\", LuaAction(answer(function(query) return query.localaddr:toString() end)))
addAction(\"ports.\", LuaAction(answer(function(query)
    return halves(query.remoteaddr:getPort()) .. \".\" .. halves(query.localaddr:getPort())
end)))
",
        listed(&balancer),
        listed(&[allowed, &balancer].concat()),
    )
}

/// Starts dnsdist on a node.
fn start(node: &Node, folder: &TempDir, allowed: &[IpAddr]) -> Process {
    let path = folder.path().join("dnsdist.conf");
    std::fs::write(&path, dnsdist_config(allowed)).expect("write the configuration of dnsdist");
    let mut command = node.netns.command("dnsdist");
    command.args(["--supervised", "--disable-syslog", "-C"]).arg(path);
    let mut process = Process::start(&mut command, &folder.path().join("log")).or_panic();
    wait::until("dnsdist", wait::STEP, || {
        process.check_running().map_err(|error| error.to_string())?;
        let log = process.log();
        log.contains("Console ACL").then_some(()).ok_or(log)
    });
    process
}

on_attachments!(dnsdist_acts_on_the_clients_address:
    veth_native = Attachment::VETH_NATIVE,
    veth_companion = Attachment::VETH_COMPANION,
    tun_auto = Attachment::TUN_AUTO,
);

fn dnsdist_acts_on_the_clients_address(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        clients: 2,
        servers: 1,
        ..Shape::of(attachment)
    });
    let [client, refused] = &topology.clients[..] else {
        panic!("two clients")
    };
    let server = &topology.servers[0];
    let folder = TempDir::new().expect("make a folder");
    let allowed = Family::BOTH.map(|family| client.address(family));
    let _dnsdist = start(server, &folder, &allowed);
    let backends = Family::BOTH.map(|family| server.address(family));
    let config = ["UDP", "TCP"]
        .into_iter()
        .fold(Config::new(attachment.mode), |config, protocol| {
            let name = format!("dns-{}", protocol.to_lowercase());
            let mut service = service(&name, protocol, SERVICE, SERVER, &backends);
            service["clientAddress"] = json!("proxyV2");
            config.service(service)
        });
    let balancer = Balancer::start(&topology.balancer, &config);
    let port = SERVICE.to_string();
    let transports = ["+notcp", "+tcp"];
    for (family, kind) in [(Family::V4, "A"), (Family::V6, "AAAA")] {
        let (own, to) = (client.address(family), family.balancer());
        for (index, transport) in (0..).zip(transports) {
            let from = format!("{own}#{}", CLIENT + index);
            let [high, low] = (CLIENT + index).to_be_bytes();
            let [service_high, service_low] = SERVICE.to_be_bytes();
            for (name, kind, wanted) in [
                ("client.", kind, own.to_string()),
                ("service.", kind, to.to_string()),
                (
                    "ports.",
                    "A",
                    format!("{high}.{low}.{service_high}.{service_low}"),
                ),
            ] {
                // A second connection from one port would wait for the end of the first.
                let source: &[&str] = if name == "ports." { &["-b", &from] } else { &[] };
                let query = [&["-p", &port, transport, name, kind], source].concat();
                let answer = dig(&client.netns, to, &query);
                let records: Vec<&str> = answer.records.iter().map(|(_, data)| data.as_str()).collect();
                assert_eq!(records, [wanted], "{name} {transport} to {to}");
            }
        }
        // dnsdist ignores the queries of a client that it does not allow, although the balancer sends both.
        let query = ["-p", &port, "+time=1", "+tries=1", "+short", "client.", kind];
        let mut command = refused.netns.command("dig");
        let output = command.arg(format!("@{to}")).args(query).output();
        let output = output.expect("run dig");
        assert!(
            !output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
    let metrics = balancer.metrics();
    for reason in ["internal", "bad_checksum", "malformed", "mtu_exceeded"] {
        assert_eq!(metrics.drops(reason), 0.0, "{reason}");
    }
}
