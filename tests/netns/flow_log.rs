//! The flow log: JSON lines that jq reads, and IPFIX that a real collector (nfcapd of nfdump) takes, with the same content.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_testbed::process::Process;
use vl3lb_testbed::{Netns, OrPanic};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client::text;
use vl3lb_tests::server::greeting;
use vl3lb_tests::socket::connect_tcp;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::finance;

/// Opens a flow, and closes it after the greeting.
fn open_and_close(node: &Node, family: Family, port: u16) {
    let from = SocketAddr::new(node.address(family), port);
    let to = SocketAddr::new(family.balancer(), finance::PORT);
    let mut stream = node.netns.run(|| connect_tcp(from, to, wait::STEP)).unwrap();
    greeting(&mut stream).unwrap();
}

/// The output of jq with this filter, one JSON value per line.
fn jq(filter: &str, path: &Path) -> Vec<Value> {
    let output = Command::new("jq")
        .arg("-c")
        .arg(filter)
        .arg(path)
        .output()
        .expect("run jq");
    assert!(output.status.success(), "jq {filter}: {}", text(&output));
    let values = String::from_utf8_lossy(&output.stdout).into_owned();
    values
        .lines()
        .map(|line| serde_json::from_str(line).expect("jq prints JSON"))
        .collect()
}

/// The lines of a file, once there are `count` closed flows.
fn wait_closed(path: &Path, count: usize) -> Vec<Value> {
    wait::until("the closed flows in the file", wait::STEP, || {
        let closed = jq("select(.event == \"close\")", path);
        if closed.len() == count {
            Ok(closed)
        } else {
            Err(format!("{closed:?}"))
        }
    })
}

/// nfcapd, which writes a file every two seconds.
struct Collector {
    process: Process,
    folder: TempDir,
}

impl Collector {
    fn start(netns: &Netns, address: SocketAddr) -> Self {
        let folder = TempDir::with_prefix("vl3lb-nfcapd").expect("make a temporary directory");
        let flows = folder.path().join("flows");
        std::fs::create_dir(&flows).expect("make a folder");
        let mut command = netns.command("nfcapd");
        command.arg(if address.is_ipv4() { "-4" } else { "-6" });
        command.args([
            "-t",
            "2",
            "-b",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
            "-w",
        ]);
        command.arg(&flows);
        let mut process = Process::start(&mut command, &folder.path().join("log")).or_panic();
        wait::until("the collector", wait::STEP, || {
            process.check_running().or_panic();
            let log = process.log();
            if log.contains("Startup nfcapd") {
                Ok(())
            } else {
                Err(log)
            }
        });
        Self { process, folder }
    }

    /// All flows in the files that it has finished.
    fn flows(&self) -> Vec<Value> {
        let mut files: Vec<_> = std::fs::read_dir(self.folder.path().join("flows"))
            .expect("list the files")
            .map(|file| file.expect("a file").path())
            .filter(|path| !path.to_string_lossy().contains("current"))
            .collect();
        files.sort();
        let mut flows = Vec::new();
        for file in files {
            let output = Command::new("nfdump")
                .args(["-o", "json", "-r"])
                .arg(&file)
                .output()
                .expect("run nfdump");
            let json = String::from_utf8_lossy(&output.stdout).into_owned();
            if let Ok(Value::Array(more)) = serde_json::from_str(&json) {
                flows.extend(more);
            }
        }
        flows
    }

    fn wait_flows(&self, count: usize) -> Vec<Value> {
        wait::until("the flows at the collector", wait::STEP, || {
            let flows = self.flows();
            if flows.len() == count {
                Ok(flows)
            } else {
                Err(format!("{} of {count}; {}", flows.len(), self.process.log()))
            }
        })
    }
}

