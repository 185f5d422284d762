//! Measurements with real connections: wrk, iperf3, and many connections held open at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use vl3lb_testbed::process;

use crate::failure::Failure;
use crate::net::{self, BALANCER_ADDRESS, Netns};

use super::error::CompareError;
use super::requirement::{Requirement, program};
use super::services::{BULK, WEB};

pub(super) const REQUIREMENTS: [Requirement; 1] = [Requirement::Program("wrk", "wrk")];

/// Connections of wrk.
const WRK_CONNECTIONS: u32 = 64;
/// Time until a service responds for the first time.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const START_POLL: Duration = Duration::from_millis(50);
/// Time for a connection, and for a request over it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections that may fail before no more are opened: a peer that is dead is not tried five thousand times.
const MAX_FAILURES: u32 = 10;

/// The clients of the services.
#[derive(Debug)]
pub(super) struct Clients<'a> {
    pub(super) netns: &'a Netns,
    pub(super) cores: String,
    pub(super) duration: Duration,
}

impl Clients<'_> {
    /// Waits until the web service responds.
    pub(super) fn wait(&self) -> Result<(), CompareError> {
        let start = Instant::now();
        loop {
            let cause = match self.netns.run(|| request(&mut connect()?)) {
                Ok(()) => return Ok(()),
                Err(cause) => cause,
            };
            if start.elapsed() > START_TIMEOUT {
                let address = address(WEB.port);
                return Err(CompareError::NoResponse { address, cause });
            }
            std::thread::sleep(START_POLL);
        }
    }

    /// Requests per second, with a new connection for each or over a few persistent ones.
    pub(super) fn requests(&self, new_connections: bool) -> Result<f64, Failure> {
        let mut wrk = vec![
            program("wrk"),
            "-t1".to_owned(),
            format!("-c{WRK_CONNECTIONS}"),
            format!("-d{}s", self.seconds()),
        ];
        if new_connections {
            wrk.extend(["-H", "Connection: close"].map(str::to_owned));
        }
        wrk.push(format!("http://{}/", address(WEB.port)));
        self.measure(&wrk, wrk_rate)
    }

    /// Bits per second through some connections, from the client, or to it if `down`.
    pub(super) fn bulk(&self, connections: u32, down: bool) -> Result<f64, Failure> {
        let iperf3 = format!(
            "{} -J -c {BALANCER_ADDRESS} -p {} -t {} -P {connections}{}",
            program("iperf3"),
            BULK.port,
            self.seconds(),
            if down { " -R" } else { "" }
        );
        let iperf3: Vec<String> = iperf3.split(' ').map(str::to_owned).collect();
        let start = Instant::now();
        loop {
            match self.measure(&iperf3, iperf3_rate) {
                Err(Failure::Compare(CompareError::Client { output, .. }))
                    if is_server_busy(&output) && start.elapsed() < START_TIMEOUT =>
                {
                    std::thread::sleep(START_POLL);
                }
                result => return result,
            }
        }
    }

    /// Of `count` connections, those that are open at the same time and each carry a request at the end.
    pub(super) fn connections(&self, count: u32) -> u32 {
        self.netns.run(|| {
            let mut failures = 0;
            let mut open: Vec<TcpStream> = (0..count)
                .map(|_| connect())
                .take_while(|stream| {
                    failures += u32::from(stream.is_err());
                    failures <= MAX_FAILURES
                })
                .flatten()
                .collect();
            let answered = open.iter_mut().map(request).filter(Result::is_ok).count();
            u32::try_from(answered).unwrap_or(count)
        })
    }

    fn seconds(&self) -> u64 {
        self.duration.as_secs().max(1)
    }

    /// Runs a program and reads its result.
    fn measure(&self, program: &[String], read: fn(&str) -> Option<f64>) -> Result<f64, Failure> {
        let output = process::run(&mut net::on_cores(self.netns, &self.cores, program))?;
        let result = read(&output);
        result.ok_or_else(|| {
            CompareError::Client {
                program: program.join(" "),
                output,
            }
            .into()
        })
    }
}

const fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(BALANCER_ADDRESS, port)
}

fn connect() -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address(WEB.port).into(), REQUEST_TIMEOUT)?;
    stream.set_read_timeout(Some(REQUEST_TIMEOUT))?;
    Ok(stream)
}

/// One request over a persistent connection.
fn request(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: balancer\r\n\r\n")?;
    let mut response = [0; 12];
    stream.read_exact(&mut response)?;
    if &response == b"HTTP/1.1 200" {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&response).into_owned()))
    }
}

/// `Requests/sec:  12345.67`
fn wrk_rate(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"))?;
    line.trim().parse().ok()
}

/// An iperf3 server opens its port anew after each test.
fn is_server_busy(text: &str) -> bool {
    let report: Value = serde_json::from_str(text).unwrap_or_default();
    let error = report["error"].as_str().unwrap_or_default();
    ["Connection refused", "Connection reset", "server is busy"]
        .iter()
        .any(|reason| error.contains(reason))
}

fn iperf3_rate(text: &str) -> Option<f64> {
    let report: Value = serde_json::from_str(text).ok()?;
    report["end"]["sum_received"]["bits_per_second"].as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_of_wrk_and_iperf3_are_read() {
        let text = "  2 threads and 64 connections\n  12 requests in 1.00s, 1.0MB read\n  \
                    Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n";
        assert_eq!(wrk_rate(text), Some(12345.67));
        assert_eq!(wrk_rate("unable to connect"), None);
        let text = r#"{"end": {"sum_received": {"bits_per_second": 2.5e9}}}"#;
        assert_eq!(iperf3_rate(text), Some(2.5e9));
        let refused = r#"{"end": {}, "error": "unable to connect to server: Connection refused"}"#;
        assert_eq!(iperf3_rate(refused), None);
        assert!(is_server_busy(refused) && !is_server_busy(text) && !is_server_busy("{}"));
    }
}
