//! Programs in namespaces, each on cores of its own choice.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use vl3lb_testbed::Netns;
use vl3lb_testbed::process::Process;

use crate::failure::Failure;

/// Open files of this process and of the programs that it starts.
const OPEN_FILES: u64 = 200_000;

/// Starts `program` in `netns` on `cores` (as for taskset), with its output in the new file `log`. Its stdin is open
/// and empty.
pub(crate) fn start(netns: &Netns, cores: &str, program: &[String], log: &Path) -> Result<Process, Failure> {
    // That of an earlier round; there may be none.
    std::fs::remove_file(log).ok();
    let mut command = on_cores(netns, cores, program);
    Ok(Process::start(command.stdin(Stdio::piped()), log)?)
}

/// A command in `netns` on `cores`. taskset replaces itself by the program, so the child's id is the program's.
pub(crate) fn on_cores(netns: &Netns, cores: &str, program: &[String]) -> Command {
    let mut command = netns.command("taskset");
    command.args(["--cpu-list", cores]).args(program);
    command
}

/// Sets the limit of open files, for this process and those that it starts from now on.
pub(super) fn limit_open_files() {
    let limit = |files: Option<u64>| Rlimit {
        current: files,
        maximum: files,
    };
    if setrlimit(Resource::Nofile, limit(Some(OPEN_FILES))).is_err() {
        // Where it cannot be raised, fewer connections are opened, and the result says so.
        setrlimit(Resource::Nofile, limit(getrlimit(Resource::Nofile).maximum)).ok();
    }
}

/// Where `program` is, if it is installed: PATH, and where Debian keeps daemons.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}
