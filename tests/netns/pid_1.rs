//! The balancer as PID 1 of a container, where the kernel delivers only signals that the process handles.

use std::io::{Read, Write};
use std::net::SocketAddr;

use rustix::process::{Pid, Signal, kill_process};
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::process;
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::server::greeting;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance::{self, PORT};

/// Signals that have no effect but a line in the log.
const LOGGED: [Signal; 4] = [Signal::ALARM, Signal::VTALARM, Signal::PROF, Signal::IO];
/// Signals that have none at all.
const IGNORED: [Signal; 5] = [
    Signal::PIPE,
    Signal::CHILD,
    Signal::URG,
    Signal::WINCH,
    Signal::CONT,
];

#[test]
fn signals_have_their_effects_as_pid_1() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let config = finance::config(&topology, "auto");
    let through = ["unshare", "--pid", "--fork", "--kill-child"];
    let mut balancer = Balancer::launch_through(&topology.balancer, &config, &through);
    balancer.wait_ready();
    let first = balancer.pid();
    let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children"));
    let pid: i32 = children
        .expect("the children of unshare")
        .trim()
        .parse()
        .expect("one child");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let number = numbers.and_then(|numbers| numbers.split_whitespace().last());
    assert_eq!(number, Some("1"), "{status}");
    let send = |signal| kill_process(Pid::from_raw(pid).expect("no zero"), signal).expect("send a signal");

    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    let mut stream = client::tcp(&topology.clients[0], to);
    greeting(&mut stream).expect("the name of the server");
    let mut echo = |what: &str| {
        let mut answer = [0; 5];
        stream.write_all(b"hello").expect(what);
        stream.read_exact(&mut answer).expect(what);
    };
    let logs = |balancer: &Balancer, text: &str| {
        wait::until(text, wait::STEP, || {
            let log = balancer.log();
            log.contains(text).then_some(()).ok_or(log)
        });
    };
    LOGGED.into_iter().chain(IGNORED).for_each(send);
    echo("after signals that have no effect");
    send(Signal::HUP);
    logs(&balancer, "SIGHUP: reading the configuration again");
    echo("after SIGHUP");

    // A process that has lost its parent gets this one, which reaps it.
    let pid_text = pid.to_string();
    let orphan = "sh -c 'exec sleep 0' & exit 0";
    let entered = ["-t", &pid_text, "-p", "sh", "-c", orphan];
    process::run(std::process::Command::new("nsenter").args(entered)).expect("leave an orphan");
    wait::until("the orphan to be reaped", wait::STEP, || {
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.expect("its children");
        children.trim().is_empty().then_some(()).ok_or(children)
    });

    send(Signal::TERM);
    wait::until("not to be ready", wait::STEP, || match balancer.http("/readyz") {
        Ok((503, _)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    echo("while it drains");
    drop(stream);
    assert_eq!(balancer.wait_end().code(), Some(0), "{}", balancer.log());
}
