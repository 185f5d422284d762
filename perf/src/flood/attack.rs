//! The attacks: what the flood is made of, and what limits the balancer that it meets.

use serde::{Deserialize, Serialize};

use crate::compare::services::{PACKETS, Service, WEB};
use crate::frame::flags;
use crate::load::pacing::Rate;

/// Packets per second of an attack that is to fill tables, and not the processor.
const TRICKLE: f64 = 20_000.0;
/// Capacity of vl3-lb's flow table; its default.
const FLOWS: u32 = 1_000_000;
/// One that `table` fills in half a second.
const SMALL_TABLE: u32 = 10_000;

/// An attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Attack {
    /// SYNs as fast as the generator can, 8 backends
    Syn,
    /// UDP datagrams, each of a new flow, as fast as the generator can
    Udp,
    /// ACKs of no connection, as fast as the generator can
    Ack,
    /// SYNs that fill a small flow table
    Table,
    /// SYNs that take all NAT ports of the one backend
    Ports,
}

impl Attack {
    /// As on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Udp => "udp",
            Self::Ack => "ack",
            Self::Table => "table",
            Self::Ports => "ports",
        }
    }

    /// The service that the flood goes to.
    pub(super) const fn target(self) -> Service {
        match self {
            Self::Udp => PACKETS,
            Self::Syn | Self::Ack | Self::Table | Self::Ports => WEB,
        }
    }

    /// The flags of its segments.
    pub(super) const fn flags(self) -> u8 {
        match self {
            Self::Ack => flags::ACK,
            Self::Syn | Self::Udp | Self::Table | Self::Ports => flags::SYN,
        }
    }

    /// Its packets per second.
    pub(super) const fn rate(self) -> Rate {
        match self {
            Self::Syn | Self::Udp | Self::Ack => Rate::FlatOut,
            Self::Table | Self::Ports => Rate::Fixed(TRICKLE),
        }
    }

    /// The services of the balancer. Connections are made to [`WEB`] in all attacks.
    pub(super) fn services(self) -> [Service; 2] {
        let web = match self {
            Self::Ports => Service { backends: 1, ..WEB },
            Self::Syn | Self::Udp | Self::Ack | Self::Table => WEB,
        };
        [PACKETS, web]
    }

    /// Capacity of vl3-lb's flow table.
    pub(super) const fn flows(self) -> u32 {
        match self {
            Self::Table => SMALL_TABLE,
            Self::Syn | Self::Udp | Self::Ack | Self::Ports => FLOWS,
        }
    }
}
