//! Requests to the mesh's control server: HTTP and JSON on a unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

/// The mesh's own limits of starts and commands are shorter.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends a request and reads the answer; an error is the server's own, or says what failed.
pub(super) fn request(socket: &Path, method: &str, path: &str, body: &Value) -> Result<Value, String> {
    let (status, text) =
        exchange(socket, method, path, body).map_err(|error| format!("{}: {error}", socket.display()))?;
    let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    match status {
        200 => Ok(answer),
        _ => Err(answer["error"].as_str().unwrap_or(&text).to_owned()),
    }
}

fn exchange(socket: &Path, method: &str, path: &str, body: &Value) -> std::io::Result<(u16, String)> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    // HTTP/1.0: the body is not chunked and ends with the connection.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: mesh\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let malformed = || std::io::Error::other(format!("no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(malformed)?, body.to_owned()))
}
