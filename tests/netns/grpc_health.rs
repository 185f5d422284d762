//! Health checks by gRPC ask a server of grpc-go, `tests/health_server`.

use std::io::{PipeWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;
use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_testbed::process::Process;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::authority::{Authority, NAME};
use crate::check_kinds::wait_error;

/// The server's ports.
const PLAIN: u16 = 9090;
const SECURE: u16 = 9443;
/// A service of the server.
const LEDGER: &str = "finance.Ledger";

#[test]
fn a_backend_is_up_while_its_server_or_the_named_service_of_it_is_serving() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let authority = Authority::new("ours");
    let nodes = &topology.servers[..2];
    let addresses: Vec<IpAddr> = nodes.iter().map(|node| node.address(Family::V4)).collect();
    let mut plain: Vec<_> = nodes
        .iter()
        .map(|node| HealthServer::start(node, PLAIN, None))
        .collect();
    let mut secure: Vec<_> = nodes
        .iter()
        .map(|node| HealthServer::start(node, SECURE, Some(&authority)))
        .collect();
    for server in plain.iter_mut().chain(&mut secure) {
        server.set(LEDGER, "SERVING");
    }
    let checked = |name: &str, port: u16, settings: Value| {
        let mut service = service(name, "TCP", port, PLAIN, &addresses);
        service["healthCheck"] = json!({"interval": "200ms", "timeout": "200ms", "rise": 1, "fall": 2});
        service["healthCheck"]["grpc"] = settings;
        service
    };
    let tls = json!({"ca": authority.pem(), "name": NAME});
    let config = Config::new(Attachment::VETH_AUTO.mode)
        .service(checked("whole", 81, json!({})))
        .service(checked("ledger", 82, json!({"service": LEDGER})))
        .service(checked(
            "secure",
            83,
            json!({"service": LEDGER, "port": SECURE, "tls": tls}),
        ))
        .service(checked("plaintext", 84, json!({"port": SECURE})))
        .service(checked("missing", 85, json!({"service": "finance.Missing"})));
    let balancer = Balancer::start(&topology.balancer, &config);
    let [first, second] = [0, 1].map(|index| addresses[index].to_string());
    let wait_first = |name: &str, state| {
        balancer.wait_backends(name, &[(first.clone(), state), (second.clone(), "up")]);
    };
    for name in ["whole", "ledger", "secure"] {
        wait_first(name, "up");
    }
    for name in ["missing", "plaintext"] {
        balancer.wait_backends(name, &[(first.clone(), "down"), (second.clone(), "down")]);
    }
    let unknown = "grpc unexpected: the server does not know the service";
    wait_error(&balancer, "missing", &first, unknown);

    plain[0].set(LEDGER, "NOT_SERVING");
    wait_first("ledger", "down");
    wait_error(&balancer, "ledger", &first, "grpc unexpected: NOT_SERVING");
    secure[0].set(LEDGER, "NOT_SERVING");
    wait_first("secure", "down");
    wait_error(&balancer, "secure", &first, "grpc unexpected: NOT_SERVING");
    wait_first("whole", "up");

    plain[0].set("", "NOT_SERVING");
    wait_first("whole", "down");
    plain[0].set(LEDGER, "SERVING");
    wait_first("ledger", "up");
    wait_first("whole", "down");
    plain[0].set("", "SERVING");
    wait_first("whole", "up");

    drop(plain.remove(0));
    for name in ["whole", "ledger"] {
        wait_first(name, "down");
        wait_error(&balancer, name, &first, "grpc refused");
    }
}

/// The server in a namespace.
struct HealthServer {
    process: Process,
    /// Its standard input.
    input: PipeWriter,
    _folder: TempDir,
}

impl HealthServer {
    /// At the node's address; with a certificate of `authority`, by TLS.
    fn start(node: &Node, port: u16, authority: Option<&Authority>) -> Self {
        let path = std::env::var_os("VL3LB_HEALTH_SERVER").map(PathBuf::from);
        let path =
            path.expect("VL3LB_HEALTH_SERVER, the path of the server: `./run test netns` builds it with Go");
        let folder = tempfile::tempdir().expect("make a folder");
        let (output, input) = std::io::pipe().expect("make a pipe");
        let mut command = node.netns.command(path);
        command.arg("-listen");
        command.arg(format!("{}:{port}", node.address(Family::V4)));
        if let Some(authority) = authority {
            command
                .arg("-certificate")
                .arg(authority.folder().join("leaf.pem"));
            command.arg("-key").arg(authority.folder().join("leaf.key"));
        }
        command.stdin(output);
        let process = Process::start(&mut command, &folder.path().join("log")).or_panic();
        let mut server = Self {
            process,
            input,
            _folder: folder,
        };
        server.wait_lines(1);
        server
    }

    /// Changes the status of a service, or of the whole server.
    fn set(&mut self, service: &str, status: &str) {
        let lines = self.process.log().lines().count();
        writeln!(self.input, "{service}={status}").expect("write to the server");
        self.wait_lines(lines + 1);
    }

    /// Waits until it has written so many lines.
    fn wait_lines(&mut self, count: usize) {
        wait::until("a line of the server", wait::STEP, || {
            self.process.check_running().map_err(|error| error.to_string())?;
            let log = self.process.log();
            (log.lines().count() >= count).then_some(()).ok_or(log)
        });
    }
}