#[test]
fn a_collector_gets_the_flows_of_the_file_with_their_translation() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let node = &topology.clients[0];
    let collector = SocketAddr::new(node.address(Family::V4), 4739);
    let mut nfcapd = Collector::start(&node.netns, collector);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.jsonl");
    // Each opened flow, too.
    let config = finance::config(&topology, "auto").with(
        "flowLog",
        json!({"file": path, "collector": collector.ip(), "sampleOpened": 1, "observationDomain": 7}),
    );
    let balancer = Balancer::start(&topology.balancer, &config);
    for port in 40_000..40_005 {
        open_and_close(node, Family::V4, port);
    }
    open_and_close(node, Family::V6, 40_000);
    let closed = wait_closed(&path, 6);
    assert_eq!(jq("select(.event == \"open\")", &path).len(), 6);

    let exported = nfcapd.wait_flows(12);
    let event = |flow: &Value| flow["nat_event"].as_str().map(str::to_owned);
    let created = exported
        .iter()
        .filter(|flow| event(flow).is_some_and(|event| event == "NAT44 session create"));
    assert_eq!(created.count(), 5, "{exported:?}");
    // RFC 8158 has no event of sessions from IPv6 to IPv6.
    for line in &closed {
        let is_v4 = line["client"].as_str().unwrap().contains('.');
        let digit = if is_v4 { 4 } else { 6 };
        let same = exported.iter().find(|flow| {
            let deleted = event(flow).is_some_and(|event| event == "NAT44 session delete");
            flow["src_port"] == line["clientPort"]
                && flow[format!("src{digit}_addr")] == line["client"]
                && (deleted || !is_v4 && flow["in_packets"] != 0)
        });
        let same = same.unwrap_or_else(|| panic!("no record of {line} among {exported:?}"));
        let as_text = |value: &Value| value.to_string();
        for (theirs, ours) in [
            (&same[format!("dst{digit}_addr")], &line["serviceAddress"]),
            (&same["dst_port"], &line["servicePort"]),
            (&same["in_packets"], &line["in"]["packetsTotal"]),
            (&same["in_bytes"], &line["in"]["bytesTotal"]),
            (&same["out_packets"], &line["out"]["packetsTotal"]),
            (&same["out_bytes"], &line["out"]["bytesTotal"]),
        ] {
            assert_eq!(theirs, ours, "{same} {line}");
        }
        assert_eq!(
            same["src_xlt_port"].as_str().map(str::to_owned),
            Some(as_text(&line["natPort"])),
            "{same}"
        );
        assert_eq!(
            same["dst_xlt_port"].as_str().map(str::to_owned),
            Some(as_text(&line["backendPort"])),
            "{same}"
        );
        assert_eq!(same["proto"], 6, "{same}");
        // nfdump 1.7.1 does not keep translated IPv6 addresses; the unit tests have them.
        if is_v4 {
            assert_eq!(same["src4_xlt_ip"], line["serviceAddress"], "{same} {line}");
            assert_eq!(same["dst4_xlt_ip"], line["backend"], "{same} {line}");
        }
    }
    let log = nfcapd.process.log();
    assert!(log.contains("Observation domain 7"), "{log}");
    assert!(!log.contains("Sequence Errors: 1"), "{log}");

    let metrics = balancer.metrics();
    assert_eq!(metrics.sum("vl3lb_flow_log_written_flows_total", &[]), 12.0);
    assert_eq!(metrics.sum("vl3lb_flow_log_sent_flows_total", &[]), 12.0);
    assert_eq!(metrics.sum("vl3lb_flow_log_lost_flows_total", &[]), 0.0);
    let status = balancer.cli_json(&["status"]);
    assert_eq!(
        status["items"][0]["flowLog"]["collector"],
        collector.to_string(),
        "{status}"
    );
    nfcapd.process.signal(Signal::TERM).or_panic();
    nfcapd.process.wait_end(wait::STEP).or_panic();

    // The host answers that nobody listens there: the flows that were on their way are counted.
    let lost = || {
        balancer
            .metrics()
            .sum("vl3lb_flow_log_lost_flows_total", &[("reason", "collector")])
    };
    let mut ports = 41_000..42_000;
    wait::until("losses that are counted", wait::STEP, || {
        open_and_close(node, Family::V4, ports.next().expect("losses by now"));
        if lost() > 0.0 { Ok(()) } else { Err("none") }
    });
    let screen = text(&balancer.cli(&["status"]));
    assert!(
        screen.contains("flow log") && screen.contains("LOST collector"),
        "{screen}"
    );
}

#[test]
fn a_full_file_is_rotated_and_its_lines_stay_whole() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.jsonl");
    // Nearly full, by lines of an earlier process.
    let old = "{\"event\":\"close\",\"old\":true}\n".repeat(34_000);
    std::fs::File::create(&path)
        .unwrap()
        .write_all(old.as_bytes())
        .unwrap();
    let config = finance::config(&topology, "auto").with(
        "flowLog",
        json!({"file": path, "maxMegabytes": 1, "keepFiles": 1}),
    );
    let balancer = Balancer::start(&topology.balancer, &config);
    let node = &topology.clients[0];
    let rotated = folder.path().join("flows.jsonl.1");
    let mut ports = 40_000..41_000;
    let mut opened = 0;
    wait::until("the rotation", wait::STEP, || {
        open_and_close(node, Family::V4, ports.next().expect("a rotation by now"));
        opened += 1;
        if rotated.exists() { Ok(()) } else { Err("none yet") }
    });
    let own = "select(.old != true) | .clientPort";
    wait::until("all flows in both files", wait::STEP, || {
        let flows = jq(own, &rotated).len() + jq(own, &path).len();
        if flows == opened {
            Ok(())
        } else {
            Err(format!("{flows} of {opened}"))
        }
    });
    assert_eq!(jq("select(.old == true)", &rotated).len(), 34_000);
    assert!(std::fs::metadata(&rotated).unwrap().len() <= 1_000_000);
    assert_eq!(
        balancer.metrics().sum("vl3lb_flow_log_lost_flows_total", &[]),
        0.0
    );
}

#[test]
fn flows_go_to_standard_output_and_the_log_to_standard_error() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let _servers = finance::echo_servers(&topology);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stdout");
    let config = finance::config(&topology, "auto").with("flowLog", json!({"file": "stdout"}));
    let script = format!("exec \"$@\" >{}", path.display());
    let mut balancer = Balancer::launch_through(&topology.balancer, &config, &["sh", "-c", &script, "sh"]);
    balancer.wait_ready();
    open_and_close(&topology.clients[0], Family::V4, 40_000);
    let closed = wait_closed(&path, 1);
    assert_eq!(closed[0]["service"], "finance");
    assert_eq!(closed[0]["cause"], "fin");
    assert_eq!(closed[0]["natPort"], jq(".natPort", &path)[0]);
    assert!(
        balancer.log().contains("started") || balancer.log().contains("vl3-lb "),
        "{}",
        balancer.log()
    );

    balancer.terminate();
    let config =
        finance::config(&topology, "auto").with("flowLog", json!({"file": "/nonexistent/flows.jsonl"}));
    let mut refused = Balancer::launch(&topology.balancer, &config);
    assert_eq!(refused.wait_end().code(), Some(2), "{}", refused.log());
    assert!(refused.log().contains("flowLog"), "{}", refused.log());
}
