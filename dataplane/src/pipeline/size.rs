//! Packets that are longer than the next hop takes, or than the receiver of a TCP segment does.
//!
//! A super-packet, which its sender's kernel left whole for its hardware, is segmented here. Another packet that does not
//! fit is fragmented if it may be, else its sender gets an ICMP error (RFC 1191, RFC 8201, RFC 4787 REQ-13). TCP super-packets do
//! not show the size of their segments: where those that the ends agreed on are too long for the next hop, the sender
//! gets one error, and from then on the flow's packets are segmented to what fits ([`super::path_mtu`]).

use vl3lb_common::DropReason;
use vl3lb_common::addr::from_octets;

use super::Verdict;
use super::policy::Policy;
use super::refusal::Refusal;
use crate::packet::{self, Family, Parsed, Transport};

/// Headers of a TCP segment without options.
#[inline(always)]
pub(super) const fn plain_headers(family: Family) -> u16 {
    match family {
        Family::V4 => 40,
        Family::V6 => 60,
    }
}

/// The longest packet that needs no closer look: it fits each next hop, and the segment size of its flow, 0 if unknown.
#[inline(always)]
pub(super) fn unsuspicious_len(policy: &Policy, family: Family, flow_mss: u16) -> u32 {
    // 0 becomes the largest size.
    let segment = u32::from(flow_mss.wrapping_sub(1)) + 1 + u32::from(plain_headers(family));
    segment.min(policy.smallest_mtu.into())
}

/// How a packet that may be too long is sent to `destination`.
///
/// # Errors
/// It does not fit the next hop and may be neither segmented nor fragmented.
#[cold]
pub(super) fn fit(
    policy: &Policy,
    parsed: &Parsed,
    destination: &[u8; 16],
    flow_mss: u16,
) -> Result<Verdict, Refusal> {
    let mtu = mtu_towards(policy, destination);
    let fits = parsed.ip_len() <= u32::from(mtu);
    // On the way from a local client the kernel segments super-packets, and has no reason to fragment.
    let is_local = || policy.snapshot.addresses.contains(&from_octets(parsed.source));
    match parsed.transport {
        Transport::Tcp { flags, .. } if flags.syn() || flags.rst() => {}
        Transport::Tcp { header_len, .. } => return segment(parsed, mtu, header_len, flow_mss),
        // Longer than the interface's own MTU it is a super-packet, whose bytes do not show where a datagram ends.
        // Fragmented it would arrive as one datagram, and an error would blame its datagrams, which do fit.
        Transport::Udp { .. } if parsed.ip_len() > u32::from(policy.snapshot.mtu) && !is_local() => {
            return Err(DropReason::UdpSuperPacket.into());
        }
        Transport::Sctp { .. } if parsed.ip_len() > u32::from(policy.snapshot.mtu) => {
            return Err(DropReason::SctpSuperPacket.into());
        }
        Transport::Udp { .. } | Transport::Sctp { .. } | Transport::Fragment { .. } | Transport::Icmp => {}
    }
    if fits {
        Ok(Verdict::Transmit)
    } else if parsed.dont_fragment && !(is_fragmentable(parsed) && is_local()) {
        Err(Refusal::from(DropReason::MtuExceeded).too_big(mtu))
    } else {
        Ok(Verdict::Fragment { mtu })
    }
}

/// Whether a packet of a local client can be fragmented here, in the place of its sender.
fn is_fragmentable(parsed: &Parsed) -> bool {
    parsed.family == Family::V4 || packet::is_fragmentable_v6(parsed)
}

/// The longest packet to `destination`: the MTU of its route, at most the interface's. O(routes) if a route has an MTU.
pub(super) fn mtu_towards(policy: &Policy, destination: &[u8; 16]) -> u16 {
    let interface = policy.snapshot.mtu;
    if policy.smallest_mtu == interface {
        return interface;
    }
    let route = policy.snapshot.next_hops.mtu_towards(from_octets(*destination));
    route.map_or(interface, |route| route.min(interface))
}

/// The payload of a TCP segment to `destination` at most, with the options of this packet.
///
/// # Errors
/// The next hop takes no payload at all.
pub(super) fn longest_payload(
    policy: &Policy,
    parsed: &Parsed,
    destination: &[u8; 16],
    flow_mss: u16,
) -> Result<u16, DropReason> {
    let Transport::Tcp { header_len, .. } = parsed.transport else {
        return Err(DropReason::Internal);
    };
    let mtu = mtu_towards(policy, destination);
    let (room, agreed) = limits(parsed, mtu, header_len, flow_mss)?;
    Ok(u16::try_from(room.min(agreed)).unwrap_or(u16::MAX))
}

/// The payload that the next hop has room for, and what the ends agreed on.
fn limits(parsed: &Parsed, mtu: u16, header_len: usize, flow_mss: u16) -> Result<(usize, usize), DropReason> {
    let headers = parsed.l4() - parsed.l3() + header_len;
    let room = usize::from(mtu)
        .checked_sub(headers)
        .filter(|&room| room > 0)
        .ok_or(DropReason::MtuExceeded)?;
    let options = headers.saturating_sub(usize::from(plain_headers(parsed.family)));
    let agreed = match flow_mss {
        0 => room,
        mss => usize::from(mss).saturating_sub(options).max(1),
    };
    Ok((room, agreed))
}

/// A TCP packet other than SYN and RST.
fn segment(parsed: &Parsed, mtu: u16, header_len: usize, flow_mss: u16) -> Result<Verdict, Refusal> {
    let payload = parsed.end() - parsed.l4() - header_len;
    let (room, agreed) = limits(parsed, mtu, header_len, flow_mss)?;
    if payload <= room.min(agreed) {
        return Ok(Verdict::Transmit);
    }
    // The sender's own segments do not fit.
    if payload > room && agreed > room && parsed.dont_fragment {
        return Err(Refusal::from(DropReason::MtuExceeded).too_big(mtu));
    }
    Ok(Verdict::Segment {
        mss: u16::try_from(room.min(agreed)).unwrap_or(u16::MAX),
    })
}
