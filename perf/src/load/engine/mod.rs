//! Where packets leave and arrive.

pub(super) mod socket;

use std::time::Duration;

use super::payload::Stamp;
use super::tally::Errors;
use crate::failure::Failure;

/// Packets in one burst.
pub(super) const BURST: usize = 64;

/// Sends the packets of some flows and receives what comes back to them. Flows are numbered from 0.
pub(super) trait Engine {
    /// Packets that [`push`](Self::push) takes now, at most [`BURST`].
    fn room(&self) -> usize;

    /// Makes the next packet of `flow`. It is sent by [`flush`](Self::flush).
    fn push(&mut self, flow: u32, stamp: &Stamp);

    /// Sends what was pushed; what the kernel has no room for stays for the next call. Returns how many
    /// packets left.
    ///
    /// # Errors
    ///
    /// Sending does not work at all.
    fn flush(&mut self, errors: &mut Errors) -> Result<usize, Failure>;

    /// Calls `arrived` for each payload that has come back, with the flow that it came to, for about a burst
    /// of them. Returns their number.
    fn receive(&mut self, errors: &mut Errors, arrived: &mut dyn FnMut(u32, &[u8])) -> usize;

    /// Waits until something may have arrived, `limit` at most.
    fn wait(&mut self, limit: Duration);
}
