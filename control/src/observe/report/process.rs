//! The kernel's accounting of the process.

use std::path::Path;

use crate::api;
use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, Process};

/// Reads it; values that cannot be read are `None`.
///
/// Cost: a handful of files under /proc and /sys, a fraction of a millisecond.
pub(super) fn read() -> api::Process {
    let Ok(process) = Process::myself() else {
        return api::Process::default();
    };
    let stat = process.stat().ok();
    let max_fds = process
        .limits()
        .ok()
        .and_then(|limits| match limits.max_open_files.soft_limit {
            LimitValue::Value(value) => Some(value),
            LimitValue::Unlimited => None,
        });
    api::Process {
        cpu_seconds_total: stat
            .as_ref()
            .map(|stat| seconds(stat.utime + stat.stime, procfs::ticks_per_second())),
        resident_memory_bytes: stat.as_ref().map(|stat| stat.rss_bytes().get()),
        virtual_memory_bytes: stat.as_ref().map(|stat| stat.vsize),
        open_fds: process.fd_count().ok().map(|count| count as u64),
        max_fds,
        cpu_throttled_seconds_total: throttled(&process),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "clock ticks and microseconds of a process are far below 2^53"
)]
fn seconds(count: u64, per_second: u64) -> f64 {
    count as f64 / per_second as f64
}

/// Seconds throttled by the CPU limit so far; `None` without a limit.
pub(super) fn throttled_now() -> Option<f64> {
    throttled(&Process::myself().ok()?)
}

/// Time throttled by the CPU limit of this process's cgroup (version 2).
fn throttled(process: &Process) -> Option<f64> {
    let groups = process.cgroups().ok()?;
    let unified = groups.0.iter().find(|group| group.hierarchy == 0)?;
    let folder = Path::new("/sys/fs/cgroup").join(unified.pathname.trim_start_matches('/'));
    // In a container the path may be the host's, and its own group is mounted at the root.
    let stat = std::fs::read_to_string(folder.join("cpu.stat"))
        .or_else(|_| std::fs::read_to_string("/sys/fs/cgroup/cpu.stat"))
        .ok()?;
    throttled_seconds(&stat)
}

fn throttled_seconds(cpu_stat: &str) -> Option<f64> {
    let micros = cpu_stat
        .lines()
        .find_map(|line| line.strip_prefix("throttled_usec "))?;
    Some(seconds(micros.trim().parse().ok()?, 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throttling_is_read_where_there_is_a_limit() {
        assert_eq!(
            throttled_seconds("usage_usec 5\nnr_throttled 3\nthrottled_usec 1500000\n"),
            Some(1.5)
        );
        assert_eq!(throttled_seconds("usage_usec 5\n"), None);
    }

    #[test]
    fn this_process_has_memory_and_open_files() {
        let process = read();
        assert!(process.resident_memory_bytes > Some(0));
        assert!(process.open_fds > Some(2));
        assert!(process.cpu_seconds_total.is_some());
    }
}
