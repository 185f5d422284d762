//! CPU time of the target, if it is a process of this machine.

use procfs::process::Process;

use super::error::PlanError;

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
    pub(super) fn new(pid: i32) -> Result<Self, PlanError> {
        let process = Process::new(pid).map_err(|error| PlanError::Process {
            pid,
            reason: error.to_string(),
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
    fn a_busy_process_uses_time_and_a_missing_one_is_rejected() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let mut meter = CpuMeter::new(pid).unwrap();
        assert_eq!(meter.seconds(), None);
        meter.start();
        while meter.seconds().unwrap() == 0.0 {}
        assert!(CpuMeter::new(i32::MAX).is_err());
    }
}
