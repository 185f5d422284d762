//! The part that ICMP errors and resets share: which packets may be rejected, and the new IP header.

use vl3lb_common::{DropReason, MacAddr};

use crate::packet::checksum::Sum;
use crate::packet::field::{ethernet, header_at_mut, ipv4, ipv6, is_mapped, put, unmapped};
use crate::packet::mac::{destination_mac, set_macs, source_mac};
use crate::packet::parse::{Family, Framing, Parsed};

/// The default of RFC 1700 and of Linux.
const HOP_LIMIT: u8 = 64;

/// The IP header of a rejecting packet.
pub(super) struct RejectHeader {
    pub(super) protocol: u8,
    /// The whole byte: DSCP and ECN, or traffic class.
    pub(super) traffic_class: u8,
    pub(super) source: [u8; 16],
    pub(super) destination: [u8; 16],
    /// Bytes behind the IP header.
    pub(super) payload_len: usize,
}

/// Returns `Martian` for a packet that was not sent to a single receiver, at either layer: many hosts could
/// respond to it (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e), RFC 9293 MUST-57). `parse` has
/// dropped invalid sources.
pub(super) fn check_one_receiver(head: &[u8], parsed: &Parsed) -> Result<(), DropReason> {
    let MacAddr([first, ..]) = destination_mac(head);
    let group_mac = is_ethernet(parsed) && first & ethernet::GROUP_BIT != 0;
    let group_address = match parsed.family {
        // Multicast, reserved and broadcast.
        Family::V4 => unmapped(parsed.destination)[0] >= 224,
        Family::V6 => parsed.destination[0] == 0xff,
    };
    if group_mac || group_address {
        return Err(DropReason::Martian);
    }
    Ok(())
}

/// The family of an address in the form of IPv6.
pub(super) fn family_of(address: &[u8; 16]) -> Family {
    if is_mapped(address) {
        Family::V4
    } else {
        Family::V6
    }
}

/// Writes the type of an Ethernet header, if there is one.
pub(super) fn write_ethertype(head: &mut [u8], framing: Framing, family: Family) -> Result<(), DropReason> {
    if framing == Framing::Ethernet {
        let ethertype = match family {
            Family::V4 => ethernet::ETHERTYPE_IPV4,
            Family::V6 => ethernet::ETHERTYPE_IPV6,
        };
        let header: &mut [u8; ethernet::HEADER_LEN] = header_at_mut(head, 0)?;
        put(header, ethernet::ETHERTYPE, ethertype.to_be_bytes());
    }
    Ok(())
}

/// Length of the header that [`write_ip_header`] writes.
pub(super) const fn ip_header_len(family: Family) -> usize {
    match family {
        Family::V4 => ipv4::HEADER_LEN,
        Family::V6 => ipv6::HEADER_LEN,
    }
}

/// Sends the frame back to where it came from.
pub(super) fn swap_macs(head: &mut [u8], parsed: &Parsed) {
    if is_ethernet(parsed) {
        let (destination, source) = (source_mac(head), destination_mac(head));
        set_macs(head, destination, source);
    }
}

/// Writes an IP header without options at the start of `packet`. The packet is atomic, so that its
/// IPv4 identification means nothing (RFC 6864 section 4.1) and is 0.
pub(super) fn write_ip_header(
    packet: &mut [u8],
    family: Family,
    fields: &RejectHeader,
) -> Result<(), DropReason> {
    let &RejectHeader {
        protocol,
        traffic_class,
        source,
        destination,
        payload_len,
    } = fields;
    let word = |length: usize| u16::try_from(length).map_err(|_| DropReason::Internal);
    match family {
        Family::V4 => {
            let total_length = word(ipv4::HEADER_LEN + payload_len)?;
            let header: &mut [u8; ipv4::HEADER_LEN] = header_at_mut(packet, 0)?;
            *header = [0; ipv4::HEADER_LEN];
            header[ipv4::VERSION_IHL] = 0x45;
            header[ipv4::TOS] = traffic_class;
            put(header, ipv4::TOTAL_LENGTH, total_length.to_be_bytes());
            put(header, ipv4::FLAGS_OFFSET, ipv4::DONT_FRAGMENT.to_be_bytes());
            header[ipv4::TTL] = HOP_LIMIT;
            header[ipv4::PROTOCOL] = protocol;
            put(header, ipv4::SOURCE, unmapped(source));
            put(header, ipv4::DESTINATION, unmapped(destination));
            let checksum = Sum::of(header).checksum();
            put(header, ipv4::CHECKSUM, checksum);
        }
        Family::V6 => {
            let payload_length = word(payload_len)?;
            let header: &mut [u8; ipv6::HEADER_LEN] = header_at_mut(packet, 0)?;
            *header = [0; ipv6::HEADER_LEN];
            let version_and_class = 0x6000 | u16::from(traffic_class) << 4;
            put(header, ipv6::VERSION_CLASS, version_and_class.to_be_bytes());
            put(header, ipv6::PAYLOAD_LENGTH, payload_length.to_be_bytes());
            header[ipv6::NEXT_HEADER] = protocol;
            header[ipv6::HOP_LIMIT] = HOP_LIMIT;
            put(header, ipv6::SOURCE, source);
            put(header, ipv6::DESTINATION, destination);
        }
    }
    Ok(())
}

fn is_ethernet(parsed: &Parsed) -> bool {
    parsed.l3() == ethernet::HEADER_LEN
}
