//! Captures, read by the programs that people read them with: tcpdump, capinfos and tshark.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use vl3lb_testbed::addresses::{Family, INTERFACE};
use vl3lb_tests::attachment::Attachment;
use vl3lb_tests::balancer::Balancer;
use vl3lb_tests::client;
use vl3lb_tests::config::{Config, service};
use vl3lb_tests::server::UdpServer;
use vl3lb_tests::topology::{Shape, Topology};
use vl3lb_tests::wait;

use crate::attacker::Flood;
use crate::finance::{self, PORT, TARGET_PORT};

/// A running `vl3-lb capture`.
struct Capture {
    child: Child,
}

impl Capture {
    fn start(balancer: &Balancer, arguments: &[&str]) -> Self {
        let mut command = balancer.cli_command(&[&["capture", "--duration", "10m"], arguments].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self {
            child: child.expect("run the command line"),
        }
    }

    /// Its nice value: proc_pid_stat(5), the 17th field behind the name.
    fn nice(&self) -> String {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its state");
        let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
        fields.split(' ').nth(16).expect("its nice value").to_owned()
    }

    /// Repeats `traffic` until the capture ends by itself; its output.
    fn finish(mut self, mut traffic: impl FnMut()) -> Output {
        wait::until("the capture to end", wait::STEP, || {
            traffic();
            match self.child.try_wait().expect("its state") {
                Some(_) => Ok(()),
                None => Err("it runs".to_owned()),
            }
        });
        let output = self.child.wait_with_output().expect("its output");
        assert!(output.status.success(), "{}", client::text(&output));
        output
    }
}

fn read(program: &str, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(program);
    let output = command.args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("run {program}: {error}"));
    assert!(output.status.success(), "{program}: {}", client::text(&output));
    String::from_utf8(output.stdout).expect("text")
}

fn tshark(arguments: &[&str], file: &Path) -> String {
    read("tshark", &[arguments, &["-r"]].concat(), file)
}

/// One image of a packet, as tshark reads it.
#[derive(Debug, Clone)]
struct Row {
    id: u64,
    interface: String,
    comment: String,
    from: SocketAddr,
    to: SocketAddr,
}

/// All TCP packets of a file.
fn rows(file: &Path) -> Vec<Row> {
    let fields = [
        "frame.packet_id",
        "frame.interface_name",
        "frame.comment",
        "ip.src",
        "ipv6.src",
        "tcp.srcport",
        "ip.dst",
        "ipv6.dst",
        "tcp.dstport",
    ];
    let wanted = fields.iter().flat_map(|field| ["-e", field]);
    let arguments: Vec<_> = ["-T", "fields", "-Y", "tcp"].into_iter().chain(wanted).collect();
    let table = tshark(&arguments, file);
    table
        .lines()
        .map(|line| {
            let cells: Vec<_> = line.split('\t').collect();
            let end = |v4: usize| {
                let address = if cells[v4].is_empty() {
                    cells[v4 + 1]
                } else {
                    cells[v4]
                };
                SocketAddr::new(address.parse().expect(line), cells[v4 + 2].parse().expect(line))
            };
            Row {
                id: cells[0].parse().expect(line),
                interface: cells[1].to_owned(),
                comment: cells[2].to_owned(),
                from: end(3),
                to: end(6),
            }
        })
        .collect()
}

on_attachments!(tools_read_a_capture_and_see_both_sides_of_its_connections:
    veth_auto = Attachment::VETH_AUTO,
    veth_native_two_queues = Attachment::VETH_NATIVE.two_queues(),
    tun_auto = Attachment::TUN_AUTO,
);

