//! The MAC addresses of an Ethernet frame.

use vl3lb_common::MacAddr;

use super::field::{ethernet, put};

const ADDRESSES_LEN: usize = 2 * ethernet::MAC_LEN;

/// Writes the addresses of an Ethernet frame. For Ethernet framing only; a frame that has no room
/// for them stays as it is.
#[inline]
pub(crate) fn set_macs(head: &mut [u8], destination: MacAddr, source: MacAddr) {
    if let Some(header) = head.first_chunk_mut::<ADDRESSES_LEN>() {
        put(header, ethernet::DESTINATION, destination.0);
        put(header, ethernet::SOURCE, source.0);
    }
}

/// The sender's address of an Ethernet frame; all zeros if the frame is too short for one.
#[inline]
pub(crate) fn source_mac(head: &[u8]) -> MacAddr {
    mac_at(head, ethernet::SOURCE)
}

/// The receiver's address of an Ethernet frame; all zeros if the frame is too short for one.
#[inline]
pub(super) fn destination_mac(head: &[u8]) -> MacAddr {
    mac_at(head, ethernet::DESTINATION)
}

#[inline]
fn mac_at(head: &[u8], at: usize) -> MacAddr {
    head.get(at..)
        .and_then(<[u8]>::first_chunk)
        .copied()
        .map(MacAddr)
        .unwrap_or_default()
}
