//! SCTP peers in user space, over raw sockets: the kernel of the machine need not have the protocol.
//!
//! They do what tests need of RFC 9260: the four-way handshake, one DATA chunk at a time, SHUTDOWN and ABORT. A client
//! repeats what is not answered.

mod association;
mod packet;
mod server;
mod socket;

pub use association::Association;
pub use packet::{Chunk, kinds};
pub use server::SctpServer;
pub use socket::Capture;