fn tools_read_a_capture_and_see_both_sides_of_its_connections(attachment: &Attachment) {
    let topology = Topology::build(&Shape::of(attachment));
    let _servers = finance::http_servers(&topology);
    let balancer = Balancer::start(&topology.balancer, &finance::config(&topology, attachment.mode));
    let folder = tempfile::tempdir().expect("a folder");
    let client = &topology.clients[0];
    for family in Family::BOTH {
        let file = folder.path().join(format!("{family:?}.pcapng"));
        let from = client.address(family).to_string();
        let arguments = [
            "-w",
            path(&file),
            "-c",
            "60",
            "--client",
            &from,
            "--service",
            "finance",
            "--proto",
            "tcp",
        ];
        let capture = Capture::start(&balancer, &arguments);
        let output = capture.finish(|| {
            client::curl(&client.netns, &client::url(family.balancer(), PORT, "/"));
        });
        let counts = String::from_utf8_lossy(&output.stderr);
        assert!(counts.contains("60 captured, 0 lost, "), "{counts}");

        let overview = read("capinfos", &["-M"], &file);
        for part in [
            "pcapng",
            "Number of interfaces in file: 2",
            "vl3-lb ",
            "instance=",
        ] {
            assert!(overview.contains(part), "{part}: {overview}");
        }
        let lines = read("tcpdump", &["-nn", "-r"], &file);
        assert_eq!(lines.lines().count(), 120, "{lines}");

        let rows = rows(&file);
        assert_eq!(rows.len(), 120);
        check_translations(&rows, family, client.address(family));
        // The program on the interface: XDP, or tc in companion mode.
        let fields = [
            "frame.interface_name",
            "frame.verdict.ebpf_xdp",
            "frame.verdict.ebpf_tc",
        ];
        let wanted = fields.iter().flat_map(|field| ["-e", field]);
        let arguments: Vec<_> = ["-T", "fields"].into_iter().chain(wanted).collect();
        let verdicts = tshark(&arguments, &file);
        let is_companion = balancer.cli_json(&["status"])["items"][0]["mode"]["attach"] == "companion";
        let redirect = if is_companion { "\t\t7" } else { "\t4\t" };
        for line in verdicts.lines() {
            let wanted = if line.starts_with(&format!("{INTERFACE}/rx")) {
                redirect
            } else {
                "\t\t"
            };
            assert!(line.ends_with(wanted), "{line:?}: {verdicts}");
        }
        // Each end's connection is whole: no gap and no packet that another one does not account for.
        let gaps = tshark(
            &["-Y", "tcp.analysis.lost_segment || tcp.analysis.ack_lost_segment"],
            &file,
        );
        assert_eq!(gaps, "");
        let names = tshark(&["-q", "-z", "hosts"], &file);
        let has_name = |address: &str, name: &str| {
            names.lines().any(|line| {
                let mut words = line.split_whitespace();
                words.next() == Some(address) && words.any(|word| word.starts_with(name))
            })
        };
        assert!(has_name(&family.balancer().to_string(), "finance"), "{names}");
        let backend = topology.servers[0].address(family).to_string();
        assert!(has_name(&backend, "finance-"), "{names}");
    }
    // It is over.
    assert_eq!(balancer.cli_json(&["status"])["items"][0]["capturesActive"], 0);
}

/// Each packet has an image before and one after, of the same connection for all packets of a connection, as tshark
/// shows it.
fn check_translations(rows: &[Row], family: Family, client: std::net::IpAddr) {
    let service = SocketAddr::new(family.balancer(), PORT);
    let mut pairs: HashMap<u64, Vec<&Row>> = HashMap::new();
    for row in rows {
        assert!(row.comment.contains("service=finance"), "{row:?}");
        pairs.entry(row.id).or_default().push(row);
    }
    assert_eq!(pairs.len(), 60);
    let mut translations: HashMap<SocketAddr, (SocketAddr, SocketAddr)> = HashMap::new();
    for pair in pairs.values() {
        let [before, after] = pair[..] else {
            panic!("two images: {pair:?}")
        };
        assert_eq!(before.interface, format!("{INTERFACE}/rx"));
        assert_eq!(after.interface, format!("{INTERFACE}/tx"));
        // The client's end, then the two ends that the backend sees.
        let (outer, nat, backend) = if before.to == service {
            assert!(before.comment.contains("direction=in"), "{before:?}");
            (before.from, after.from, after.to)
        } else {
            assert!(before.comment.contains("direction=out"), "{before:?}");
            assert_eq!(after.from, service);
            (after.to, before.to, before.from)
        };
        assert_eq!(outer.ip(), client);
        assert_eq!((nat.ip(), backend.port()), (family.balancer(), TARGET_PORT));
        let known = *translations.entry(outer).or_insert((nat, backend));
        assert_eq!(known, (nat, backend), "one translation per connection");
    }
    let nat_ends: HashSet<_> = translations.values().map(|(nat, _)| nat).collect();
    assert_eq!(
        nat_ends.len(),
        translations.len(),
        "no two connections look the same"
    );
}

/// What `-o jsonl` has written.
fn events(output: &Output) -> Vec<Value> {
    let lines = std::str::from_utf8(&output.stdout).expect("text").lines();
    lines
        .map(|line| serde_json::from_str(line).expect("an object per line"))
        .collect()
}

fn path(file: &Path) -> &str {
    file.to_str().expect("a path in UTF-8")
}

