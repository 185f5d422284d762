//! The figures of deploy/README.md. `VL3LB_ROUNDS=30 ./run test nsm figures -- --nocapture` measures and prints them;
//! without the variable a few rounds show that they are within generous limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use vl3lb_control::api::Time;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::mesh::Mesh;
use vl3lb_tests::mesh::balancer::MeshBalancer;
use vl3lb_tests::mesh::client::{MeshClient, service_url};
use vl3lb_tests::mesh::server::{MeshServer, addresses};
use vl3lb_tests::mesh::traffic::{ask, ask_within};
use vl3lb_tests::wait;

/// Limit of one attempt: a connection through a balancer that works takes a millisecond.
const ATTEMPT: Duration = Duration::from_millis(50);
/// No figure may be worse than this, on a busy machine.
const LIMIT: Duration = Duration::from_secs(10);

fn rounds() -> usize {
    std::env::var("VL3LB_ROUNDS").map_or(3, |text| text.parse().expect("VL3LB_ROUNDS is a number"))
}

/// Prints median and 99th percentile; panics if one is over the limit.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let (median, p99) = (
        times[times.len() / 2],
        times[(times.len() * 99).div_ceil(100) - 1],
    );
    println!(
        "FIGURE {what}: median {median:.0?}, p99 {p99:.0?}, of {}",
        times.len()
    );
    assert!(p99 < LIMIT, "{what}: {p99:?}");
}

/// Connects until a connection is answered, from `begin` on; the time of that.
fn first_answer(pod: &Netns, address: std::net::IpAddr) -> std::thread::JoinHandle<SystemTime> {
    let here = pod.clone();
    pod.spawn("poll", move || {
        let start = Instant::now();
        while start.elapsed() < 2 * wait::STEP {
            if ask_within(&here, address, ATTEMPT).is_ok() {
                return SystemTime::now();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("no answer of {address}");
    })
    .or_panic()
}

fn since(begin: SystemTime, end: SystemTime) -> Duration {
    end.duration_since(begin).unwrap_or_default()
}

#[test]
fn the_balancer_answers_soon_after_its_request_and_its_restart() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let servers = MeshServer::several(&mesh, 2);
    let mut balancer = MeshBalancer::join(&mesh);
    balancer.wait_up(&addresses(&servers));
    let address = balancer.address();
    let (mut requests, mut restarts, mut crashes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..2 * rounds() {
        // Its address is free after the Close, and the first one that the network gives again.
        let is_crash = round % 2 == 0;
        let stopped = SystemTime::now();
        if is_crash {
            balancer.kill();
        } else {
            assert!(balancer.terminate().success());
        }
        let answered = first_answer(&client.netns, address);
        balancer.restart();
        let answered = answered.join().expect("an answer");
        assert_eq!(balancer.address(), address);
        if is_crash {
            crashes.push(since(stopped, answered));
            continue;
        }
        restarts.push(since(stopped, answered));
        let events = balancer.events("nsm_state");
        let request = events.iter().find(|event| event["to"] == "requesting");
        let time = request.expect("it requested")["time"]
            .as_str()
            .expect("a time")
            .to_owned();
        requests.push(since(time.parse::<Time>().expect("a time").0, answered));
    }
    report("Request to first balanced connection", requests);
    report("SIGTERM to first connection after the restart", restarts);
    report("SIGKILL to first connection after the restart", crashes);
}

#[test]
fn a_new_server_has_connections_soon_after_its_request() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let old = MeshServer::several(&mesh, 1);
    let new = MeshServer::start_with(
        &mesh,
        2,
        0,
        json!({"networkServices": [service_url("app=other")]}),
    );
    let balancer = MeshBalancer::join(&mesh);
    let address = balancer.address();
    balancer.wait_up(&addresses(&old));
    let mut times = Vec::new();
    for _ in 0..rounds() {
        let begin = Instant::now();
        // A client that requests with the labels of the service is a new server.
        new.client.relabel(&json!({"app": "finance"}));
        wait::until("a connection to the new server", wait::STEP, || {
            let server = ask(&client.netns, address).map_err(|error| error.to_string())?;
            (server == new.name()).then_some(()).ok_or(server)
        });
        times.push(begin.elapsed());
        new.client.relabel(&json!({"app": "other"}));
        balancer.wait_up(&addresses(&old));
    }
    report("a new server's Request to its first connection", times);
}

#[test]
fn connections_to_a_killed_server_are_lost_for_seconds_only() {
    let mesh = Mesh::start(&[]);
    let client = MeshClient::connect(&mesh, "client");
    let stays = MeshServer::several(&mesh, 1);
    let balancer = MeshBalancer::join(&mesh);
    let address = balancer.address();
    let mut times = Vec::new();
    for number in 2..2 + rounds() {
        let mut dies = MeshServer::start(&mesh, number);
        balancer.wait_up(&[stays[0].address(), dies.address()]);
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, pod) = (Arc::clone(&stop), client.netns.clone());
        let asking = client
            .netns
            .spawn("poll", move || {
                let mut lost = None;
                while !shared.load(Ordering::Relaxed) {
                    if ask_within(&pod, address, 10 * ATTEMPT).is_err() {
                        lost = Some(Instant::now());
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                lost
            })
            .or_panic();
        let killed = Instant::now();
        dies.crash();
        balancer.wait_up(&addresses(&stays));
        std::thread::sleep(Duration::from_millis(200));
        stop.store(true, Ordering::Relaxed);
        let lost = asking.join().expect("it does not panic");
        times.push(lost.map_or(Duration::ZERO, |lost| lost.saturating_duration_since(killed)));
    }
    report("a killed server's last lost connection", times);
}

#[test]
fn memory_grows_little_with_clients() {
    /// Clients in one process: the mesh waits for all of them.
    const EACH: usize = 50;
    // An endpoint gets 254 addresses of an IPv4 prefix, and 65534 of this one.
    // Without refreshes: those of a thousand clients at once keep the control plane from answering in time.
    let mesh = Mesh::start(&[
        "--prefix",
        "fd12::/64",
        "--token-lifetime",
        "6h",
        "--svid-ttl",
        "12h",
    ]);
    let balancer = MeshBalancer::join(&mesh);
    let before = resident(balancer.pid());
    let clients = (70 * rounds()).min(2000);
    let parts: Vec<MeshClient<'_>> = (0..clients / EACH)
        .map(|part| {
            let urls: Vec<String> = (0..EACH)
                .map(|number| format!("kernel://vl3-lb/n{number}?app=finance"))
                .collect();
            let config = json!({"networkServices": urls, "withoutLiveness": true, "sharedPrefixes": true});
            MeshClient::connect_with(&mesh, &format!("clients-{part}"), 0, config)
        })
        .collect();
    let clients = parts.len() * EACH;
    wait::until("all clients to be backends", 4 * wait::STEP, || {
        let known = balancer.cli_json(&["backends"])["items"].as_array().map(Vec::len);
        (known == Some(clients))
            .then_some(())
            .ok_or_else(|| format!("{known:?}"))
    });
    let after = resident(balancer.pid());
    println!("FIGURE memory: {before} KiB alone, {after} KiB with {clients} clients");
    assert!(after < before + 64 * 1024, "{before} -> {after} KiB");
}

/// KiB of memory in use by a process.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line
        .and_then(|line| line.split_whitespace().next())
        .map(str::parse);
    number.expect("a line VmRSS").expect("a number")
}
