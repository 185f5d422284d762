//! Why a translated packet cannot be sent.

use vl3lb_common::DropReason;

/// A reason and, if the packet is too long for the next hop, the MTU for its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: DropReason,
    /// 0 if its sender gets none.
    pub(super) mtu: u16,
}

impl From<DropReason> for Refusal {
    #[inline]
    fn from(reason: DropReason) -> Self {
        Self { reason, mtu: 0 }
    }
}

impl Refusal {
    /// The sender gets the MTU of the next hop.
    pub(super) const fn too_big(mut self, mtu: u16) -> Self {
        self.mtu = mtu;
        self
    }
}
