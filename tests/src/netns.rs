//! Network namespaces that remove themselves.
//!
//! Names carry the process id of their creator, so that several runs never meet, and what a killed run left
//! behind can be told from what a living one uses.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PREFIX: &str = "vl3lb-test";
const RUN_DIR: &str = "/run/netns";
/// `ip netns exec` binds the files in here over those in /etc.
const ETC_DIR: &str = "/etc/netns";

/// A network namespace with its loopback up. Dropping it deletes it with all its devices.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Creates a namespace; `label` is the readable part of its name.
    pub fn new(label: &str) -> Self {
        static REAP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        REAP.call_once(|| {
            assert!(
                rustix::process::geteuid().is_root(),
                "these tests make network namespaces and attach BPF programs: run them as root"
            );
            remove_stale();
        });
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}-{}-{number}-{label}", std::process::id());
        must_run(Command::new("ip").args(["netns", "add", &name]));
        let file = File::open(Path::new(RUN_DIR).join(&name))
            .unwrap_or_else(|error| panic!("open network namespace {name}: {error}"));
        let netns = Self { name, file };
        netns.ip("link set lo up");
        // Addresses are usable at once, link-local ones too; the peers are known not to clash.
        netns.sysctl("net/ipv6/conf/all/accept_dad", "0");
        netns.sysctl("net/ipv6/conf/default/accept_dad", "0");
        netns
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs lines of `ip` commands in here, in one go.
    pub fn ip(&self, lines: &str) {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("run ip: {error}; is iproute2 installed?"));
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(lines.as_bytes()).expect("ip reads its commands");
        drop(stdin);
        let output = child.wait_with_output().expect("ip ends");
        assert!(
            output.status.success(),
            "ip -n {}: {}\n{lines}",
            self.name,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// A command that will run in here, with a /sys and an /etc/resolv.conf of the namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs `work` on a thread in here. Sockets and devices that it makes stay in here.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread in here that may outlive this call. Threads that it starts are in here too.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let file = self.file.try_clone().expect("duplicate a namespace descriptor");
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                enter(&file);
                drop(file);
                work()
            })
            .expect("start a thread")
    }

    /// Sets a per-namespace kernel parameter, named by its path below /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| {
            std::fs::write(Path::new("/proc/sys").join(path), value)
                .unwrap_or_else(|error| panic!("set {path} to {value} in {}: {error}", self.name));
        });
    }

    /// Makes `nameserver` the resolver of the programs that run in here.
    pub fn resolve_with(&self, nameserver: std::net::IpAddr) {
        let dir = Path::new(ETC_DIR).join(&self.name);
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("create {}: {error}", dir.display()));
        let conf = format!("nameserver {nameserver}\noptions timeout:2 attempts:2\n");
        std::fs::write(dir.join("resolv.conf"), conf).expect("write resolv.conf");
    }

    fn enter(&self) {
        enter(&self.file);
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        delete(&self.name);
    }
}

fn enter(file: &File) {
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .expect("enter a network namespace of our own");
}

/// Runs a program to its end and returns what it printed; panics with its complaint if it fails.
pub fn must_run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Removes the namespaces of creators that are gone, and ends what still runs in them.
fn remove_stale() {
    let Ok(entries) = std::fs::read_dir(RUN_DIR) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let creator = name.strip_prefix(PREFIX).and_then(|rest| {
            rest.trim_start_matches('-')
                .split('-')
                .next()?
                .parse::<u32>()
                .ok()
        });
        if creator.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let pids = Command::new("ip").args(["netns", "pids", &name]).output();
            let pids = pids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            for pid in pids.unwrap_or_default().lines() {
                if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                    // It may have ended by itself in the meantime.
                    kill_process(pid, Signal::KILL).ok();
                }
            }
            delete(&name);
        }
    }
}

fn delete(name: &str) {
    let etc = Path::new(ETC_DIR).join(name);
    if etc.exists() {
        std::fs::remove_dir_all(&etc).ok();
        // Only if it is empty: others may use it.
        std::fs::remove_dir(ETC_DIR).ok();
    }
    let output = Command::new("ip").args(["netns", "delete", name]).output();
    if let Ok(output) = output
        && !output.status.success()
    {
        eprintln!(
            "delete network namespace {name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
