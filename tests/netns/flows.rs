//! `vl3-lb flows --follow` shows flows as they open and close.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::ops::Range;
use std::process::Stdio;

use serde_json::Value;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::follower::Follower;
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT};

#[test]
fn a_follower_sees_a_connection_open_and_close() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO.two_queues()));
    let _servers = finance::http_servers(&topology);
    let mut balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let request = |family: Family| {
        let url = client::url(family.balancer(), PORT, "/");
        client::curl(&topology.clients[0].netns, &url)
    };
    let mut all = Follower::start(&balancer, &["flows"]);
    let mut v6 = Follower::start(&balancer, &["flows", "--client", "::/0", "--service", "fin*"]);
    wait_followers(&balancer, 2);
    request(Family::V4);
    request(Family::V6);

    let client = topology.clients[0].address(Family::V4).to_string();
    let open = all.wait_for("an open", |event| event["client"] == client.as_str());
    assert_eq!(
        (&open["event"], &open["service"]),
        (&"open".into(), &"finance".into())
    );
    assert_eq!(
        (&open["state"], &open["in"]["packetsTotal"]),
        (&"opening".into(), &0.into())
    );
    let close = all.wait_for("its close", |event| event["clientPort"] == open["clientPort"]);
    assert_eq!(
        (&close["event"], &close["cause"]),
        (&"close".into(), &"fin".into())
    );
    for same in [
        "protocol",
        "serviceAddress",
        "servicePort",
        "natPort",
        "backend",
        "backendPort",
        "worker",
    ] {
        assert_eq!(open[same], close[same], "{same}");
    }
    // At least SYN, ACK, request and FIN; the response is longer than the request.
    assert!(close["in"]["packetsTotal"].as_u64() >= Some(4), "{close}");
    assert!(close["out"]["bytesTotal"].as_u64() > Some(200), "{close}");
    // The table still has the flow.
    let table = balancer.cli_json(&[
        "flows",
        "--nat-port",
        &close["natPort"].to_string(),
        "--proto",
        "TCP",
    ]);
    assert_eq!(table["items"][0]["clientPort"], close["clientPort"], "{table}");

    v6.wait_for("the close", |event| event["event"] == "close");
    let clients: Vec<_> = v6.events().iter().map(|event| event["client"].as_str()).collect();
    let client = topology.clients[0].address(Family::V6).to_string();
    assert_eq!(clients, [Some(client.as_str()); 2]);

    assert_eq!(all.interrupt(), Some(130));
    wait_followers(&balancer, 1);
    balancer.kill();
    assert_eq!(v6.wait(), Some(3), "the balancer is gone");
}

#[test]
fn following_ends_at_the_limit_or_when_the_output_is_closed() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, "auto"));
    let request = || {
        client::curl(
            &topology.clients[0].netns,
            &client::url(Family::V4.balancer(), PORT, "/"),
        )
    };
    let follow = |arguments: &[&str]| {
        let mut command = balancer.cli_command(&[&["flows", "-f"], arguments].concat());
        command
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the command line")
    };
    let limited = follow(&["--limit", "2"]);
    wait_followers(&balancer, 1);
    request();
    let output = limited.wait_with_output().expect("it ends");
    let table = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "{table}");
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 3, "{table}");
    assert_eq!(rows[0][..3], ["TIME", "EVENT", "CAUSE"]);
    assert_eq!((rows[1][1], rows[2][1], rows[2][2]), ("open", "close", "fin"));

    // As in `vl3-lb flows -f | head -1`.
    let mut headed = follow(&["--no-headers"]);
    wait_followers(&balancer, 1);
    let mut output = BufReader::new(headed.stdout.take().expect("it is piped"));
    request();
    let mut line = String::new();
    output.read_line(&mut line).expect("read a line");
    assert!(line.ends_with('\n') && line.contains(" open "), "{line}");
    drop(output);
    let status = wait::until("the end of a follower whose output is closed", wait::STEP, || {
        request();
        let ended = headed.try_wait().expect("look at it");
        ended.ok_or("it still runs")
    });
    assert_eq!(status.code(), Some(0));
    wait_followers(&balancer, 0);
}

#[test]
fn a_stopped_follower_blocks_neither_traffic_nor_other_followers() {
    const UDP: u16 = 9000;
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let server = &topology.servers[0];
    let _server = UdpServer::echo(&server.netns, "server", UDP);
    let backends = Family::BOTH.map(|family| server.address(family));
    let config = Config::new("auto").service(service("echo", "UDP", UDP, UDP, &backends));
    let balancer = Balancer::start(&topology.balancer, &config);
    let mut stopped = Follower::start(&balancer, &["flows"]);
    wait_followers(&balancer, 1);
    stopped.pause();

    let lost = || balancer.metrics().sum("vl3lb_flow_events_lost_total", &[]);
    let to = SocketAddr::new(Family::V4.balancer(), UDP);
    // Its queue has room for 8,192 events, and the kernel for some more.
    let mut ports = (20_000..38_000).step_by(1000);
    wait::until("events to be lost", wait::STEP, || {
        let first = ports.next().expect("the queue is smaller than the flow table");
        open_flows(&topology.clients[0], to, first..first + 1000);
        match lost() {
            0.0 => Err("none is"),
            _ => Ok(()),
        }
    });
    let mut other = Follower::start(&balancer, &["flows"]);
    wait_followers(&balancer, 2);
    let port = 50_000;
    let socket = client::udp(&topology.clients[0], port, to);
    socket.send(b"still there?").expect("send a datagram");
    assert!(socket.recv(&mut [0; 64]).is_ok(), "traffic goes on");
    other.wait_for("the new flow", |event| event["clientPort"] == port);

    stopped.resume();
    let lost = stopped.wait_for("the number of lost events", |event| event["event"] == "lost");
    assert!(lost["events"].as_u64() > Some(0), "{lost}");
}

/// Sends one datagram from each of these ports.
fn open_flows(node: &Node, to: SocketAddr, ports: Range<u16>) {
    let address = node.address(Family::V4);
    node.netns.run(|| {
        for port in ports {
            let socket = UdpSocket::bind((address, port)).expect("bind a UDP socket");
            socket.send_to(b"x", to).expect("send a datagram");
        }
    });
}

fn wait_followers(balancer: &Balancer, count: u64) {
    wait::until("the followers of flows", wait::STEP, || {
        let status: Value = balancer.cli_json(&["status"]);
        match &status["items"][0]["flowFollowers"] {
            followers if *followers == count => Ok(()),
            followers => Err(followers.to_string()),
        }
    });
}
