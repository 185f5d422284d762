//! How long threads were ready to run while another one had the core: /proc/PID/task/TID/schedstat (kernel:
//! Documentation/scheduler/sched-stats.rst).
//!
//! Whoever waits so is held up by the machine's other programs, not by what it does itself. Work in interrupts does not
//! queue for a core and is not in it; neither is time that the hypervisor takes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::accounting::family;

/// Time in run queues by thread, each since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunQueueTimes(BTreeMap<PathBuf, Duration>);

impl RunQueueTimes {
    /// That of the calling thread.
    pub(crate) fn of_this_thread() -> Self {
        Self::read([PathBuf::from("/proc/thread-self/schedstat")])
    }

    /// That of all threads of these processes and of their children. One file is read for each.
    pub(crate) fn of_processes(pids: &[u32]) -> Self {
        let threads = |pid| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            tasks
                .into_iter()
                .flatten()
                .flatten()
                .map(|task| task.path().join("schedstat"))
        };
        Self::read(pids.iter().copied().flat_map(family).flat_map(threads))
    }

    /// Leaves out what cannot be read: the thread has ended.
    fn read(files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::of(files.into_iter().filter_map(|file| {
            let text = fs::read_to_string(&file).ok()?;
            Some((file, text))
        }))
    }

    fn of(files: impl Iterator<Item = (PathBuf, String)>) -> Self {
        Self(
            files
                .filter_map(|(file, text)| Some((file, parse(&text)?)))
                .collect(),
        )
    }

    /// Time that all these threads together waited since `before`: two that wait for one second have waited for two.
    /// `None` if there are none, as for a peer in the kernel, or if the kernel does not count.
    pub(crate) fn since(&self, before: &Self) -> Option<Duration> {
        let waited = |(thread, &time): (&PathBuf, &Duration)| {
            time.saturating_sub(before.0.get(thread).copied().unwrap_or_default())
        };
        (!self.0.is_empty()).then(|| self.0.iter().map(waited).sum())
    }
}

/// The second of three fields: nanoseconds on the core, nanoseconds in a run queue, turns on the core. All are 0 where the
/// kernel does not count, and for a thread that has not run yet.
fn parse(text: &str) -> Option<Duration> {
    let fields: Vec<u64> = text
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    match fields[..] {
        [_, waited, turns] if turns > 0 => Some(Duration::from_nanos(waited)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(threads: &[(&str, &str)]) -> RunQueueTimes {
        RunQueueTimes::of(threads.iter().map(|&(file, text)| (file.into(), text.to_owned())))
    }

    #[test]
    fn the_second_field_is_nanoseconds_in_a_run_queue() {
        assert_eq!(parse("236881 1500 1\n"), Some(Duration::from_nanos(1500)));
        assert_eq!(parse("236881 0 1\n"), Some(Duration::ZERO));
        for text in ["0 0 0\n", "", "1 2\n", "1 2 3 4\n", "1 two 3\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn threads_are_summed_from_when_they_were_first_seen() {
        let before = times(&[("a", "9 100 1"), ("b", "9 50 1"), ("ended", "9 1000 1")]);
        let after = times(&[("a", "9 170 2"), ("b", "9 50 1"), ("new", "9 8 1")]);
        assert_eq!(after.since(&before), Some(Duration::from_nanos(78)));
    }

    #[test]
    fn nobody_waits_where_nobody_is_counted() {
        let nobody = RunQueueTimes::of_processes(&[]);
        assert_eq!(nobody.since(&nobody), None);
        let uncounted = times(&[("a", "0 0 0")]);
        assert_eq!(uncounted.since(&uncounted), None);
    }

    #[test]
    fn the_threads_of_a_process_are_found_where_the_kernel_counts() {
        let own = RunQueueTimes::of_this_thread();
        let all = RunQueueTimes::of_processes(&[std::process::id()]);
        assert_eq!(own.0.is_empty(), all.0.is_empty());
        assert!(all.0.len() >= own.0.len());
    }
}
