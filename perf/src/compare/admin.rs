//! The state of a running vl3-lb, over the Unix socket of its admin API.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::error::CompareError;

/// Time for one response.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two looks at whether vl3-lb is ready.
const READY_POLL: Duration = Duration::from_millis(20);

/// A client of the admin API.
#[derive(Debug)]
pub(crate) struct Admin {
    socket: PathBuf,
}

impl Admin {
    /// Over this socket.
    pub(crate) const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Waits until the balancer is ready.
    pub(crate) fn wait(socket: PathBuf, limit: Duration) -> Result<Self, CompareError> {
        let admin = Self::new(socket);
        let start = Instant::now();
        loop {
            match admin.get("/readyz") {
                Ok(_) => return Ok(admin),
                Err(error) if start.elapsed() > limit => return Err(error),
                Err(_) => std::thread::sleep(READY_POLL),
            }
        }
    }

    /// The generation that every worker uses, and when the last one switched to it. Times are truncated to milliseconds,
    /// so that one is added.
    pub(crate) fn snapshot(&self) -> Result<(u64, SystemTime), CompareError> {
        let body = self.get("/api/v1/status")?;
        let status: Value = serde_json::from_str(&body).unwrap_or_default();
        let generation = status["generation"].as_u64();
        let time = status["items"][0]["snapshotTime"].as_str();
        let time = time.and_then(|time| humantime::parse_rfc3339(time).ok());
        generation
            .zip(time.map(|time| time + Duration::from_millis(1)))
            .ok_or(CompareError::NoGeneration { body })
    }

    /// Mean time of all changes by vl3-lb's own metric, in seconds: from a new set of backends until all workers use it.
    pub(crate) fn mean_apply_seconds(&self) -> Option<f64> {
        let metrics = self.metrics().ok()?;
        let value = |name: &str| -> Option<f64> {
            let line = metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.split(' ').next()?.parse().ok()
        };
        let count = value("vl3lb_snapshot_apply_duration_seconds_count")?;
        Some(value("vl3lb_snapshot_apply_duration_seconds_sum")? / count)
    }

    /// All metrics, as text (OpenMetrics 1.0).
    pub(crate) fn metrics(&self) -> Result<String, CompareError> {
        self.get("/metrics")
    }

    /// The body of a response with status 200.
    fn get(&self, path: &'static str) -> Result<String, CompareError> {
        let response = self.exchange(path).and_then(|response| {
            parse(&response).ok_or_else(|| io::Error::other("the response is not HTTP"))
        });
        match response {
            Ok((200, body)) => Ok(body),
            Ok((status, body)) => Err(CompareError::AdminStatus { path, status, body }),
            Err(cause) => Err(CompareError::Admin {
                socket: self.socket.clone(),
                cause,
            }),
        }
    }

    /// HTTP/1.0: the connection ends with the response.
    fn exchange(&self, path: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    }
}

/// Status and body.
fn parse(response: &str) -> Option<(u16, String)> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_a_status_and_a_body() {
        for (response, expected) in [
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
                Some((200, "ok")),
            ),
            (
                "HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\n",
                Some((503, "")),
            ),
            ("HTTP/1.0 200 OK\r\nContent", None),
            ("", None),
        ] {
            let expected = expected.map(|(status, body)| (status, body.to_owned()));
            assert_eq!(parse(response), expected, "{response:?}");
        }
    }
}
