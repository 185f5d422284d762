//! The processor time of the target, where it is a process of this machine.

use procfs::process::Process;

use crate::failure::Failure;

/// Measures the processor time of one process, all of its threads together. What the kernel does for it in
/// interrupts is not in it.
#[derive(Debug)]
pub(super) struct CpuMeter {
    process: Process,
    /// At the start, in ticks; `None` before it.
    start: Option<u64>,
}

impl CpuMeter {
    /// # Errors
    ///
    /// There is no such process.
    pub(super) fn new(pid: i32) -> Result<Self, Failure> {
        let process = Process::new(pid).map_err(|error| {
            Failure::arguments(format!("--target-pid {pid}: look at the process: {error}"))
        })?;
        Ok(Self { process, start: None })
    }

    /// Counts from now on.
    pub(super) fn start(&mut self) {
        self.start = self.ticks();
    }

    /// Seconds since the start; `None` if it was not started, or the process has ended.
    pub(super) fn seconds(&self) -> Option<f64> {
        let ticks = self.ticks()?.checked_sub(self.start?)?;
        #[expect(clippy::cast_precision_loss, reason = "ticks of years are below 2^53")]
        let seconds = ticks as f64 / procfs::ticks_per_second() as f64;
        Some(seconds)
    }

    fn ticks(&self) -> Option<u64> {
        let stat = self.process.stat().ok()?;
        Some(stat.utime + stat.stime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_uses_time_and_one_that_is_not_there_is_refused() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut meter = CpuMeter::new(pid).unwrap();
        assert_eq!(meter.seconds(), None);
        meter.start();
        while meter.seconds().unwrap() == 0.0 {}
        assert_eq!(CpuMeter::new(i32::MAX).map(drop).unwrap_err().code(), 2);
    }
}
