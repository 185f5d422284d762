//! Network namespaces without a name: they go with the last descriptor that holds them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::failure::Failure;

/// A network namespace of ours, with its loopback up.
#[derive(Debug)]
pub(crate) struct Netns(File);

impl Netns {
    /// Makes a namespace. Needs root, and util-linux and iproute2.
    pub(crate) fn new() -> Result<Self, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new("make a network namespace: not root; run it as root"));
        }
        // The process that makes the namespace lives until we hold it ourselves.
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo made; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::new(format!("run unshare: {error}; install util-linux")))?;
        let made = child.stdout.as_mut().map(|stdout| stdout.read_exact(&mut [0; 5]));
        let file = match made {
            Some(Ok(())) => File::open(format!("/proc/{}/ns/net", child.id())),
            Some(Err(error)) => Err(error),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        drop(child.stdin.take());
        child
            .wait()
            .map_err(|error| Failure::new(format!("wait for unshare: {error}")))?;
        let netns = Self(file.map_err(|error| Failure::new(format!("make a network namespace: {error}")))?);
        netns.ip("link set lo up")?;
        for kind in ["all", "default"] {
            // Addresses are usable at once: nobody else is there.
            netns.sysctl(&format!("net/ipv6/conf/{kind}/accept_dad"), "0")?;
        }
        Ok(netns)
    }

    /// Where programs find it, as long as this process lives.
    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// Runs lines of `ip` commands in here.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), Failure> {
        self.feed(&["ip", "-batch", "-"], lines)
    }

    /// Runs a program in here with `input` on its stdin; fails with its complaint.
    pub(crate) fn feed(&self, program: &[&str], input: &str) -> Result<(), Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::new(format!("{}: {error}\n{input}", program.join(" ")));
        let mut child = Command::new("nsenter")
            .arg(format!("--net={}", self.path().display()))
            .args(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // A program that gave up says why on stderr.
        let written = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().map_err(|error| failed(&error))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr).trim()));
        }
        written.map_err(|error| failed(&error))
    }

    /// Sets a kernel parameter of the namespace, named by its path below /proc/sys.
    pub(crate) fn sysctl(&self, path: &str, value: &str) -> Result<(), Failure> {
        self.run(|| std::fs::write(format!("/proc/sys/{path}"), value))
            .map_err(|error| Failure::new(format!("set {path} to {value}: {error}")))
    }

    /// Runs `work` on a thread in here; sockets that it makes stay in here.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a network namespace of its own");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
