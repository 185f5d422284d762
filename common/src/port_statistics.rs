//! What the queues of a port lose.

use crate::stats::Counter;

/// Packets that a port's queues lost since the port was opened. An AF_XDP port reads them from the
/// kernel (`struct xdp_statistics`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortStatistics {
    pub rx_dropped: u64,
    /// Descriptors in the fill ring that the kernel refused.
    pub rx_invalid: u64,
    /// Packets or descriptors in the transmit ring that the kernel refused.
    pub tx_invalid: u64,
    pub rx_ring_full: u64,
    pub fill_ring_empty: u64,
}

impl PortStatistics {
    /// Packets that the port has lost since an earlier reading, because the worker did not take them in time. An empty
    /// fill ring is no sign of it: drivers with zero-copy look at it ahead of packets.
    pub const fn lost_since(&self, before: &Self) -> u64 {
        let now = self.rx_dropped + self.rx_ring_full;
        now.saturating_sub(before.rx_dropped + before.rx_ring_full)
    }
}

/// The sums of [`PortStatistics`] over all ports that a worker has had.
#[derive(Debug, Default)]
pub struct PortCounters {
    pub rx_dropped: Counter,
    pub rx_invalid: Counter,
    pub tx_invalid: Counter,
    pub rx_ring_full: Counter,
    pub fill_ring_empty: Counter,
}

impl PortCounters {
    /// Adds the difference between `now` and `before`, an earlier reading of the same port.
    pub fn add_since(&self, before: &PortStatistics, now: &PortStatistics) {
        let add = |counter: &Counter, before: u64, now: u64| counter.add(now.saturating_sub(before));
        add(&self.rx_dropped, before.rx_dropped, now.rx_dropped);
        add(&self.rx_invalid, before.rx_invalid, now.rx_invalid);
        add(&self.tx_invalid, before.tx_invalid, now.tx_invalid);
        add(&self.rx_ring_full, before.rx_ring_full, now.rx_ring_full);
        add(&self.fill_ring_empty, before.fill_ring_empty, now.fill_ring_empty);
    }
}
