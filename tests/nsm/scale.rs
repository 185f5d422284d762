//! Servers are scaled up and down under load: deployments-k8s#12068, where TCP stops with the predecessor.

use vl3lb_testbed::process;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::client::Iperf3Server;
use vl3lb_tests::mesh::Mesh;
use vl3lb_tests::mesh::balancer::{MeshBalancer, PORT, TARGET_PORT};
use vl3lb_tests::mesh::client::MeshClient;
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::traffic::{Traffic, wait_all_answer};

#[test]
fn connections_live_through_three_to_six_to_two_servers() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let mut servers = MeshServer::several(&mesh, 3);
    let balancer = MeshBalancer::join(&mesh);
    let address = balancer.address();
    balancer.wait_up(&addresses(&servers));
    let traffic: Vec<Traffic> = (0..12).map(|_| Traffic::start(&client.netns, address)).collect();

    servers.extend((4..=6).map(|number| MeshServer::start(&mesh, number)));
    balancer.wait_up(&addresses(&servers));
    wait_all_answer(&client.netns, address, &servers);
    for connection in &traffic {
        connection.goes_on(20);
    }
    // Of those that leave, the connections end; all others go on.
    let leaving: Vec<MeshServer<'_>> = servers.drain(2..).collect();
    let (ending, staying): (Vec<Traffic>, Vec<Traffic>) = traffic
        .into_iter()
        .partition(|connection| leaving.iter().any(|server| server.name() == connection.server));
    drop(ending);
    for server in &leaving {
        server.client.leave();
    }
    balancer.wait_up(&addresses(&servers));
    for connection in staying {
        connection.goes_on(20);
        connection.finish();
    }
    wait_all_answer(&client.netns, address, &servers);
}

/// iperf3 has two connections to one server, so it begins with one.
#[test]
fn iperf3_runs_on_while_servers_are_scaled() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let pod = MeshClient::labelled(&mesh, "finance-server-1", "app=finance");
    let _iperf3 = Iperf3Server::start_permanent(&pod.netns, TARGET_PORT);
    let balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&[pod.address()]);
    let run = start_iperf3(&client.netns, &balancer.address().to_string());

    let mut others: Vec<MeshServer<'_>> = Vec::new();
    for number in 2..=6 {
        others.push(MeshServer::start(&mesh, number));
    }
    let mut expected = addresses(&others);
    expected.push(pod.address());
    balancer.wait_up(&expected);
    for server in others.drain(1..) {
        server.client.leave();
    }
    balancer.wait_up(&[pod.address(), others[0].address()]);

    let output = run.join().expect("iperf3 does not panic");
    let report: serde_json::Value = serde_json::from_str(&output).expect("iperf3 prints JSON");
    let intervals = report["intervals"].as_array().expect("a report has intervals");
    assert!(intervals.len() >= 10, "{report}");
    for interval in intervals {
        let bytes = interval["sum"]["bytes"].as_f64().unwrap_or(0.0);
        assert!(bytes > 0.0, "it stood still: {interval}");
    }
}

fn start_iperf3(pod: &Netns, address: &str) -> std::thread::JoinHandle<String> {
    let (pod, address) = (pod.clone(), address.to_owned());
    std::thread::spawn(move || {
        let port = PORT.to_string();
        let arguments = ["-c", &address, "-p", &port, "-t", "12", "-b", "200M", "--json"];
        process::run(pod.command("iperf3").args(arguments)).or_panic()
    })
}
