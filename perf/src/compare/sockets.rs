//! Measurements with real connections: wrk, iperf3, and many connections held open at once.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, Netns, on_path, output};

use super::services::{BULK, WEB};

/// Connections of wrk.
const WRK_CONNECTIONS: u32 = 64;
/// How long a service may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection, or a request over it, may take.
const LIMIT: Duration = Duration::from_secs(2);
/// Connections that may fail before no more are opened: one that is lost is one that is lost, but a peer that is
/// dead is not asked five thousand times.
const MOST_FAILURES: u32 = 10;

/// The clients' side.
#[derive(Debug)]
pub(crate) struct Clients<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) cores: String,
    pub(crate) duration: Duration,
}

impl Clients<'_> {
    /// Waits until the web service answers.
    pub(crate) fn wait(&self) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let error = match self.netns.run(|| ask(&mut connect()?)) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if start.elapsed() > PATIENCE {
                return Err(Failure::new(format!(
                    "wait for an answer from {}: {error}",
                    address(WEB.port)
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Requests per second, each over a connection of its own, or all over a few that stay.
    pub(crate) fn requests(&self, each_connects: bool) -> Result<f64, Failure> {
        let mut program = vec![path("wrk"), "-t1".to_owned(), format!("-c{WRK_CONNECTIONS}")];
        program.push(format!("-d{}s", self.duration.as_secs().max(1)));
        if each_connects {
            program.extend(["-H", "Connection: close"].map(str::to_owned));
        }
        program.push(format!("http://{}/", address(WEB.port)));
        let text = self.run(&program)?;
        parse_wrk(&text).ok_or_else(|| Failure::new(format!("{}: no rate in: {text}", program.join(" "))))
    }

    /// Bits per second through one connection.
    pub(crate) fn bulk(&self) -> Result<f64, Failure> {
        let program: Vec<String> = [
            &path("iperf3"),
            "-J",
            "-c",
            &BALANCER_ADDRESS.to_string(),
            "-p",
            &BULK.port.to_string(),
            "-t",
            &self.duration.as_secs().max(1).to_string(),
        ]
        .map(ToString::to_string)
        .into();
        let text = self.run(&program)?;
        let report: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::new(format!("{}: {error}: {text}", program.join(" "))))?;
        report["end"]["sum_received"]["bits_per_second"]
            .as_f64()
            .ok_or_else(|| Failure::new(format!("{}: {}", program.join(" "), report["error"])))
    }

    /// Of `wanted` connections, those that are open at the same time and each carry a request at the end.
    pub(crate) fn connections(&self, wanted: u32) -> u32 {
        self.netns.run(|| {
            let mut failures = 0;
            let mut open: Vec<TcpStream> = (0..wanted)
                .map(|_| connect())
                .take_while(|stream| {
                    failures += u32::from(stream.is_err());
                    failures <= MOST_FAILURES
                })
                .flatten()
                .collect();
            let answered = open.iter_mut().map(ask).filter(Result::is_ok).count();
            u32::try_from(answered).unwrap_or(wanted)
        })
    }

    fn run(&self, program: &[String]) -> Result<String, Failure> {
        let output = output(self.netns, &self.cores, program)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::new(format!(
            "{}: {}: {text}{complaint}",
            program.join(" "),
            output.status
        )))
    }
}

/// Why these measurements cannot be made here.
pub(crate) fn absent() -> Option<String> {
    on_path("wrk")
        .is_none()
        .then(|| "wrk is not installed (Debian: wrk)".to_owned())
}

fn path(program: &str) -> String {
    on_path(program).map_or_else(|| program.to_owned(), |path| path.display().to_string())
}

const fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(BALANCER_ADDRESS, port)
}

fn connect() -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::V4(address(WEB.port)), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// One request over a connection that stays open.
fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: balancer\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    if &answer == b"HTTP/1.1 200" {
        Ok(())
    } else {
        Err(std::io::Error::other(
            String::from_utf8_lossy(&answer).into_owned(),
        ))
    }
}

/// `Requests/sec:  12345.67`
fn parse_wrk(text: &str) -> Option<f64> {
    let line = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Requests/sec:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_wrk_is_read() {
        let text = "  2 threads and 64 connections\n  12 requests in 1.00s, 1.0MB read\n  \
                    Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec:  12345.67\nTransfer/sec: 1MB\n";
        assert_eq!(parse_wrk(text), Some(12345.67));
        assert_eq!(parse_wrk("unable to connect"), None);
    }
}
