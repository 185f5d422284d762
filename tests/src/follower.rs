//! A command of the binary that follows events or flows until it is ended.

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
    events: Vec<Value>,
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
        // Ends with the child, or when the receiver is dropped.
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
            events: Vec::new(),
        }
    }

    /// Reads events up to the first one that `matches`, and returns that. `what` names it in the panic when it does
    /// not come.
    pub fn wait_for(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(wait::STEP);
            let line = line.unwrap_or_else(|error| panic!("{what}: {error}; events: {:#?}", self.events));
            let event: Value = serde_json::from_str(&line).expect("a JSON object per line");
            self.events.push(event.clone());
            if matches(&event) {
                return event;
            }
        }
    }

    /// The events that [`wait_for`](Self::wait_for) has read so far, in order.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    /// Stops the process (SIGSTOP): it reads nothing until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Continues the process.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it as Ctrl-C does, and returns its exit status.
    pub fn interrupt(self) -> Option<i32> {
        self.signal(Signal::INT);
        self.wait()
    }

    /// Waits for its end, and returns its exit status.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("wait for the command line").code()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal the command line");
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
