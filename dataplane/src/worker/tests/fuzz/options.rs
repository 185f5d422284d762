//! The TCP options of a connection.

use rand::RngExt;
use rand::rngs::StdRng;

use crate::testing::builder::TcpOptionElement::{
    self, MaximumSegmentSize, Noop, SelectiveAcknowledgement, SelectiveAcknowledgementPermitted, Timestamp,
    WindowScale,
};

/// Which of them a connection uses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    timestamps: bool,
    sack: bool,
    scale: bool,
    size: bool,
}

/// The segment size without the option, for connections that do without (RFC 9293 section 3.7.1 has 536 and 1,220: a
/// sender that learned more by itself is not kept from it).
const UNKNOWN: u16 = 1_400;

impl Options {
    pub(super) fn any(rng: &mut StdRng) -> Self {
        Self {
            timestamps: rng.random(),
            sack: rng.random(),
            scale: rng.random(),
            size: rng.random_range(0..4) > 0,
        }
    }

    /// The options of a SYN or SYN-ACK, and the segment size that its sender takes.
    pub(super) fn of_syn(self, rng: &mut StdRng) -> (u16, Vec<TcpOptionElement>) {
        let size = rng.random_range(536..=1_460);
        let mut options = Vec::new();
        if self.size {
            options.push(MaximumSegmentSize(size));
        }
        if self.sack {
            options.push(SelectiveAcknowledgementPermitted);
        }
        if self.timestamps {
            options.push(Timestamp(rng.random(), rng.random()));
        }
        if self.scale {
            options.extend([Noop, WindowScale(rng.random_range(0..=14))]);
        }
        (if self.size { size } else { UNKNOWN }, options)
    }

    /// The options of a later segment.
    pub(super) fn of_segment(self, rng: &mut StdRng) -> Vec<TcpOptionElement> {
        let mut options = Vec::new();
        if self.timestamps {
            options.extend([Noop, Noop, Timestamp(rng.random(), rng.random())]);
        }
        if self.sack && rng.random_range(0..8) == 0 {
            let begin: u32 = rng.random();
            let block = (begin, begin.wrapping_add(1_000));
            options.extend([Noop, Noop, SelectiveAcknowledgement(block, [None; 3])]);
        }
        options
    }
}
