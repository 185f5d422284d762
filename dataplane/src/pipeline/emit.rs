//! The last step: MAC addresses, the rewrite itself, and how a packet longer than the MTU is sent.

use vl3lb_common::next_hop::Link;
use vl3lb_common::{DropReason, MacAddr};

use super::Verdict;
use super::policy::Policy;
use crate::packet::{self, ChecksumPolicy, Parsed, Translation, Transport};
use crate::port::Frame;

/// Translates a packet and sends it to `mac`, segmented if it is a TCP super-packet.
#[inline(always)]
pub(super) fn emit<F: Frame>(
    policy: &Policy,
    packet: &mut [F],
    parsed: &Parsed,
    to: &Translation,
    mac: Option<MacAddr>,
    flow_mss: u16,
) -> Result<Verdict, DropReason> {
    let mtu = policy.snapshot.mtu;
    let segment = (parsed.ip_len() > u32::from(mtu))
        .then(|| segment_payload(parsed, mtu.into(), flow_mss))
        .transpose()?;
    let checksum = if segment.is_some() {
        ChecksumPolicy::Later
    } else {
        ChecksumPolicy::Update
    };
    address_frame(policy, packet, mac);
    packet::translate(packet, parsed, to, checksum)?;
    Ok(segment.map_or(Verdict::Transmit, |mss| Verdict::Segment { mss }))
}

/// Writes the Ethernet addresses. No effect on a raw-IP link.
#[inline(always)]
pub(super) fn address_frame<F: Frame>(policy: &Policy, packet: &mut [F], mac: Option<MacAddr>) {
    if let (Link::Ethernet(own), Some(mac), Some(head)) =
        (policy.snapshot.next_hops.link, mac, packet.first_mut())
    {
        packet::set_macs(head.bytes_mut(), mac, own);
    }
}

/// Payload bytes of each segment of a super-packet: at most what the flow agreed on and the MTU allows. A UDP
/// super-packet cannot be segmented: its bytes do not show where a datagram ends.
fn segment_payload(parsed: &Parsed, mtu: usize, flow_mss: u16) -> Result<u16, DropReason> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return Err(DropReason::UdpSuperPacket);
    };
    /// The MSS option counts a TCP header without options (RFC 6691).
    const PLAIN_TCP_HEADER: usize = 20;
    let headers = parsed.l4() - parsed.l3() + header_len;
    let fits = mtu
        .checked_sub(headers)
        .filter(|&fits| fits > 0)
        .ok_or(DropReason::MtuExceeded)?;
    let agreed = match usize::from(flow_mss) {
        0 => fits,
        mss => mss
            .saturating_sub(header_len.saturating_sub(PLAIN_TCP_HEADER))
            .max(1),
    };
    Ok(u16::try_from(fits.min(agreed)).unwrap_or(u16::MAX))
}
