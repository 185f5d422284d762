//! Runs a fuzz target: a function that makes inputs of a seed, tries them, and panics on a fault.
//!
//! As a unit test, a target tries its corpus (the seeds that failed once) and a fixed number of seeds. `./run fuzz` sets
//! [`SECONDS`]: it then tries random seeds for that long. With [`SEED`], it tries that seed alone.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant, SystemTime};

/// The environment variable with the length of a run, in seconds.
pub const SECONDS: &str = "VL3LB_FUZZ_SECONDS";
/// The environment variable with the only seed to try.
pub const SEED: &str = "VL3LB_FUZZ_SEED";
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(60);

/// Tries seeds; `case` returns the number of inputs that it made of one. As a unit test: `corpus`, and the seeds below
/// `fixed`.
///
/// # Panics
///
/// When a case panics, after it has printed the seed; and when a variable is not a number.
pub fn run(target: &str, fixed: u64, corpus: &[u64], mut case: impl FnMut(u64) -> u64) {
    let mut total = Total::new(target);
    if let Some(seed) = variable(SEED) {
        total.attempt(seed, &mut case);
    } else if let Some(seconds) = variable(SECONDS) {
        let end = Duration::from_secs(seconds);
        let first = SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(0, |time| time.as_secs() << 32);
        let mut progress = PROGRESS;
        for seed in first.. {
            let elapsed = total.since.elapsed();
            if elapsed >= end {
                break;
            }
            if elapsed >= progress {
                total.print();
                progress += PROGRESS;
            }
            total.attempt(seed, &mut case);
        }
    } else {
        for seed in corpus.iter().copied().chain(0..fixed) {
            total.attempt(seed, &mut case);
        }
    }
    total.print();
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|error| panic!("{name}={text:?}: {error}")))
}

/// What a run has tried.
struct Total<'a> {
    target: &'a str,
    since: Instant,
    seeds: u64,
    inputs: u64,
}

impl<'a> Total<'a> {
    fn new(target: &'a str) -> Self {
        Self {
            target,
            since: Instant::now(),
            seeds: 0,
            inputs: 0,
        }
    }

    fn attempt(&mut self, seed: u64, case: impl FnOnce(u64) -> u64) {
        match catch_unwind(AssertUnwindSafe(|| case(seed))) {
            Ok(inputs) => {
                self.seeds += 1;
                self.inputs += inputs;
            }
            Err(fault) => {
                let target = self.target;
                eprintln!("fuzz: {target} fails with seed {seed}: ./run fuzz --seed {seed} repeats it");
                resume_unwind(fault);
            }
        }
    }

    fn print(&self) {
        let (target, seeds, inputs) = (self.target, self.seeds, self.inputs);
        let seconds = self.since.elapsed().as_secs_f64();
        let rate = inputs as f64 / seconds;
        println!("fuzz: {target}: {inputs} cases of {seeds} seeds in {seconds:.1} s, {rate:.0} per second");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_and_the_fixed_seeds_are_tried() {
        let mut tried = Vec::new();
        run("test", 3, &[77], |seed| {
            tried.push(seed);
            1
        });
        assert_eq!(tried, [77, 0, 1, 2]);
    }

    #[test]
    fn a_fault_ends_the_run() {
        let mut tried = 0;
        let result = catch_unwind(AssertUnwindSafe(|| {
            run("test", 5, &[], |seed| {
                tried += 1;
                assert!(seed < 2, "a fault");
                1
            });
        }));
        assert!(result.is_err());
        assert_eq!(tried, 3);
    }
}
