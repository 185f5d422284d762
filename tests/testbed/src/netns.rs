//! Network namespaces without a name.
//!
//! The kernel removes a namespace with its devices when its last descriptor is closed and its last process has ended.
#![expect(
    unsafe_code,
    reason = "unshare(2), and the set-up of a program between fork and exec, are unsafe"
)]

use std::fs::File;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::TestbedError;
use crate::process;

/// A handle of a network namespace with its loopback up.
#[derive(Debug, Clone)]
pub struct Netns {
    label: Arc<str>,
    file: Arc<File>,
    /// Text of /etc/resolv.conf for programs; the machine's own if there is none.
    resolver: Arc<Mutex<Option<Arc<[u8]>>>>,
}

impl Netns {
    /// Makes a namespace. Errors name it by `label`.
    ///
    /// Addresses can be used at once: duplicate address detection is off.
    pub fn new(label: &str) -> Result<Self, TestbedError> {
        if !rustix::process::geteuid().is_root() {
            return Err(TestbedError::NotRoot);
        }
        let make = || {
            // SAFETY: the thread leaves its network namespace and nothing else; it keeps sharing its descriptors.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            File::open("/proc/thread-self/ns/net")
        };
        let file = joined(std::thread::scope(|scope| scope.spawn(make).join()))
            .map_err(TestbedError::system(format!("make network namespace {label}")))?;
        let netns = Self::from_file(label, file);
        netns.ip("link set lo up")?;
        for interfaces in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{interfaces}/accept_dad"), "0")?;
        }
        Ok(netns)
    }

    /// The namespace of the calling thread.
    pub fn of_this_thread() -> Result<Self, TestbedError> {
        let file = File::open("/proc/thread-self/ns/net")
            .map_err(TestbedError::system("open the network namespace of this thread"))?;
        Ok(Self::from_file("this thread's namespace", file))
    }

    /// The label that it was made with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Where programs such as `ip link set DEVICE netns PATH` find it while this process lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `lines` of `ip` commands in here, as one batch.
    pub fn ip(&self, lines: &str) -> Result<(), TestbedError> {
        self.feed(Command::new("ip").args(["-batch", "-"]), lines)
    }

    /// Runs `command` in here with `input` as its standard input.
    pub fn feed(&self, command: &mut Command, input: &str) -> Result<(), TestbedError> {
        let output = self.run(|| {
            let mut child = command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = child.stdin.take() {
                // The exit status and standard error of a program that stops reading are the better report.
                stdin.write_all(input.as_bytes()).ok();
            }
            child.wait_with_output()
        });
        let output = output.map_err(|cause| process::not_started(command, cause))?;
        process::check(command, &output).map_err(|error| match error {
            TestbedError::Failed {
                program,
                status,
                output,
            } => TestbedError::Failed {
                program: format!("{program} in {}", self.label),
                status,
                output: format!("{}\n{input}", output.trim_end()),
            },
            other => other,
        })
    }

    /// A command that will run in here, with the namespace's own /sys. It gets SIGKILL when the thread that
    /// starts it ends.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        let resolver = self
            .resolver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let parent = getpid();
        // SAFETY: `prepare` makes system calls only: it neither allocates nor takes locks, which another thread
        // may have held at the fork.
        unsafe { command.pre_exec(move || prepare(&file, parent, resolver.as_deref())) };
        command
    }

    /// Runs `work` on a thread in here and returns its result. Sockets and devices that it makes stay in here.
    ///
    /// Panics if the calling thread has given up CAP_SYS_ADMIN since the namespace was made.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .unwrap_or_else(|error| panic!("enter network namespace {}: {error}", self.label));
            work()
        };
        joined(std::thread::scope(|scope| scope.spawn(inside).join()))
    }

    /// Starts a thread in here. Threads that it starts are in here too.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, TestbedError> {
        // A new thread inherits the namespace of the thread that starts it.
        self.run(|| std::thread::Builder::new().name(name.to_owned()).spawn(work))
            .map_err(TestbedError::system(format!("start thread {name}")))
    }

    /// Sets a kernel parameter of the namespace. `parameter` is its path below /proc/sys.
    pub fn sysctl(&self, parameter: &str, value: &str) -> Result<(), TestbedError> {
        self.run(|| std::fs::write(Path::new("/proc/sys").join(parameter), value))
            .map_err(TestbedError::system(format!(
                "set {parameter} to {value} in {}",
                self.label
            )))
    }

    /// Makes `nameserver` the resolver of the programs that are started in here from now on.
    pub fn resolve_with(&self, nameserver: IpAddr) {
        let text = format!("nameserver {nameserver}\noptions timeout:2 attempts:2\n");
        let mut resolver = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        *resolver = Some(text.into_bytes().into());
    }

    fn from_file(label: &str, file: File) -> Self {
        Self {
            label: label.into(),
            file: Arc::new(file),
            resolver: Arc::default(),
        }
    }
}

/// The result of a thread; a panic of it becomes one of this thread.
fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Set-up of a program between fork and exec: its namespace, /sys, resolver and end. Does not allocate.
fn prepare(netns: &File, parent: Pid, resolver: Option<&[u8]>) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != Some(parent) {
        // The parent ended before it could have an effect.
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    // SAFETY: the process leaves its mount namespace and nothing else; it keeps sharing no descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        c"/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )?;
    if let Some(text) = resolver {
        // The file needs no removal: its file system ends with the program, and sysfs hides it from the program.
        mount(c"tmpfs", c"/sys", c"tmpfs", MountFlags::empty(), None)?;
        std::fs::write("/sys/resolv.conf", text)?;
        mount_bind(c"/sys/resolv.conf", c"/etc/resolv.conf")?;
    }
    // sysfs shows the devices of the network namespace that it is mounted in.
    mount(c"sysfs", c"/sys", c"sysfs", MountFlags::empty(), None)?;
    Ok(())
}
