//! Tests of the packet functions, with etherparse as the second implementation: it builds the
//! packets that go in and those that are expected to come out, and checks all checksums.

mod captured;
mod fragmentation;
mod fuzz;
mod icmp_errors;
mod parsing;
mod properties;
mod reject;
mod sctp;
mod segmentation;
mod support;
mod translation;
