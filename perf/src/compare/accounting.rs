//! Who used the processor: /proc/stat and /proc/PID/stat (proc_stat(5), proc_pid_stat(5)).

use std::fs;
use std::time::Duration;

use crate::failure::Failure;

/// USER_HZ, which is 100 on every Linux that has one.
const TICK: Duration = Duration::from_millis(10);

/// Time that cores were busy, since the machine's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoreTimes(Vec<CoreTime>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CoreTime {
    core: usize,
    /// Everything but idling, waiting and what the hypervisor took.
    busy: Duration,
    /// Hardware and software interrupts.
    interrupts: Duration,
}

impl CoreTimes {
    pub(crate) fn now() -> Result<Self, Failure> {
        let text = fs::read_to_string("/proc/stat")
            .map_err(|error| Failure::new(format!("read /proc/stat: {error}")))?;
        Ok(Self::parse(&text))
    }

    fn parse(text: &str) -> Self {
        let line = |line: &str| {
            let mut fields = line.strip_prefix("cpu")?.split_whitespace();
            let core = fields.next()?.parse().ok()?;
            let ticks: Vec<u32> = fields.map_while(|field| field.parse().ok()).collect();
            let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = &ticks[..] else {
                return None;
            };
            Some(CoreTime {
                core,
                busy: TICK * (user + nice + system + irq + softirq),
                interrupts: TICK * (irq + softirq),
            })
        };
        // The first line is the sum: "cpu" with no number.
        Self(
            text.lines()
                .filter(|text| !text.starts_with("cpu "))
                .filter_map(line)
                .collect(),
        )
    }

    /// Time that a peer used since `before`: all of `own` cores, and the interrupts of the others, in which the kernel
    /// works for it while somebody else runs.
    pub(crate) fn peer_since(&self, before: &Self, own: &[usize]) -> Duration {
        let part = |time: &CoreTime| {
            if own.contains(&time.core) {
                time.busy
            } else {
                time.interrupts
            }
        };
        let sum = |times: &Self| times.0.iter().map(part).sum::<Duration>();
        sum(self).saturating_sub(sum(before))
    }
}

/// User and system time of a process and its children that live, since their start.
pub(crate) fn process_time(pid: u32) -> Duration {
    family(pid)
        .into_iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter_map(|stat| parse_process_time(&stat))
        .sum()
}

/// Bytes of memory of a process and its children that are resident.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    family(pid)
        .into_iter()
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .filter_map(|status| parse_resident(&status))
        .sum()
}

/// A process and its children, and theirs.
pub(super) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<u32>().ok()),
        );
        next += 1;
    }
    all
}

fn parse_process_time(stat: &str) -> Option<Duration> {
    // The second field is the name in parentheses, which may hold spaces and parentheses.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u32>().ok();
    Some(TICK * (field(14)? + field(15)?))
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  0 0 0 0 0 0 0 0 0 0\n\
                          cpu0 10 1 5 1000 7 2 3 50 0 0\n\
                          cpu1 20 0 5 1000 0 0 1 0 0 0\n\
                          intr 12345 0 0\nctxt 99\n";
    const AFTER: &str = "cpu  0 0 0 0 0 0 0 0 0 0\n\
                         cpu0 110 1 55 1100 9 3 13 90 0 0\n\
                         cpu1 50 2 15 1000 0 1 4 0 0 0\n\
                         intr 12345 0 0\nctxt 99\n";

    #[test]
    fn a_peer_pays_for_its_cores_and_for_the_interrupts_of_the_others() {
        let [before, after] = [BEFORE, AFTER].map(CoreTimes::parse);
        let ticks = |count: u32| TICK * count;
        // Core 1: 30 user, 2 nice, 10 system, 1 irq, 3 softirq. Core 0: 1 irq, 10 softirq.
        assert_eq!(after.peer_since(&before, &[1]), ticks(46 + 11));
        assert_eq!(after.peer_since(&before, &[0]), ticks(100 + 50 + 11 + 4));
        assert_eq!(after.peer_since(&before, &[]), ticks(11 + 4));
    }

    #[test]
    fn a_process_may_have_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 1 0 100 0 0";
        assert_eq!(parse_process_time(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_process_time("7 (cut"), None);
    }

    #[test]
    fn resident_memory_is_in_kilobytes() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2_097_152));
        assert_eq!(parse_resident("Name:\tkthread\n"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes(std::process::id()) > 0);
    }
}
