//! The last step: MAC addresses and the rewrite itself.

use vl3lb_common::MacAddr;
use vl3lb_common::next_hop::Link;

use super::Verdict;
use super::policy::Policy;
use super::refusal::Refusal;
use super::size::{self, unsuspicious_len};
use crate::packet::{self, ChecksumPolicy, Parsed, Translation};
use crate::port::Frame;

/// Translates a packet and sends it to `mac`, divided if it is too long.
#[inline(always)]
pub(super) fn emit<F: Frame>(
    policy: &Policy,
    packet: &mut [F],
    parsed: &Parsed,
    to: &Translation,
    mac: Option<MacAddr>,
    flow_mss: u16,
) -> Result<Verdict, Refusal> {
    let verdict = if parsed.ip_len() > unsuspicious_len(policy, parsed.family, flow_mss) {
        size::fit(policy, parsed, &to.destination, flow_mss)?
    } else {
        Verdict::Transmit
    };
    let checksum = if matches!(verdict, Verdict::Segment { .. }) {
        ChecksumPolicy::Later
    } else {
        ChecksumPolicy::Update
    };
    address_frame(policy, packet, mac);
    packet::translate(packet, parsed, to, checksum)?;
    Ok(verdict)
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
