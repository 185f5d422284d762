//! The load generator `vl3-perf`, and its echo servers.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::text;
use crate::wait;
use vl3lb_testbed::Netns;
use vl3lb_testbed::addresses::INTERFACE;

/// The binary, from the environment variable VL3PERF_BIN.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("VL3PERF_BIN").map(PathBuf::from);
    let path = path.filter(|path| path.is_absolute() && path.is_file());
    path.unwrap_or_else(|| {
        panic!(
            "VL3PERF_BIN is not the absolute path of a file: build it with `cargo build --release -p vl3lb-perf` \
             and set VL3PERF_BIN to the absolute path of target/release/vl3-perf"
        )
    })
}

/// A command `vl3-perf WORDS` in `netns`, not started yet.
pub fn command(netns: &Netns, words: &[&str]) -> Command {
    let mut command = netns.command(binary());
    command.args(words).stdin(Stdio::null());
    command
}

/// Runs `vl3-perf WORDS` to its end.
pub fn run(netns: &Netns, words: &[&str]) -> Output {
    command(netns, words).output().expect("run vl3-perf")
}

/// Runs `vl3-perf WORDS --json` and parses its report; panics with its output unless its exit status is `status`.
pub fn report(netns: &Netns, words: &[&str], status: i32) -> Value {
    let output = run(netns, &[words, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(status), "{words:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", text(&output)))
}

/// A running `vl3-perf serve` or `reflect`, which sends everything back. Dropping it ends it.
#[derive(Debug)]
pub struct EchoServer(Child);

impl EchoServer {
    /// `vl3-perf serve` on all addresses of `netns`.
    pub fn serve(netns: &Netns, port: u16) -> Self {
        Self::start(netns, &["serve", &format!(":{port}")])
    }

    /// `vl3-perf reflect` on the vL3 interface of `netns`.
    pub fn reflect(netns: &Netns, mode: &str, listen: &[SocketAddr]) -> Self {
        let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
        let mut words = vec!["reflect", INTERFACE, "--mode", mode];
        words.extend(listen.iter().map(String::as_str));
        Self::start(netns, &words)
    }

    /// It prints a line when it is ready.
    fn start(netns: &Netns, words: &[&str]) -> Self {
        let mut child = command(netns, words)
            .stderr(Stdio::piped())
            .spawn()
            .expect("run vl3-perf");
        let stderr = child.stderr.take().expect("stderr is piped");
        let server = Self(child);
        let mut line = String::new();
        let mut lines = BufReader::new(stderr);
        lines.read_line(&mut line).expect("read its first line");
        assert!(line.contains("until Ctrl-C"), "vl3-perf {words:?}: {line}");
        // Reads on: without a reader its last line would be an error.
        std::thread::spawn(move || lines.lines().map_while(Result::ok).for_each(drop));
        server
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        interrupt(&self.0);
        wait::until("the echo server to end", wait::STEP, || {
            let status = self.0.try_wait().expect("get the status of the echo server");
            status.ok_or("still running")
        });
    }
}

/// Sends SIGINT, as Ctrl-C does.
pub fn interrupt(child: &Child) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a process id");
    // It may have ended.
    kill_process(pid, Signal::INT).ok();
}
