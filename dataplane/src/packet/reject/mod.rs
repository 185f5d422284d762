//! Packets that reject another one: ICMP and ICMPv6 errors, TCP resets, and SCTP ABORT. They are written over the
//! rejected packet, or a reset into an empty frame.

mod header;
mod icmp_error;
mod sctp_abort;
mod tcp_reset;

pub(crate) use icmp_error::{IcmpError, reject_with_icmp_error};
pub(crate) use sctp_abort::{SctpAbort, reject_with_sctp_abort, write_sctp_abort};
pub(crate) use tcp_reset::{TcpReset, reject_with_tcp_reset, write_tcp_reset};
