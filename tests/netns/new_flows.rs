//! Rules for new flows: passive checks, failing open, backups, slow start, and a limit of flows for each backend.

use std::io;
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::{TcpServer, greeting};
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT, TARGET_PORT};

/// A balancer for two servers of three, round-robin, with these settings of the service.
fn start(topology: &Topology, settings: Value) -> Balancer {
    let backends: Vec<_> = topology.servers[..2]
        .iter()
        .map(|node| node.address(Family::V4))
        .collect();
    let mut finance = service("finance", "TCP", PORT, TARGET_PORT, &backends);
    finance["scheduler"] = "round-robin".into();
    for (key, value) in settings.as_object().unwrap() {
        finance[key] = value.clone();
    }
    let config = Config::new(Attachment::VETH_AUTO.mode).service(finance);
    Balancer::start(&topology.balancer, &config)
}

fn server(topology: &Topology, index: usize) -> TcpServer {
    TcpServer::echo(
        &topology.servers[index].netns,
        &finance::server_name(index),
        TARGET_PORT,
    )
}

fn connect(topology: &Topology) -> io::Result<TcpStream> {
    let node = &topology.clients[0];
    let from = SocketAddr::new(node.address(Family::V4), 0);
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    node.netns.run(|| connect_tcp(from, to, wait::STEP))
}

/// The servers of eight new connections; none for a refused one.
fn names(topology: &Topology) -> Vec<Option<String>> {
    let name = |_| greeting(&mut connect(topology).ok()?).ok();
    (0..8).map(name).collect()
}

fn all_reach(topology: &Topology, index: usize) -> bool {
    let name = finance::server_name(index);
    names(topology)
        .iter()
        .all(|reached| reached.as_ref() == Some(&name))
}

fn states(topology: &Topology, states: [&'static str; 2]) -> Vec<(String, &'static str)> {
    let servers = topology.servers.iter().zip(states);
    servers
        .map(|(node, state)| (node.address(Family::V4).to_string(), state))
        .collect()
}

#[test]
fn a_backend_that_refuses_clients_is_held_off() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let first = server(&topology, 0);
    let _second = server(&topology, 1);
    let settings = json!({"passiveCheck": {"failures": 3, "holdOff": "1s", "maxHoldOff": "2s"}});
    let balancer = start(&topology, settings);
    balancer.wait_backends("finance", &states(&topology, ["up", "up"]));
    drop(first);
    let address = topology.servers[0].address(Family::V4);
    let held_off = |length: &str| {
        let begin = format!("backend finance/{address}:{TARGET_PORT} up -> down: passive: ");
        let end = format!(" new flows in a row failed; held off for {length}");
        wait::until("a hold-off", wait::STEP, || {
            names(&topology);
            let log = balancer.log();
            let is_there = log
                .lines()
                .any(|line| line.contains(&begin) && line.contains(&end));
            is_there.then_some(()).ok_or("no such line")
        });
    };
    held_off("1s");
    // It fails again when the hold-off is over: the next one is longer.
    held_off("2s");
    let _first = server(&topology, 0);
    wait::until("new connections to reach the backend again", wait::STEP, || {
        let names = names(&topology);
        let is_back = names.contains(&Some(finance::server_name(0))) && !names.contains(&None);
        is_back.then_some(()).ok_or_else(|| format!("{names:?}"))
    });
    assert_eq!(balancer.metrics().drops("internal"), 0.0);
}

#[test]
fn a_service_whose_checks_all_fail_goes_on_if_it_fails_open() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = [server(&topology, 0), server(&topology, 1)];
    // Nobody listens at the checked port.
    let check = json!({"tcp": {"port": 9}, "interval": "200ms", "timeout": "200ms", "fall": 2});
    let balancer = start(
        &topology,
        json!({"healthCheck": check, "whenAllDown": "fail-open"}),
    );
    balancer.wait_backends("finance", &states(&topology, ["down", "down"]));
    let line = "no backend up (0 of 2); it fails open, so all get new flows";
    wait::until("the event", wait::STEP, || {
        balancer.log().contains(line).then_some(()).ok_or(line)
    });
    let names = names(&topology);
    for index in 0..2 {
        assert!(names.contains(&Some(finance::server_name(index))), "{names:?}");
    }
    assert!(!names.contains(&None), "{names:?}");
    let status = String::from_utf8(balancer.cli(&["status"]).stdout).unwrap();
    assert!(
        status.contains("service finance: no backend up; it fails open"),
        "{status}"
    );
}

