//! Clients: real programs, as a user would run them.

use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::payload;
use crate::socket::connect_tcp;
use crate::wait;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;
use vl3lb_testbed::{Netns, OrPanic, process};

/// The HTTP URL of `path` at `address`, with brackets around an IPv6 address.
pub fn url(address: IpAddr, port: u16, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, port))
}

/// Gets `url` with curl; panics if that fails.
pub fn curl(netns: &Netns, url: &str) -> String {
    process::run(netns.command("curl").args(["-sS", "--max-time", "20", url])).or_panic()
}

/// Gets `url` with curl and drops the body; panics if that fails.
pub fn curl_discard(netns: &Netns, url: &str) {
    process::run(
        netns
            .command("curl")
            .args(["-sS", "--max-time", "20", "-o", "/dev/null", url]),
    )
    .or_panic();
}

/// Makes `count` requests over as many connections, to a name that may have addresses of both families;
/// returns the answers' lines.
pub fn curl_many(netns: &Netns, family: Family, url: &str, count: u32) -> Vec<String> {
    let url = format!("{url}?[1-{count}]");
    let answers = process::run(netns.command("curl").args([
        if family == Family::V4 { "-4" } else { "-6" },
        "-sS",
        "--max-time",
        "20",
        "--connect-timeout",
        "10",
        "-H",
        "Connection: close",
        &url,
    ]))
    .or_panic();
    answers.lines().map(str::to_owned).collect()
}

/// Downloads `length` bytes of [`payload`] with curl; panics unless they arrive undamaged.
pub fn download(netns: &Netns, address: IpAddr, port: u16, length: u64) {
    let url = url(address, port, &format!("/bytes/{length}"));
    let mut child = netns
        .command("curl")
        .args(["-sS", "--max-time", "60", &url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run curl");
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let (received, sum) = payload::hash(&mut stdout, u64::MAX).expect("read the output of curl");
    let output = child.wait_with_output().expect("curl ends");
    assert!(
        output.status.success(),
        "download of {url}: curl {}, {received} of {length} bytes: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        (received, sum),
        (length, payload::sha256(length)),
        "download of {url}"
    );
}

/// Uploads `length` bytes of [`payload`] with curl; panics unless the server receives exactly these.
pub fn upload(netns: &Netns, address: IpAddr, port: u16, length: u64) {
    let url = url(address, port, "/upload");
    let mut child = netns
        .command("curl")
        .args(["-sS", "--max-time", "60", "-T", "-", "-H", "Transfer-Encoding:"])
        .args(["-H", &format!("Content-Length: {length}"), "-H", "Expect:", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run curl");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let written = payload::write(&mut stdin, length);
    drop(stdin);
    let output = child.wait_with_output().expect("curl ends");
    assert!(
        output.status.success() && written.is_ok(),
        "upload to {url}: curl {}, {written:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        format!("{length} {}", payload::sha256(length)),
        "upload to {url}"
    );
}

/// An answer of a DNS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsAnswer {
    /// `NOERROR`, `NXDOMAIN`, ...
    pub status: String,
    /// Time to live and data of each record.
    pub records: Vec<(u32, String)>,
}

/// Queries `server` with dig.
pub fn dig(netns: &Netns, server: IpAddr, query: &[&str]) -> DnsAnswer {
    let output = process::run(netns.command("dig").arg(format!("@{server}")).args(query).args([
        "+time=3",
        "+tries=2",
        "+noall",
        "+comments",
        "+answer",
    ]))
    .or_panic();
    let status = output
        .split_once("status: ")
        .and_then(|(_, rest)| rest.split(',').next())
        .unwrap_or_else(|| panic!("no answer from {server} to {query:?}: {output}"));
    let record = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ttl = fields.get(1).and_then(|ttl| ttl.parse().ok());
        let ttl = ttl.unwrap_or_else(|| panic!("not a record: {line}"));
        (ttl, fields.get(4..).unwrap_or_default().join(" "))
    };
    DnsAnswer {
        status: status.to_owned(),
        records: output
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with(';'))
            .map(record)
            .collect(),
    }
}

/// Pings `address` three times; panics unless all three are answered.
pub fn ping(netns: &Netns, address: IpAddr) {
    let mut ping = netns.command("ping");
    let output =
        process::run(ping.args(["-n", "-c", "3", "-i", "0.05", "-W", "3", &address.to_string()])).or_panic();
    assert!(output.contains(" 0% packet loss"), "ping {address}: {output}");
}

/// An iperf3 server.
#[derive(Debug)]
pub struct Iperf3Server(Child);

impl Iperf3Server {
    /// Starts one that serves one test; it listens when this returns.
    pub fn start(netns: &Netns, port: u16) -> Self {
        Self::start_with(netns, port, &["--one-off"])
    }

    /// Starts one that outlives connections without a test, such as those of health checks.
    pub fn start_permanent(netns: &Netns, port: u16) -> Self {
        Self::start_with(netns, port, &[])
    }

    fn start_with(netns: &Netns, port: u16, options: &[&str]) -> Self {
        let child = netns
            .command("iperf3")
            .args(["--server", "--port", &port.to_string()])
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("run iperf3");
        let needle = format!(":{port:04X} ");
        wait::until("the iperf3 server to listen", wait::STEP, || {
            let sockets = netns.run(|| {
                // Not /proc/self: that is the main thread's namespace.
                std::fs::read_to_string("/proc/thread-self/net/tcp6").unwrap_or_default()
            });
            let listens = |line: &str| line.contains(&needle) && line.contains(" 0A ");
            sockets
                .lines()
                .any(listens)
                .then_some(())
                .ok_or_else(|| format!("no listener on port {port}"))
        });
        Self(child)
    }
}

impl Drop for Iperf3Server {
    fn drop(&mut self) {
        // It may have ended after its test.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Runs an iperf3 client and returns its JSON report.
pub fn iperf3(netns: &Netns, address: IpAddr, port: u16, arguments: &[&str]) -> Value {
    let output = netns
        .command("iperf3")
        .args(["--client", &address.to_string(), "--port", &port.to_string()])
        .args(["--json", "--connect-timeout", "5000"])
        .args(arguments)
        .output()
        .expect("run iperf3");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        let text = String::from_utf8_lossy(&output.stdout);
        panic!(
            "iperf3 {arguments:?}: {}: no JSON: {error}: {text}",
            output.status
        )
    });
    assert!(
        output.status.success() && report["error"].is_null(),
        "iperf3 {arguments:?}: {}: {}",
        output.status,
        report["error"]
    );
    report
}

/// A TCP connection from `node` to `to`, whose reads and writes have [`wait::STEP`] as their time-out; panics if it
/// is not opened.
pub fn tcp(node: &Node, to: SocketAddr) -> TcpStream {
    let from = SocketAddr::new(node.address(Family::of(to.ip())), 0);
    node.netns
        .run(|| connect_tcp(from, to, wait::STEP))
        .unwrap_or_else(|error| panic!("connect from {from} to {to}: {error}"))
}

/// A UDP socket of `node` with source port `port` (0: any), connected to `to`, with a time-out of five
/// seconds.
pub fn udp(node: &Node, port: u16, to: SocketAddr) -> UdpSocket {
    let family = Family::of(to.ip());
    node.netns.run(|| {
        let socket = UdpSocket::bind((node.address(family), port)).expect("bind a UDP socket");
        socket.connect(to).expect("connect a UDP socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .expect("set a time-out");
        socket
    })
}

/// Standard output and error of a program that has ended, for messages.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
