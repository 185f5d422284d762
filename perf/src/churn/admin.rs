//! What a running vl3-lb tells about itself, over its admin listener.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::compare::peer::ADMIN_PORT;
use crate::failure::Failure;
use crate::net::Netns;

/// A connection that stays open.
#[derive(Debug)]
pub(super) struct Admin<'a> {
    netns: &'a Netns,
    stream: BufReader<TcpStream>,
}

impl<'a> Admin<'a> {
    /// Connects as soon as the balancer is ready.
    pub(super) fn wait(netns: &'a Netns, patience: Duration) -> Result<Self, Failure> {
        let start = Instant::now();
        loop {
            let error = match connect(netns) {
                Ok(stream) => {
                    let mut admin = Self { netns, stream };
                    match admin.get("/readyz") {
                        Ok((200, _)) => return Ok(admin),
                        Ok((status, body)) => format!("{status} {body}"),
                        Err(error) => error.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            if start.elapsed() > patience {
                return Err(Failure::new(format!("wait for vl3-lb to be ready: {error}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The generation that every worker uses, and when the last one had it: at most a millisecond too late,
    /// since times are told in milliseconds.
    pub(super) fn snapshot(&mut self) -> Result<(u64, SystemTime), Failure> {
        let status = self.status()?;
        let generation = status["generation"].as_u64();
        let time = status["items"][0]["snapshotTime"].as_str();
        let time = time.and_then(|time| humantime::parse_rfc3339(time).ok());
        generation
            .zip(time.map(|time| time + Duration::from_millis(1)))
            .ok_or_else(|| Failure::new(format!("no snapshot in the status of vl3-lb: {status}")))
    }

    /// What vl3-lb itself says how long its last change took, from when it was read to when all workers used it.
    pub(super) fn applied(&mut self) -> Option<f64> {
        let (_, metrics) = self.get("/metrics").ok()?;
        let value = |name: &str| -> Option<f64> {
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.split(' ').next()?.parse().ok()
        };
        let count = value("vl3lb_snapshot_apply_duration_seconds_count")?;
        Some(value("vl3lb_snapshot_apply_duration_seconds_sum")? / count)
    }

    fn status(&mut self) -> Result<Value, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(format!("ask vl3-lb for its status: {error}"));
        let (status, body) = self.get("/api/v1/status").map_err(|error| failed(&error))?;
        if status != 200 {
            return Err(failed(&format!("{status} {body}")));
        }
        serde_json::from_str(&body).map_err(|error| failed(&error))
    }

    /// Status and body. The listener may close the connection at any time between two requests.
    fn get(&mut self, path: &str) -> std::io::Result<(u16, String)> {
        match exchange(&mut self.stream, path) {
            Ok(answer) => Ok(answer),
            Err(_) => {
                self.stream = connect(self.netns)?;
                exchange(&mut self.stream, path)
            }
        }
    }
}

fn connect(netns: &Netns) -> std::io::Result<BufReader<TcpStream>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT));
    let stream = netns.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn exchange(stream: &mut BufReader<TcpStream>, path: &str) -> std::io::Result<(u16, String)> {
    write!(stream.get_mut(), "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    read_answer(stream)
}

/// An answer whose length is told beforehand.
fn read_answer(stream: &mut impl BufRead) -> std::io::Result<(u16, String)> {
    let invalid = |text: &str| std::io::Error::other(format!("no HTTP answer: {text:?}"));
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid(&line))?;
    let mut length = None;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    let length: usize = length.ok_or_else(|| invalid("no content-length"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_one_after_the_other() {
        let mut stream: &[u8] =
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 503 Not\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(read_answer(&mut stream).unwrap(), (200, "ok".to_owned()));
        assert_eq!(read_answer(&mut stream).unwrap(), (503, String::new()));
        assert!(read_answer(&mut stream).is_err());
    }
}