#[test]
fn a_backup_serves_while_no_other_backend_does() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let first = server(&topology, 0);
    let _backup = server(&topology, 1);
    let check = json!({"tcp": {}, "interval": "200ms", "timeout": "200ms", "rise": 1, "fall": 2});
    let address = |index: usize| topology.servers[index].address(Family::V4).to_string();
    let backends = json!([{"address": address(0)}, {"address": address(1), "backup": true}]);
    let balancer = start(&topology, json!({"healthCheck": check, "backends": backends}));
    balancer.wait_backends("finance", &states(&topology, ["up", "up"]));
    assert!(all_reach(&topology, 0));
    drop(first);
    balancer.wait_backends("finance", &states(&topology, ["down", "up"]));
    assert!(all_reach(&topology, 1));
    let _first = server(&topology, 0);
    balancer.wait_backends("finance", &states(&topology, ["up", "up"]));
    assert!(all_reach(&topology, 0));
    let shown = String::from_utf8(balancer.cli(&["backends"]).stdout).unwrap();
    assert!(
        shown
            .lines()
            .any(|line| line.contains(&address(1)) && line.ends_with("backup")),
        "{shown}"
    );
}

#[test]
fn a_full_backend_passes_new_flows_to_the_next() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = [server(&topology, 0), server(&topology, 1)];
    let balancer = start(&topology, json!({"scheduler": "maglev", "maxFlowsPerBackend": 5}));
    balancer.wait_backends("finance", &states(&topology, ["up", "up"]));
    let mut open = Vec::new();
    for _ in 0..10 {
        let mut stream = connect(&topology).unwrap();
        open.push((greeting(&mut stream).unwrap(), stream));
    }
    for index in 0..2 {
        let name = finance::server_name(index);
        assert_eq!(open.iter().filter(|(server, _)| *server == name).count(), 5);
    }
    assert!(connect(&topology).is_err());
    let metrics = balancer.metrics();
    assert!(metrics.drops("backends_full") >= 1.0);
    let ratio = metrics.sum("vl3lb_service_imbalance_ratio", &[("service", "finance")]);
    assert!((ratio - 1.0).abs() < 1e-9, "{ratio}");
    let (server, _) = open.swap_remove(0);
    wait::until("a connection in place of the closed one", wait::STEP, || {
        let mut stream = connect(&topology).map_err(|error| error.to_string())?;
        let reached = greeting(&mut stream).map_err(|error| error.to_string())?;
        (reached == server).then_some(()).ok_or(reached)
    });
}

#[test]
fn a_backend_that_comes_up_starts_slowly() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _first = server(&topology, 0);
    let check = json!({"tcp": {}, "interval": "200ms", "timeout": "200ms", "rise": 1, "fall": 2});
    // Longer than the test.
    let balancer = start(&topology, json!({"healthCheck": check, "slowStart": "1h"}));
    balancer.wait_backends("finance", &states(&topology, ["up", "down"]));
    let _second = server(&topology, 1);
    balancer.wait_backends("finance", &states(&topology, ["up", "up"]));
    // A share is a tenth until the backends are six minutes apart, and both begin with the first.
    let answer = balancer.cli_json(&["backends", "--service", "finance"]);
    let shares: Vec<_> = answer["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["slowStartShare"].clone())
        .collect();
    assert_eq!(shares, [json!(0.1), json!(0.1)]);
    let shown = String::from_utf8(balancer.cli(&["backends"]).stdout).unwrap();
    assert!(shown.contains("slow start, 10% of its weight"), "{shown}");
}
