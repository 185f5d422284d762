//! Packets as pure functions over bytes: [`parse`], translation ([`translate`], [`translate_error`]),
//! rejection ([`reject_with_icmp_error`], [`reject_with_tcp_reset`], [`reject_with_sctp_abort`]) and segmentation of TCP
//! super-packets ([`segment`]).
//!
//! Nothing here depends on flows, rings or time. Any bytes are accepted; a defect of them is returned as a
//! [`DropReason`](vl3lb_common::DropReason). Only the first frame of a packet is parsed,
//! and all its headers must lie there.
//!
//! [`parse`] and [`translate`] run for every packet and neither allocate nor look at the payload,
//! except to complete a checksum that the sender's kernel left to its hardware. SCTP has more to do: [`sctp_packet`],
//! [`check_sctp`] and [`seal_sctp`].

mod address_option;
mod checksum;
mod datagram;
mod extension;
mod field;
mod fragment;
mod icmp;
mod mac;
mod mss;
mod option;
mod parse;
mod payload;
mod plain;
mod plain_rewrite;
mod proxy_header;
mod reject;
mod rewrite;
mod sctp;
mod segment;
mod tcp_numbers;
mod tcp_segment;
#[cfg(test)]
mod tests;
mod timestamps;

pub(crate) use address_option::AddressOption;
pub(crate) use datagram::datagram_behind;
pub(crate) use fragment::{fragment, fragment_v6, is_fragmentable_v6};
pub(crate) use icmp::{ErrorClass, Quoted, check_long_icmp, parse_quote, reduce_mtu, translate_error};
pub(crate) use mac::{set_macs, source_mac};
pub(crate) use mss::{least_path_mtu, tcp_mss_option};
pub use parse::Framing;
pub(crate) use parse::{Family, Parsed, TcpFlags, Transport, parse, parse_into};
pub(crate) use plain_rewrite::{PlainHeaders, TCP, UDP};
pub(crate) use proxy_header::ProxyHeader;
pub(crate) use reject::{
    IcmpError, SctpAbort, TcpReset, reject_with_icmp_error, reject_with_sctp_abort, reject_with_tcp_reset,
    write_sctp_abort, write_tcp_reset,
};
pub(crate) use rewrite::{ChecksumPolicy, Translation, addresses, check_tcp, set_identification, translate};
pub(crate) use sctp::{SctpChunks, SctpPacket, check_sctp, sctp_packet, seal_sctp};
pub(crate) use segment::{segment, segment_behind};
pub(crate) use tcp_numbers::{
    Acknowledged, delay_urgent, set_acknowledged, set_quoted_sequence, set_sequence, tcp_window,
};
pub(crate) use tcp_segment::{TcpSegment, tcp_segment, tcp_timestamps, tcp_window_scale};
pub(crate) use timestamps::remove_timestamps;
