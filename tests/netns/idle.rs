//! A balancer without traffic uses almost no CPU time.

use std::time::{Duration, Instant};

use vl3lb_testbed::addresses::Family;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

const WATCHED: Duration = Duration::from_secs(5);
/// The kernel charges an interrupt to the process that it interrupts, and the tests beside this one cause many: what they add
/// is not in each period, while a balancer that is busy is busy in all of them.
const LONGEST: Duration = Duration::from_secs(25);
/// USER_HZ: proc_pid_stat(5).
const TICKS_PER_SECOND: f64 = 100.0;

on_attachments!(an_idle_balancer_uses_less_than_one_percent_of_a_core:
    veth_auto = Attachment::VETH_AUTO,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    veth_generic = Attachment::VETH_GENERIC,
    tun_auto = Attachment::TUN_AUTO,
);

fn an_idle_balancer_uses_less_than_one_percent_of_a_core(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    // Idle after traffic, not only after the start.
    let url = client::url(Family::V4.balancer(), finance::PORT, "/bytes/10000000");
    client::curl_discard(&topology.clients[0].netns, &url);
    wait::until(
        "a period in which an idle balancer is idle",
        LONGEST,
        || match share_of_a_core(balancer.pid()) {
            share if share < 0.01 => Ok(()),
            share => Err(format!("{:.2} % of a core", share * 100.0)),
        },
    );
}

/// The share of a core that a process uses from now on, for the time that it is watched.
fn share_of_a_core(pid: u32) -> f64 {
    let start = (Instant::now(), cpu_ticks(pid));
    std::thread::sleep(WATCHED);
    (cpu_ticks(pid) - start.1) / TICKS_PER_SECOND / start.0.elapsed().as_secs_f64()
}

/// User and system time of a process so far, in clock ticks.
fn cpu_ticks(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The second field is the name in parentheses, which may hold spaces.
    let fields = stat.rsplit(") ").next().expect("fields after the name");
    let field = |number: usize| -> f64 {
        let value = fields.split(' ').nth(number - 3).expect("a field of stat");
        value.parse().expect("a number")
    };
    field(14) + field(15)
}
