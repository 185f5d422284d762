//! Ten thousand pods in twenty services change as fast as the API server accepts it. It prints times, and has a limit
//! for memory only; deploy/README.md has results of a known machine.

use std::time::{Duration, Instant};

use serde_json::json;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::config::Config;

use crate::pods::{Pods, SHARDS};
use crate::watch::{Testbed, expect_backends};

const PODS: usize = 10_000;
/// Changes of a round: this number of pods becomes unready, or ready again.
const CHANGES: usize = 3000;
const ROUNDS: u32 = 6;

#[test]
fn ten_thousand_changing_pods_converge_in_constant_memory() {
    let testbed = Testbed::build_with(&Attachment::VETH_AUTO.two_queues());
    let server = testbed.server();
    let pods = Pods::new(&server);
    pods.create(0..PODS);
    let mut config = Config::new("auto").with("discovery", "kubernetes".into());
    for shard in 0..SHARDS {
        config = config.service(json!({
            "name": format!("finance-{shard}"),
            "port": 8000 + shard,
            "targetPort": 8081,
            "selector": {"app": "finance", "shard": shard.to_string()},
        }));
    }
    let balancer = testbed.balancer_of(&server, &config);
    expect_backends(&balancer, 10_000, 0);

    println!("{PODS} pods in {SHARDS} services, {} MiB", memory(&balancer));
    let mut sizes = Vec::new();
    for round in 0..ROUNDS {
        let ready = round % 2 == 1;
        let snapshots = || {
            balancer
                .metrics()
                .sum("vl3lb_snapshot_apply_duration_seconds_count", &[])
        };
        let before = (snapshots(), cpu_time(&balancer));
        let begin = Instant::now();
        pods.set_ready(0..CHANGES, ready);
        let took = begin.elapsed();
        let (up, draining) = if ready { (10_000, 0) } else { (7000, 3000) };
        expect_backends(&balancer, up, draining);
        println!(
            "{CHANGES} changes in {:.1} s ({:.0} a second): {} snapshots, {:.0} % of a core, {} MiB",
            took.as_secs_f64(),
            CHANGES as f64 / took.as_secs_f64(),
            snapshots() - before.0,
            (cpu_time(&balancer) - before.1).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0,
            memory(&balancer),
        );
        sizes.push(memory(&balancer));
    }
    // The first two rounds have been through all states; growth after them is a leak.
    let (first, last) = (sizes[1], sizes[sizes.len() - 1]);
    assert!(
        first > 0 && last < first * 5 / 4,
        "MiB after each round: {sizes:?}"
    );
}

/// Resident memory of the balancer, in MiB.
fn memory(balancer: &Balancer) -> u64 {
    let status = proc(balancer, "status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kilobytes
        .and_then(|text| text.parse().ok())
        .map_or(0, |kilobytes: u64| kilobytes / 1024)
}

/// CPU time of its threads, user and system (proc_pid_stat(5): fields 14 and 15, in hundredths of a second).
fn cpu_time(balancer: &Balancer) -> Duration {
    let stat = proc(balancer, "stat");
    let (_, fields) = stat.rsplit_once(')').expect("the name in parentheses");
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

fn proc(balancer: &Balancer, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{}/{file}", balancer.pid())).expect("read a file of /proc")
}
