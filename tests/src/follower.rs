//! Those who follow what happens: a command of the binary that goes on until it is ended.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::balancer::Balancer;
use crate::wait;

/// A running `vl3-lb ... --follow`. Dropping it ends it.
#[derive(Debug)]
pub struct Follower {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<Value>,
}

impl Follower {
    /// Starts `vl3-lb ARGUMENTS --follow -o jsonl` against a balancer.
    pub fn start(balancer: &Balancer, arguments: &[&str]) -> Self {
        let mut command = balancer.cli_command(&[arguments, &["--follow", "-o", "jsonl"]].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the command line");
        let output = child.stdout.take().expect("it is piped");
        let (send, lines) = channel();
        // Ends with the child, or with the test that does not listen any more.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            heard: Vec::new(),
        }
    }

    /// Waits for an event of which `is_it` holds.
    pub fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(wait::STEP);
            let line = line.unwrap_or_else(|error| panic!("{what}: {error}; heard {:#?}", self.heard));
            let event: Value = serde_json::from_str(&line).expect("a JSON object a line");
            self.heard.push(event.clone());
            if is_it(&event) {
                return event;
            }
        }
    }

    /// What it heard while somebody waited.
    pub fn heard(&self) -> &[Value] {
        &self.heard
    }

    /// Stops it where it is: it does not read any more.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it as Ctrl-C does. Its exit status.
    pub fn interrupt(self) -> Option<i32> {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits for its end. Its exit status.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("wait for it").code()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the command line");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Gone already, if the test has not failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
