//! Packets that reject another one: ICMP and ICMPv6 errors, and TCP resets. They are written over the
//! rejected packet, or a reset into an empty frame.

mod header;
mod icmp_error;
mod tcp_reset;

pub(crate) use icmp_error::{IcmpError, reject_with_icmp_error};
pub(crate) use tcp_reset::{TcpReset, reject_with_tcp_reset, write_tcp_reset};
