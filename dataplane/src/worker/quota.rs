//! The CPU time that the container may use, and what it leaves for busy polling.
//!
//! A worker that polls while it waits uses up the quota of its cgroup; then the kernel lets none of the process' threads
//! run for the rest of the period, usually up to 100 ms. With less CPU time than workers it is better to sleep at once:
//! waking up costs some 10 us.

use std::fs;
use std::path::{Path, PathBuf};

use vl3lb_common::Duration;

/// How long to poll without a packet before sleeping: the CPU time spent on each pause in the traffic.
/// Waking up costs some 10 us.
pub(super) const BUSY_POLL_TIMEOUT: Duration = Duration::from_micros(50);

/// How long each of `workers` workers polls before it sleeps, if all together may use `cpus` CPUs.
pub(super) fn busy_poll_timeout(cpus: Option<f64>, workers: usize) -> Duration {
    let workers = u32::try_from(workers).unwrap_or(u32::MAX);
    if cpus.is_some_and(|cpus| cpus < f64::from(workers)) {
        Duration::ZERO
    } else {
        BUSY_POLL_TIMEOUT
    }
}

/// The number of CPUs that this process may use all the time (cgroup v2, cpu.max); `None` if it is not limited, or unknown.
pub(super) fn cpus() -> Option<f64> {
    let membership = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit(Path::new("/sys/fs/cgroup"), &membership)
}

/// The smallest quota from the group in `membership` (/proc/self/cgroup) up to `root`.
fn limit(root: &Path, membership: &str) -> Option<f64> {
    let group = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let group: PathBuf = root.join(group.trim_start_matches('/'));
    group
        .ancestors()
        .take_while(|ancestor| ancestor.starts_with(root))
        .filter_map(|ancestor| quota(&fs::read_to_string(ancestor.join("cpu.max")).ok()?))
        .min_by(f64::total_cmp)
}

/// The CPUs of a line of cpu.max: quota and period in microseconds.
fn quota(line: &str) -> Option<f64> {
    let (quota, period) = line.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_cpu_time_than_workers_leaves_none_for_busy_polling() {
        for (cpus, workers, polls) in [
            (None, 4, true),
            (Some(4.0), 4, true),
            (Some(3.9), 4, false),
            (Some(0.3), 1, false),
            (Some(1.0), 1, true),
        ] {
            let timeout = busy_poll_timeout(cpus, workers);
            assert_eq!(timeout == BUSY_POLL_TIMEOUT, polls, "{cpus:?} {workers}");
            assert_eq!(timeout.is_zero(), !polls, "{cpus:?} {workers}");
        }
    }

    #[test]
    fn a_quota_is_a_share_of_its_period() {
        for (line, want) in [
            ("max 100000\n", None),
            ("30000 100000\n", Some(0.3)),
            ("400000 100000", Some(4.0)),
            ("5000 0", None),
            ("", None),
            ("30000", None),
        ] {
            assert_eq!(quota(line), want, "{line:?}");
        }
    }

    #[test]
    fn the_smallest_quota_of_the_hierarchy_counts() {
        let root = std::env::temp_dir().join(format!("vl3lb-quota-{}", std::process::id()));
        let pod = root.join("kubepods/pod7");
        fs::create_dir_all(pod.join("container")).unwrap();
        fs::write(root.join("kubepods/cpu.max"), "max 100000\n").unwrap();
        fs::write(pod.join("cpu.max"), "50000 100000\n").unwrap();
        fs::write(pod.join("container/cpu.max"), "150000 100000\n").unwrap();
        let limits = [
            "0::/kubepods/pod7/container\n",
            "1:cpu:/x\n0::/kubepods\n",
            "0::/\n",
            "4:cpu:/x\n",
        ]
        .map(|membership| limit(&root, membership));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(limits, [Some(0.5), None, None, None]);
    }
}
