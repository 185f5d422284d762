//! Schedules neighbour resolution: which next hops the kernel should probe, and when.
//!
//! The balancer's packets bypass the kernel, which therefore neither resolves a backend's next hop nor notices a new MAC
//! address by itself. Pure: the inputs are time and neighbour states, the outputs are addresses to probe.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::message::Reach;

/// The first wait for a reply; it doubles with each probe without one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A neighbour of a backend is confirmed this often.
const REFRESH: Duration = Duration::from_secs(10);
/// Probes of a neighbour that only packets need; the next packet starts again.
const MAX_PROBES: u32 = 3;
/// Limit of neighbours that only packets need: a scan of the subnet must not fill the kernel's table.
const MAX_FOR_PACKETS: usize = 256;

/// Neighbours to resolve.
#[derive(Debug, Default)]
pub(super) struct Resolution {
    pending: HashMap<IpAddr, Pending>,
}

#[derive(Debug)]
struct Pending {
    /// Probes since the last reply.
    probes: u32,
    next: Instant,
    /// The next hop of a backend, refreshed as long as the backend exists.
    kept: bool,
}

impl Resolution {
    /// A packet needs `neighbor`.
    pub(super) fn need(&mut self, neighbor: IpAddr, now: Instant) {
        if self.pending.len() < MAX_FOR_PACKETS
            || self.pending.values().filter(|pending| !pending.kept).count() < MAX_FOR_PACKETS
        {
            self.pending.entry(neighbor).or_insert(Pending {
                probes: 0,
                next: now,
                kept: false,
            });
        }
    }

    /// Replaces the set of neighbours that backends need.
    pub(super) fn keep(&mut self, neighbors: &HashSet<IpAddr>, now: Instant) {
        self.pending
            .retain(|neighbor, pending| !pending.kept || neighbors.contains(neighbor));
        for &neighbor in neighbors {
            let pending = self.pending.entry(neighbor).or_insert(Pending {
                probes: 0,
                next: now,
                kept: true,
            });
            pending.kept = true;
        }
    }

    /// The neighbours to probe now.
    pub(super) fn due(&mut self, now: Instant, reach: impl Fn(IpAddr) -> Reach) -> Vec<IpAddr> {
        let mut due = Vec::new();
        self.pending.retain(|&neighbor, pending| {
            let known = reach(neighbor);
            let resolved = known != Reach::Unknown;
            if !pending.kept && (resolved || pending.probes >= MAX_PROBES && pending.next <= now) {
                return false;
            }
            if resolved && pending.probes > 0 {
                pending.probes = 0;
                pending.next = now + REFRESH;
            }
            // Lost between two refreshes: packets need it.
            let lost = known == Reach::Unknown && pending.probes == 0;
            if pending.next > now && !lost {
                return true;
            }
            if known == Reach::Confirmed {
                pending.next = now + REFRESH;
                return true;
            }
            let wait = FIRST_WAIT * 2_u32.saturating_pow(pending.probes.min(16));
            pending.next = now + wait.min(LONGEST_WAIT);
            pending.probes += 1;
            due.push(neighbor);
            true
        });
        due
    }

    /// The earliest time at which [`Self::due`] returns an address.
    pub(super) fn next(&self) -> Option<Instant> {
        self.pending.values().map(|pending| pending.next).min()
    }

    /// Probes all neighbours at once: the interface is a new one, or up again.
    pub(super) fn restart(&mut self, now: Instant) {
        for pending in self.pending.values_mut() {
            pending.probes = 0;
            pending.next = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 1, 2));

    /// Seconds after the start at which `A` is probed, with ten calls of `due` a second.
    fn probes(
        resolution: &mut Resolution,
        start: Instant,
        seconds: u32,
        reach: impl Fn(u128) -> Reach,
    ) -> Vec<u128> {
        let mut asked = Vec::new();
        for tenth in 0..seconds * 10 {
            let now = start + Duration::from_millis(100) * tenth;
            let at = (now - start).as_millis();
            if !resolution.due(now, |_| reach(at)).is_empty() {
                asked.push(at / 1000);
            }
        }
        asked
    }

    #[test]
    fn a_backend_without_a_reply_is_probed_with_growing_pauses() {
        let (mut resolution, start) = (Resolution::default(), Instant::now());
        resolution.keep(&HashSet::from([A]), start);
        let asked = probes(&mut resolution, start, 100, |_| Reach::Unknown);
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
    }

    #[test]
    fn a_backends_neighbor_is_refreshed() {
        let (mut resolution, start) = (Resolution::default(), Instant::now());
        resolution.keep(&HashSet::from([A]), start);
        let stale_later = |at| match at {
            0..500 => Reach::Unknown,
            500..30_000 => Reach::Confirmed,
            _ => Reach::Unconfirmed,
        };
        let asked = probes(&mut resolution, start, 60, stale_later);
        assert!(asked[0] == 0 && asked.len() >= 3, "{asked:?}");
        assert!(asked[1..].iter().all(|&at| at >= 30), "{asked:?}");
    }

    #[test]
    fn a_neighbor_that_fails_later_is_probed_again() {
        let (mut resolution, start) = (Resolution::default(), Instant::now());
        resolution.keep(&HashSet::from([A]), start);
        let failing = |at| {
            if (1000..20_000).contains(&at) {
                Reach::Confirmed
            } else {
                Reach::Unknown
            }
        };
        let asked = probes(&mut resolution, start, 40, failing);
        assert!(asked.contains(&20), "{asked:?}");
    }

    #[test]
    fn a_packets_neighbor_is_dropped_after_three_probes_or_a_reply() {
        let (mut resolution, start) = (Resolution::default(), Instant::now());
        resolution.need(A, start);
        assert_eq!(probes(&mut resolution, start, 60, |_| Reach::Unknown), [0, 1, 3]);
        assert_eq!(resolution.next(), None);
        resolution.need(A, start);
        assert!(resolution.due(start, |_| Reach::Unconfirmed).is_empty());
        assert_eq!(resolution.next(), None);
    }

    #[test]
    fn neighbors_of_removed_backends_are_dropped() {
        let (mut resolution, start) = (Resolution::default(), Instant::now());
        resolution.keep(&HashSet::from([A]), start);
        resolution.keep(&HashSet::new(), start);
        assert_eq!(resolution.next(), None);
    }
}
