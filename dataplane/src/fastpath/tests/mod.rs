//! The shared arrays without a kernel: a program that is a few lines of Rust.

#[cfg(feature = "loom")]
mod interleavings;
mod model;
pub(crate) mod program;
mod table;

use vl3lb_common::MacAddr;

use super::{Hop, Promotion};

/// A flow of client `number` with this NAT port.
fn promotion(number: u8, nat_port: u16) -> Promotion {
    let address = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 172, 16, 1, last];
    let hop = Hop {
        mac: MacAddr([2, 0, 0, 0, 0, number]),
        is_learned: false,
        mtu: 1500,
    };
    Promotion {
        client: address(number),
        local: address(103),
        backend: address(2),
        client_port: 40_000 + u16::from(number),
        service_port: 8080,
        nat_port,
        backend_port: 8081,
        protocol: 17,
        hops: [hop; 2],
        ends: [0; 2],
        windows: [0; 2],
        is_unreplied: false,
    }
}
