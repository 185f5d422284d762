//! The probe before a load: whether the target answers at all.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::engine::Engine;
use super::error::LoadError;
use super::payload::Stamp;
use super::plan::Plan;
use super::tally::Errors;
use crate::failure::Failure;

/// Time until the first reply.
pub(super) const LIMIT: Duration = Duration::from_secs(3);
/// Pause between two packets.
const REPEAT: Duration = Duration::from_millis(200);

/// Sends single packets of the first flow until one comes back. They carry another number than the run, so that late
/// replies are not counted in it.
///
/// # Errors
///
/// No reply, or one that differs from the packet.
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
                    return Err(LoadError::NotAnEcho { target }.into());
                }
                None => engine.wait(REPEAT.saturating_sub(asked.elapsed())),
            }
        }
    }
    Err(LoadError::NoReply {
        target,
        reason: if errors.connect > 0 {
            "port unreachable"
        } else {
            "no answer"
        },
        limit: LIMIT,
    }
    .into())
}
