//! The counts of a run.

use std::ops::AddAssign;

use serde::Serialize;

/// Counts of a run or an interval, without the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tally {
    /// Packets, or requests over TCP.
    pub(crate) sent: u64,
    /// Of these, those that came back intact, each counted once.
    pub(crate) received: u64,
    /// Packets that came back once more.
    pub(crate) duplicated: u64,
    /// Packets that came back after a later one of their flow.
    pub(crate) reordered: u64,
    /// Bytes of `sent`: of frames without FCS, or of TCP payload.
    pub(crate) bytes_sent: u64,
    /// Bytes of `received`.
    pub(crate) bytes_received: u64,
    /// TCP connections opened.
    pub(crate) connected: u64,
    pub(crate) errors: Errors,
}

/// Errors that were observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Errors {
    /// Connections refused, and datagrams answered with port unreachable.
    pub(crate) connect: u64,
    /// Requests or connections without an answer in time.
    pub(crate) timeout: u64,
    /// Connections that the other side closed early.
    pub(crate) reset: u64,
    /// Payloads that were changed, or that came to the wrong flow.
    pub(crate) payload: u64,
}

impl Tally {
    /// Packets that have not come back.
    pub(crate) const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// The same as a share of 1; 0 if nothing was sent.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub(crate) fn loss(&self) -> f64 {
        if self.sent == 0 {
            0.0
        } else {
            self.lost() as f64 / self.sent as f64
        }
    }

    /// The counts since `earlier`, a state of the same tally.
    pub(crate) const fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            received: self.received - earlier.received,
            duplicated: self.duplicated - earlier.duplicated,
            reordered: self.reordered - earlier.reordered,
            bytes_sent: self.bytes_sent - earlier.bytes_sent,
            bytes_received: self.bytes_received - earlier.bytes_received,
            connected: self.connected - earlier.connected,
            errors: Errors {
                connect: self.errors.connect - earlier.errors.connect,
                timeout: self.errors.timeout - earlier.errors.timeout,
                reset: self.errors.reset - earlier.errors.reset,
                payload: self.errors.payload - earlier.errors.payload,
            },
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.connected += other.connected;
        self.errors += other.errors;
    }
}

impl AddAssign for Errors {
    fn add_assign(&mut self, other: Self) {
        self.connect += other.connect;
        self.timeout += other.timeout;
        self.reset += other.reset;
        self.payload += other.payload;
    }
}
