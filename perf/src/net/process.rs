//! Programs in namespaces, each on cores of its own choice.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::failure::Failure;

use super::Netns;

/// How long a program may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(3);
/// Lines of a log in a failure.
const LOG_TAIL: usize = 8;

/// A running program; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program` in `netns` on `cores` (as for taskset), with its output in `log`. Its stdin is open and
    /// empty. /sys is that of the namespace.
    pub(crate) fn start(netns: &Netns, cores: &str, program: &[String], log: &Path) -> Result<Self, Failure> {
        let name = program.first().cloned().unwrap_or_default();
        let failed = |error: std::io::Error| Failure::new(format!("start {name}: {error}"));
        let output = File::create(log).map_err(failed)?;
        let child = in_namespace(netns, cores, program)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .spawn()
            .map_err(failed)?;
        let log = log.to_owned();
        Ok(Self { name, child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails with the end of its log if it has ended.
    pub(crate) fn alive(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::new(format!(
                "{} ended: {status}: {}",
                self.name,
                self.log_tail()
            ))),
            Err(error) => Err(Failure::new(format!("look at {}: {error}", self.name))),
        }
    }

    /// The last lines of what it said.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
            && matches!(self.child.try_wait(), Ok(None))
        {
            // It may end by itself in the meantime.
            kill_process(pid, Signal::TERM).ok();
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs `program` in `netns` on `cores` to its end.
pub(crate) fn output(netns: &Netns, cores: &str, program: &[String]) -> Result<Output, Failure> {
    in_namespace(netns, cores, program)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::new(format!("run {}: {error}", program.join(" "))))
}

/// Each step replaces itself by the next, so the child's id is the program's.
fn in_namespace(netns: &Netns, cores: &str, program: &[String]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "nsenter"])
        .arg(format!("--net={}", netns.path().display()))
        .args(["unshare", "--mount", "sh", "-c"])
        .arg(
            r#"ulimit -n 200000 2>/dev/null || ulimit -n "$(ulimit -H -n)"
            mount -t sysfs sysfs /sys && exec taskset --cpu-list "$0" "$@""#,
        )
        .arg(cores)
        .args(program);
    command
}

/// Raises this process's limit of open files as far as it may.
pub(crate) fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it may not, fewer connections are opened, and the result says so.
    setrlimit(Resource::Nofile, most).ok();
}

/// Where `program` is, if it is installed: PATH, and where Debian keeps daemons.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
