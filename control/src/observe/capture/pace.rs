//! How often the workers' buffers are read.
//!
//! Each reading wakes the control side and the reader of the capture, on cores that workers may need: of what a capture of few
//! packets costs under load, this is most. So the rounds become longer while few packets come, and short at once when more do.

use std::time::Duration;

use vl3lb_common::capture::CAPTURE_BUFFERS;

/// The shortest time between two readings.
pub(super) const SHORTEST: Duration = Duration::from_millis(10);
/// The longest: a reader who watches sees no delay, and packets that begin to match all at once, up to 12,800 a second, find
/// buffers.
pub(super) const LONGEST: Duration = Duration::from_millis(40);
/// Packets of a worker in one reading that are few: as many in the longest time are a quarter of its buffers.
const FEW: usize = CAPTURE_BUFFERS / 16;

/// The time between two readings.
#[derive(Debug)]
pub(super) struct Pace {
    wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { wait: SHORTEST }
    }
}

impl Pace {
    /// How long to wait after a reading in which one worker had so many packets, and no other had more.
    pub(super) fn after(&mut self, packets: usize) -> Duration {
        let few = FEW as u128 * self.wait.as_millis() / SHORTEST.as_millis();
        self.wait = if packets as u128 > few {
            SHORTEST
        } else {
            (self.wait + SHORTEST).min(LONGEST)
        };
        self.wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_packets_are_read_seldom_and_many_at_once() {
        let mut pace = Pace::default();
        let waits = |pace: &mut Pace, rates: &[usize]| -> Vec<u128> {
            let millis = |&packets: &usize| pace.after(packets).as_millis();
            rates.iter().map(millis).collect()
        };
        assert_eq!(waits(&mut pace, &[0, 7, 0, 0]), [20, 30, 40, 40]);
        assert_eq!(waits(&mut pace, &[CAPTURE_BUFFERS / 2]), [10], "many");
        assert_eq!(
            waits(&mut pace, &[33, 32, 65, 64]),
            [10, 20, 10, 10],
            "more than few"
        );
        // 3,200 a second at each length of a round.
        assert_eq!(waits(&mut pace, &[32, 64, 96, 128]), [20, 30, 40, 40]);
    }
}