#[test]
fn dropped_packets_are_captured_with_their_reason() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let config = finance::config(&topology, "auto").service(service("ledger", "TCP", 9000, 9000, &[]));
    let balancer = Balancer::start(&topology.balancer, &config);
    let folder = tempfile::tempdir().expect("a folder");
    let file: PathBuf = folder.path().join("drops.pcapng");
    let client = &topology.clients[0].netns;
    let refuse = || {
        let url = client::url(Family::V4.balancer(), 9000, "/");
        let status = client.command("curl").args(["-sS", "-m", "5", &url]).output();
        assert!(!status.expect("run curl").status.success(), "nobody serves it");
    };
    let filters = ["--drops", "no_backend", "--service", "ledger", "-c", "3"];
    let lines = Capture::start(&balancer, &filters).finish(refuse);
    let lines = String::from_utf8(lines.stdout).expect("text");
    assert_eq!(lines.lines().count(), 3, "{lines}");
    for line in lines.lines() {
        let service = format!("> {}:9000 [S", Family::V4.balancer());
        for part in [" in  TCP ", &service, "REJECT no_backend service=ledger"] {
            assert!(line.contains(part), "{part:?}: {line}");
        }
    }
    let lines = Capture::start(&balancer, &[&filters[..], &["-o", "jsonl"]].concat()).finish(refuse);
    let events = events(&lines);
    assert_eq!(events[0]["event"], "start");
    let packets: Vec<_> = events.iter().filter(|event| event["event"] == "packet").collect();
    assert_eq!(packets.len(), 3);
    for packet in packets {
        assert_eq!(packet["reason"], "no_backend");
        assert_eq!(packet["received"]["tcpFlags"], "S");
        // The reset that its sender got.
        assert_eq!(packet["sent"]["tcpFlags"], "R.");
    }
    Capture::start(&balancer, &[&filters[..], &["-w", path(&file)]].concat()).finish(refuse);
    let found = tshark(
        &[
            "-Y",
            "frame.comment contains \"reason=no_backend\" && tcp.flags.syn == 1",
        ],
        &file,
    );
    assert_eq!(found.lines().count(), 3, "{found}");
}

on_attachments!(packets_that_are_shed_in_the_kernel_are_captured:
    veth_native = Attachment::VETH_NATIVE,
    veth_companion = Attachment::VETH_COMPANION,
);

/// The balancer is made slow: it is stopped for most of the time.
fn packets_that_are_shed_in_the_kernel_are_captured(attachment: &Attachment) {
    let topology = Topology::build(&Shape {
        clients: 2,
        ..Shape::of(attachment)
    });
    let config = finance::config(&topology, attachment.mode).with("frames", json!(1024));
    let balancer = Balancer::start(&topology.balancer, &config);
    let flood = Flood::of_syns(&topology, PORT, 1_000, Duration::from_millis(1));
    let slow = || {
        for _ in 0..10 {
            balancer.pause();
            std::thread::sleep(Duration::from_millis(100));
            balancer.resume();
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // What the worker refuses itself is captured too; in these modes it refuses none but fragments.
    let filters = [
        "--drops",
        "overload",
        "--service",
        "finance",
        "-c",
        "40",
        "-o",
        "jsonl",
    ];
    let capture = Capture::start(&balancer, &filters);
    wait::until("the lowest priority", wait::STEP, || {
        let nice = capture.nice();
        (nice == "19").then_some(()).ok_or(nice)
    });
    let output = capture.finish(slow);
    drop(flood);
    let events = events(&output);
    let packets: Vec<_> = events.iter().filter(|event| event["event"] == "packet").collect();
    assert_eq!(packets.len(), 40);
    let contents: HashSet<_> = packets
        .iter()
        .map(|packet| packet["received"]["data"].to_string())
        .collect();
    assert_eq!(contents.len(), 40, "each packet once: {packets:?}");
    for packet in packets {
        assert_eq!(packet["reason"], "overload");
        assert_eq!(packet["verdict"], "drop");
        assert_eq!(packet["service"], "finance");
        assert_eq!(packet["received"]["tcpFlags"], "S");
        assert_eq!(packet["sent"], Value::Null);
    }
    assert!(balancer.metrics().drops("overload") >= 40.0);
}

#[test]
fn a_flow_of_the_fast_path_is_captured_and_goes_back() {
    let topology = Topology::build(&Shape::of(&Attachment::VETH_AUTO));
    let servers = &topology.servers;
    let _servers: Vec<_> = servers
        .iter()
        .map(|node| UdpServer::echo(&node.netns, "udp", TARGET_PORT))
        .collect();
    let config = Config::new("auto")
        .service(service(
            "finance",
            "UDP",
            PORT,
            TARGET_PORT,
            &finance::backends(&topology),
        ))
        .with("fastPath", json!({"mode": "auto", "after": 2}));
    let balancer = Balancer::start(&topology.balancer, &config);
    let client = &topology.clients[0];
    let to = SocketAddr::new(Family::V4.balancer(), PORT);
    let socket = client::udp(client, 40_000, to);
    let exchange = || {
        socket.send(b"request").expect("send a datagram");
        let mut answer = [0; 100];
        // One that is lost is not the matter here.
        socket.recv(&mut answer).ok();
    };
    let fast = || {
        exchange();
        let metrics = balancer.metrics();
        let flows = metrics.sum("vl3lb_fastpath_flows", &[]);
        if flows > 0.0 {
            Ok(())
        } else {
            Err(format!("{flows} flows in it"))
        }
    };
    wait::until("the flow to be in the fast path", wait::STEP, fast);
    let output = Capture::start(&balancer, &["-c", "20", "-o", "jsonl"]).finish(exchange);
    let events = events(&output);
    let ways: HashSet<_> = events
        .iter()
        .filter(|event| {
            event["event"] == "packet" && event["client"] == format!("{}:40000", client.address(Family::V4))
        })
        .map(|event| event["direction"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(ways.len(), 2, "both directions: {events:?}");
    wait::until("the flow to be in the fast path again", wait::STEP, fast);
}
