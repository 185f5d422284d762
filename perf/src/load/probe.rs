//! Whether the target answers at all, before it is loaded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::payload::Stamp;
use super::plan::Plan;
use super::tally::Errors;
use crate::failure::Failure;

/// How long the first answer may take.
pub(super) const LIMIT: Duration = Duration::from_secs(3);
/// How often to ask.
const REPEAT: Duration = Duration::from_millis(200);

/// Sends single packets of the first flow until one comes back. They carry another number than the run, so
/// that late answers are not counted in it.
///
/// # Errors
///
/// Nothing comes back, or something else than what was sent.
pub(super) fn reach<E: Engine>(
    engine: &mut E,
    plan: &Plan,
    run: u16,
    stop: &AtomicBool,
) -> Result<(), Failure> {
    let stamp = Stamp {
        run: !run,
        flow: 0,
        sequence: 0,
        intended: 0,
        sent: 0,
    };
    let target = plan.target;
    let mut errors = Errors::default();
    let start = Instant::now();
    while start.elapsed() < LIMIT && !stop.load(Ordering::Relaxed) {
        engine.push(0, &stamp);
        engine.flush(&mut errors)?;
        let asked = Instant::now();
        while asked.elapsed() < REPEAT {
            let mut answer = None;
            engine.receive(&mut errors, &mut |_, payload| {
                answer = Some(Stamp::read(payload).is_ok_and(|found| found == stamp));
            });
            match answer {
                Some(true) => return Ok(()),
                Some(false) => {
                    return Err(Failure::new(format!(
                        "{target} answers, but not with what it was sent: run vl3-perf serve or vl3-perf reflect \
                         behind it, or measure one way only (--one-way)"
                    )));
                }
                None => engine.wait(REPEAT.saturating_sub(asked.elapsed())),
            }
        }
    }
    let why = if errors.connect > 0 {
        "port unreachable: nothing listens there"
    } else {
        "no answer"
    };
    Err(Failure::unreachable(format!(
        "{target}: {why} within {} s; an echo is needed behind it (vl3-perf serve), or measure one way only \
         (--one-way)",
        LIMIT.as_secs()
    )))
}
