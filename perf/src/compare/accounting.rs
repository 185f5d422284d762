//! CPU time of cores and processes (proc_stat(5), proc_pid_stat(5)), memory of processes, and the time in which threads
//! run or wait for a core (kernel: Documentation/scheduler/sched-stats.rst).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use procfs::process::{Process, Schedstat, Task};

use crate::failure::Failure;

/// What the names of a balancer's worker threads begin with.
const WORKER: &str = "worker-";

/// Busy time of cores since the start of the machine, in clock ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CoreTimes(Vec<CoreTime>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CoreTime {
    core: usize,
    /// All but idle time, waits for I/O and time that the hypervisor took.
    busy: u64,
    /// Hardware and software interrupts.
    interrupts: u64,
}

impl CoreTimes {
    pub(super) fn now() -> Result<Self, Failure> {
        let text = fs::read_to_string("/proc/stat").map_err(Failure::system("read /proc/stat"))?;
        Ok(Self::parse(&text))
    }

    /// The lines of single cores: `cpu0 user nice system idle iowait irq softirq ...`. Cores that are offline have
    /// none, so the number counts and not the position.
    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.strip_prefix("cpu")?.split_whitespace();
            let core = fields.next()?.parse().ok()?;
            let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
            let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = &ticks[..] else {
                return None;
            };
            Some(CoreTime {
                core,
                busy: user + nice + system + irq + softirq,
                interrupts: irq + softirq,
            })
        };
        let cores = text.lines().filter(|text| !text.starts_with("cpu "));
        Self(cores.filter_map(line).collect())
    }

    /// CPU time of a peer since `before`: all of core `own`, and the interrupts of the others, in which the kernel works
    /// for the peer while another program runs.
    pub(super) fn peer_since(&self, before: &Self, own: usize) -> Duration {
        let part = |time: &CoreTime| {
            if time.core == own {
                time.busy
            } else {
                time.interrupts
            }
        };
        let sum = |times: &Self| times.0.iter().map(part).sum::<u64>();
        ticks(sum(self).saturating_sub(sum(before)))
    }
}

/// User and system time of a process and its living descendants, since their start.
pub(super) fn process_time(pid: u32) -> Duration {
    let stats = family(pid).into_iter().filter_map(|process| process.stat().ok());
    ticks(stats.map(|stat| stat.utime + stat.stime).sum())
}

/// Bytes of resident memory of a process and its descendants.
pub(super) fn resident_bytes(pid: u32) -> u64 {
    let statuses = family(pid)
        .into_iter()
        .filter_map(|process| process.status().ok());
    statuses.filter_map(|status| status.vmrss).sum::<u64>() * 1024
}

/// All threads of these processes and their descendants.
fn threads(pids: &[u32]) -> impl Iterator<Item = Task> {
    let processes = pids.iter().copied().flat_map(family);
    processes.flat_map(|process| process.tasks().into_iter().flatten().flatten())
}

/// A process and its descendants.
fn family(pid: u32) -> Vec<Process> {
    let open = |pid: u32| i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok());
    let mut all: Vec<Process> = open(pid).into_iter().collect();
    let mut next = 0;
    while let Some(process) = all.get(next) {
        let children = process
            .task_main_thread()
            .and_then(|thread| thread.children())
            .unwrap_or_default();
        all.extend(children.into_iter().filter_map(open));
        next += 1;
    }
    all
}

/// Time of `count` clock ticks.
fn ticks(count: u64) -> Duration {
    Duration::from_secs(count) / u32::try_from(procfs::ticks_per_second()).unwrap_or(100)
}

/// Time of threads, by thread, since their start. Work in interrupts, and time that the hypervisor takes, are not in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ThreadTimes(BTreeMap<i32, Duration>);

impl ThreadTimes {
    /// Time that the calling thread spent ready to run without a core.
    pub(super) fn waits_of_this_thread() -> Self {
        let id = rustix::thread::gettid().as_raw_nonzero().get();
        let thread = Process::myself().and_then(|own| own.task_from_tid(id));
        Self::of(thread, |times| times.run_delay)
    }

    /// The same of all threads of these processes and their descendants.
    pub(super) fn waits_of(pids: &[u32]) -> Self {
        Self::of(threads(pids), |times| times.run_delay)
    }

    /// Time that the threads of these processes and their descendants ran, without a balancer's workers.
    pub(super) fn runs_beside_workers(pids: &[u32]) -> Self {
        let is_worker = |thread: &Task| {
            let stat = thread.stat();
            stat.is_ok_and(|stat| stat.comm.starts_with(WORKER))
        };
        let others = threads(pids).filter(|thread| !is_worker(thread));
        Self::of(others, |times| times.sum_exec_runtime)
    }

    /// Without threads that have ended, and those that the kernel does not count.
    fn of(threads: impl IntoIterator<Item = Task>, nanos: fn(&Schedstat) -> u64) -> Self {
        let times = threads.into_iter().filter_map(|thread| {
            let schedstat = thread.schedstat().ok()?;
            let counted = schedstat.pcount > 0;
            counted.then(|| (thread.tid, Duration::from_nanos(nanos(&schedstat))))
        });
        Self(times.collect())
    }

    /// The time of these threads since `before`, all together. `None` without threads, as for a peer in the kernel, or if
    /// the kernel does not count.
    pub(super) fn since(&self, before: &Self) -> Option<Duration> {
        let passed = |(thread, &time): (&i32, &Duration)| {
            time.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        (!self.0.is_empty()).then(|| self.0.iter().map(passed).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  0 0 0 0 0 0 0 0 0 0\n\
                          cpu0 10 1 5 1000 7 2 3 50 0 0\n\
                          cpu2 20 0 5 1000 0 0 1 0 0 0\n\
                          intr 12345 0 0\nctxt 99\n";
    const AFTER: &str = "cpu  0 0 0 0 0 0 0 0 0 0\n\
                         cpu0 110 1 55 1100 9 3 13 90 0 0\n\
                         cpu2 50 2 15 1000 0 1 4 0 0 0\n\
                         intr 12345 0 0\nctxt 99\n";

    #[test]
    fn a_peer_uses_its_core_and_the_interrupts_of_the_others() {
        let [before, after] = [BEFORE, AFTER].map(CoreTimes::parse);
        // Core 2: 30 user, 2 nice, 10 system, 1 irq, 3 softirq. Core 0: 1 irq, 10 softirq.
        assert_eq!(after.peer_since(&before, 2), ticks(46 + 11));
        assert_eq!(after.peer_since(&before, 0), ticks(100 + 50 + 11 + 4));
    }

    #[test]
    fn waits_are_summed_from_the_first_sight_of_a_thread() {
        let times = |threads: &[(i32, u64)]| {
            let times = threads
                .iter()
                .map(|&(id, nanos)| (id, Duration::from_nanos(nanos)));
            ThreadTimes(times.collect())
        };
        let before = times(&[(1, 100), (2, 50), (3, 1000)]);
        let after = times(&[(1, 170), (2, 50), (4, 8)]);
        assert_eq!(after.since(&before), Some(Duration::from_nanos(78)));
        assert_eq!(times(&[]).since(&before), None);
    }

    #[test]
    fn this_process_and_its_threads_are_found() {
        let pid = std::process::id();
        assert!(resident_bytes(pid) > 0);
        let own = ThreadTimes::waits_of_this_thread();
        let all = ThreadTimes::waits_of(&[pid]);
        assert!(own.0.keys().all(|thread| all.0.contains_key(thread)));
    }
}
