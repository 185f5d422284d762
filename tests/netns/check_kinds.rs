//! Health checks of every kind ask real programs: nginx by HTTP, HTTPS and gRPC, a UDP server, and the kernel by echo
//! requests.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::process::Process;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::authority::{Authority, NAME};
use crate::finance;

/// Ports of nginx.
const HTTP: u16 = 8000;
const HTTPS: u16 = 8443;
const GRPC: u16 = 9090;
const ECHO: u16 = 5300;
/// `HealthCheckResponse` with the status SERVING and with NOT_SERVING, as gRPC frames them.
const SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 1];
const NOT_SERVING: [u8; 7] = [0, 0, 0, 0, 2, 8, 2];
/// Services whose backends are up while the servers are in order.
const SERVICES: [&str; 6] = ["web", "verified", "unverified", "ledger", "echo", "host"];

#[test]
fn each_kind_of_check_notices_a_fault_and_its_end() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let authority = Authority::new("ours");
    let web: Vec<_> = topology.servers[..2]
        .iter()
        .map(|node| WebServer::start(&node.netns, &authority))
        .collect();
    let udp_server =
        |index: usize| UdpServer::echo(&topology.servers[index].netns, &finance::server_name(index), ECHO);
    let echo = udp_server(0);
    let _other_echo = udp_server(1);
    let balancer = Balancer::start(&topology.balancer, &config(&topology, &authority));
    let backends: Vec<_> = topology.servers[..2]
        .iter()
        .map(|node| node.address(Family::V4).to_string())
        .collect();
    let wait_first = |state| {
        for name in SERVICES {
            balancer.wait_backends(name, &[(backends[0].clone(), state), (backends[1].clone(), "up")]);
        }
    };
    wait_first("up");
    let both_down: Vec<_> = backends.iter().map(|backend| (backend.clone(), "down")).collect();
    balancer.wait_backends("stranger", &both_down);
    wait_error(
        &balancer,
        "stranger",
        &backends[0],
        "https unexpected: tls: invalid peer certificate: UnknownIssuer",
    );

    let ignore_echo = |value| {
        let server = &topology.servers[0].netns;
        server.sysctl("net/ipv4/icmp_echo_ignore_all", value).or_panic();
    };
    fs::remove_file(web[0].path("healthz")).unwrap();
    fs::write(web[0].path(HEALTH), NOT_SERVING).unwrap();
    drop(echo);
    ignore_echo("1");
    wait_first("down");
    for (name, error) in [
        ("web", "http unexpected: status 404, allowed 200-299"),
        ("verified", "https unexpected: status 404, allowed 200-399"),
        ("ledger", "grpc unexpected: NOT_SERVING"),
        ("echo", "udp refused"),
        ("host", "ping timeout: no answer in 500ms"),
    ] {
        wait_error(&balancer, name, &backends[0], error);
    }
    let shown = balancer.cli(&["services", "-o", "wide"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    for check in [
        "http:8000 /healthz every",
        "https:8443 /healthz every",
        "grpc finance.Ledger every",
        "udp every",
        "ping every",
    ] {
        assert!(shown.contains(check), "{check} in {shown}");
    }

    fs::write(web[0].path("healthz"), "ok").unwrap();
    fs::write(web[0].path(HEALTH), SERVING).unwrap();
    let _echo = udp_server(0);
    ignore_echo("0");
    wait_first("up");
}

/// Waits for the error of the last check of this backend.
pub(crate) fn wait_error(balancer: &Balancer, service: &str, backend: &str, error: &str) {
    wait::until("the error of a check", wait::STEP, || {
        let answer = balancer.cli_json(&["backends", "--service", service]);
        let items = answer["items"].as_array().unwrap();
        let item = items.iter().find(|item| item["address"] == backend).unwrap();
        let last = &item["check"]["lastError"];
        (last == error)
            .then_some(())
            .ok_or_else(|| format!("{service}: {last}, not {error}"))
    });
}

fn config(topology: &Topology, authority: &Authority) -> Config {
    let backends: Vec<_> = topology.servers[..2]
        .iter()
        .map(|node| node.address(Family::V4))
        .collect();
    let checked = |name: &str, protocol: &str, ports: (u16, u16), kind: &str, settings: Value| {
        let mut service = service(name, protocol, ports.0, ports.1, &backends);
        let times = json!({"interval": "500ms", "timeout": "500ms", "rise": 1, "fall": 2});
        service["healthCheck"] = times;
        service["healthCheck"][kind] = settings;
        service
    };
    let https = |tls: Value| json!({"port": HTTPS, "path": "/healthz", "host": NAME, "tls": tls});
    let other = Authority::new("other");
    Config::new(Attachment::VETH_AUTO.mode)
        .service(checked(
            "web",
            "TCP",
            (80, HTTP),
            "http",
            json!({"port": HTTP, "path": "/healthz", "status": "200-299"}),
        ))
        .service(checked(
            "verified",
            "TCP",
            (443, HTTPS),
            "http",
            https(json!({"ca": authority.pem()})),
        ))
        .service(checked(
            "unverified",
            "TCP",
            (444, HTTPS),
            "http",
            https(json!({"verify": false})),
        ))
        .service(checked(
            "stranger",
            "TCP",
            (445, HTTPS),
            "http",
            https(json!({"ca": other.pem()})),
        ))
        .service(checked(
            "ledger",
            "TCP",
            (GRPC, GRPC),
            "grpc",
            json!({"service": "finance.Ledger"}),
        ))
        .service(checked(
            "echo",
            "UDP",
            (ECHO, ECHO),
            "udp",
            json!({"payload": "?", "expect": "finance-server-"}),
        ))
        .service(checked("host", "TCP", (81, HTTP), "ping", json!({})))
}

/// The file that nginx answers calls of the health protocol with.
const HEALTH: &str = "grpc.health.v1.Health/Check";

/// nginx in a namespace.
struct WebServer {
    _process: Process,
    folder: TempDir,
}

impl WebServer {
    fn start(netns: &Netns, authority: &Authority) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().display();
        let certificate = authority.folder().display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths: String = paths
            .iter()
            .map(|name| format!("{name}_temp_path {root}/{name};\n"))
            .collect();
        let text = format!(
            "daemon off;\nmaster_process off;\nerror_log stderr;\npid {root}/pid;\nevents {{}}\nhttp {{\n\
             access_log off;\n{paths}root {root};\n\
             server {{\nlisten {HTTP};\nlisten {HTTPS} ssl;\nssl_certificate {certificate}/leaf.pem;\n\
             ssl_certificate_key {certificate}/leaf.key;\n}}\n\
             server {{\nlisten {GRPC} http2;\nlocation /grpc.health.v1.Health/ {{\n\
             default_type application/grpc;\nadd_trailer grpc-status 0;\nerror_page 405 =200 $uri;\n}}\n}}\n}}\n"
        );
        let path = folder.path().join("nginx.conf");
        fs::write(&path, text).unwrap();
        fs::create_dir(folder.path().join("grpc.health.v1.Health")).unwrap();
        fs::write(folder.path().join(HEALTH), SERVING).unwrap();
        fs::write(folder.path().join("healthz"), "ok").unwrap();
        let mut command = netns.command("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(&path);
        let process = Process::start(&mut command, &folder.path().join("log")).or_panic();
        Self {
            _process: process,
            folder,
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}
