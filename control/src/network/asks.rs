//! When to ask the kernel for a neighbour.
//!
//! Our packets pass the kernel by, so it has no reason of its own to resolve the next hop of a
//! backend, or to notice that one has a new MAC address. Pure: time and knowledge come in,
//! addresses to ask for go out.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tokio::time::Instant;
use vl3lb_common::Duration;

use super::message::Reach;

/// The first wait for an answer; it doubles with each one that stays out.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A neighbour of a backend is confirmed this often.
const REFRESH: Duration = Duration::from_secs(10);
/// A neighbour that only a packet asked for is given up after so many questions; the next packet
/// brings it back.
const QUESTIONS: u32 = 3;
/// Neighbours that packets asked for at the same time, at most: a scan of the subnet should not
/// fill the kernel's table.
const LOOSE: usize = 256;

/// Questions that are open.
#[derive(Debug, Default)]
pub(super) struct Asks {
    open: HashMap<IpAddr, Question>,
}

#[derive(Debug)]
struct Question {
    asked: u32,
    next: Instant,
    /// A backend's neighbour, to be kept fresh for ever.
    kept: bool,
}

impl Asks {
    /// A packet needs `neighbor`.
    pub(super) fn need(&mut self, neighbor: IpAddr, now: Instant) {
        if self.open.len() < LOOSE || self.open.values().filter(|question| !question.kept).count() < LOOSE {
            self.open.entry(neighbor).or_insert(Question {
                asked: 0,
                next: now,
                kept: false,
            });
        }
    }

    /// The neighbours of all backends.
    pub(super) fn keep(&mut self, neighbors: &HashSet<IpAddr>, now: Instant) {
        self.open
            .retain(|neighbor, question| !question.kept || neighbors.contains(neighbor));
        for &neighbor in neighbors {
            let question = self.open.entry(neighbor).or_insert(Question {
                asked: 0,
                next: now,
                kept: true,
            });
            question.kept = true;
        }
    }

    /// The neighbours to ask for now.
    pub(super) fn due(&mut self, now: Instant, reach: impl Fn(IpAddr) -> Reach) -> Vec<IpAddr> {
        let mut due = Vec::new();
        self.open.retain(|&neighbor, question| {
            let known = reach(neighbor);
            let resolved = known != Reach::Unknown;
            if !question.kept && (resolved || question.asked >= QUESTIONS && question.next <= now) {
                return false;
            }
            if resolved && question.asked > 0 {
                question.asked = 0;
                question.next = now + REFRESH;
            }
            // Lost between two refreshes: packets are waiting.
            let lost = known == Reach::Unknown && question.asked == 0;
            if question.next > now && !lost {
                return true;
            }
            if known == Reach::Confirmed {
                question.next = now + REFRESH;
                return true;
            }
            let wait = FIRST_WAIT * 2_u32.saturating_pow(question.asked.min(16));
            question.next = now + wait.min(LONGEST_WAIT);
            question.asked += 1;
            due.push(neighbor);
            true
        });
        due
    }

    /// When [`Self::due`] has something to do at the earliest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.open.values().map(|question| question.next).min()
    }

    /// Forgets all waits: the interface is a new one, or back.
    pub(super) fn restart(&mut self, now: Instant) {
        for question in self.open.values_mut() {
            question.asked = 0;
            question.next = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 1, 2));

    /// Seconds after the start at which `A` was asked for, looking ten times a second.
    fn questions(asks: &mut Asks, start: Instant, seconds: u32, reach: impl Fn(u128) -> Reach) -> Vec<u128> {
        let mut asked = Vec::new();
        for tenth in 0..seconds * 10 {
            let now = start + Duration::from_millis(100) * tenth;
            let at = (now - start).as_millis();
            if !asks.due(now, |_| reach(at)).is_empty() {
                asked.push(at / 1000);
            }
        }
        asked
    }

    #[test]
    fn a_backend_that_does_not_answer_is_asked_less_and_less_often_for_ever() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        asks.keep(&HashSet::from([A]), start);
        let asked = questions(&mut asks, start, 100, |_| Reach::Unknown);
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
    }

    #[test]
    fn a_backends_neighbor_is_kept_fresh() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        asks.keep(&HashSet::from([A]), start);
        let stale_later = |at| match at {
            0..500 => Reach::Unknown,
            500..30_000 => Reach::Confirmed,
            _ => Reach::Unconfirmed,
        };
        let asked = questions(&mut asks, start, 60, stale_later);
        assert!(asked[0] == 0 && asked.len() >= 3, "{asked:?}");
        assert!(asked[1..].iter().all(|&at| at >= 30), "{asked:?}");
    }

    #[test]
    fn a_neighbor_that_fails_later_is_asked_for_again() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        asks.keep(&HashSet::from([A]), start);
        let failing = |at| {
            if (1000..20_000).contains(&at) {
                Reach::Confirmed
            } else {
                Reach::Unknown
            }
        };
        let asked = questions(&mut asks, start, 40, failing);
        assert!(asked.contains(&20), "{asked:?}");
    }

    #[test]
    fn what_a_packet_needs_is_given_up_in_the_end_or_when_it_is_known() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        asks.need(A, start);
        assert_eq!(questions(&mut asks, start, 60, |_| Reach::Unknown), [0, 1, 3]);
        assert_eq!(asks.next(), None);
        asks.need(A, start);
        assert!(asks.due(start, |_| Reach::Unconfirmed).is_empty());
        assert_eq!(asks.next(), None);
    }

    #[test]
    fn removed_backends_are_forgotten() {
        let (mut asks, start) = (Asks::default(), Instant::now());
        asks.keep(&HashSet::from([A]), start);
        asks.keep(&HashSet::new(), start);
        assert_eq!(asks.next(), None);
    }
}
