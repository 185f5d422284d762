//! What the steer programs count.

use std::fmt;
use std::sync::Arc;

use aya::maps::{MapData, PerCpuArray};
use vl3lb_common::dataplane::{FastPathPackets, Steered};

/// `enum vl3lb_counter`.
const REDIRECTED: u32 = 0;
const PASSED: u32 = 1;
const DROPPED: u32 = 2;

/// The counters of a steer program. They can be read as long as this exists, without a privilege.
#[derive(Clone)]
pub struct Counters {
    pub(super) steered: Arc<PerCpuArray<MapData, u64>>,
    pub(super) fast_path: Arc<PerCpuArray<MapData, u64>>,
}

impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Counters {
    /// Sums over all CPUs. One system call per counter.
    pub fn read(&self) -> Steered {
        // A map exists as long as its descriptor.
        let sum = |map: &PerCpuArray<MapData, u64>, counter| {
            map.get(&counter, 0).map_or(0, |values| values.iter().sum())
        };
        let [
            taken,
            flags,
            hop_limit,
            size,
            neighbor,
            malformed,
            refused,
            lost,
            partial_checksum,
        ] = std::array::from_fn(|counter| sum(&self.fast_path, u32::try_from(counter).unwrap_or(u32::MAX)));
        Steered {
            redirected: sum(&self.steered, REDIRECTED),
            passed: sum(&self.steered, PASSED),
            dropped: sum(&self.steered, DROPPED),
            fast_path: FastPathPackets {
                taken,
                flags,
                hop_limit,
                size,
                neighbor,
                malformed,
                refused,
                lost,
                partial_checksum,
            },
        }
    }
}
