//! The datagrams whose fragments are in flight at one worker.
//!
//! A datagram is forgotten when all of it was seen, so the table holds little more than what is reordered or lost. It
//! is bounded three times over: datagrams in all and of each source, and fragments that wait for their first one, in
//! all and of each source. Where room is needed, the oldest datagram of the source that has most gives way, so a flood
//! from one source costs that source only (RFC 4787 REQ-14).

use std::collections::HashMap;

use vl3lb_common::{DropReason, Duration, Timestamp};

use super::coverage::{Coverage, Fit};
use super::lists::Lists;
use super::slab::Slab;
use crate::packet::TcpFlags;

/// Datagrams at most.
pub(super) const DATAGRAMS: u16 = 2048;
/// Datagrams of one source at most.
pub(super) const DATAGRAMS_OF_SOURCE: u16 = 256;
/// Fragments that wait for the first one of their datagram, at most.
pub(super) const WAITING: u16 = 256;
/// Waiting fragments of one source at most: a datagram of 64 KB has 44 at an MTU of 1500.
pub(super) const WAITING_OF_SOURCE: u16 = 64;
/// How long the rest of a datagram is waited for: at least 2 s (RFC 6146 section 4, FRAGMENT_MIN).
pub(super) const LIFETIME: Duration = Duration::from_secs(3);

/// What the fragments of one datagram have in common (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) source: [u8; 16],
    pub(super) local: u8,
    pub(super) protocol: u8,
    pub(super) id: u32,
    /// As it came back from the client's home, which may have got it from this worker.
    pub(super) away: bool,
}

impl Key {
    /// The datagram before and after it was at its client's home.
    fn both(self) -> [Self; 2] {
        [false, true].map(|away| Self { away, ..self })
    }
}

/// One fragment of a datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Its first byte in the datagram, and the one behind its last.
    pub(super) from: u16,
    pub(super) to: u16,
    pub(super) more: bool,
    /// Source and destination port; the first fragment only.
    pub(super) ports: Option<(u16, u16)>,
    /// Of the first fragment of a TCP segment.
    pub(super) flags: TcpFlags,
}

/// A waiting fragment, by a number that no other datagram has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(pub u32);

/// The fragments with a ticket need not wait any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub ticket: Ticket,
    /// The first fragment has come; or why the others are dropped.
    pub outcome: Result<(), DropReason>,
}

/// What becomes of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracked {
    /// It waits for the first one of its datagram.
    Waiting(Ticket),
    /// The ports of its datagram, and what became of those before it.
    Known { ports: (u16, u16), course: Course },
}

/// What became of a datagram's fragments so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Course {
    /// None has been decided about.
    Open,
    /// The first one was passed on to another worker: the rest is not for a flow of this one.
    PassedOn,
    Translated(Translated),
    /// The first one was dropped: nobody can use the rest.
    Dropped,
}

/// What the translated fragments of one datagram have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Translated {
    pub(super) destination: [u8; 16],
    pub(super) identification: u32,
}

/// A datagram with some fragments seen and others missing.
#[derive(Debug, Clone, Copy)]
struct Datagram {
    key: Key,
    coverage: Coverage,
    ticket: Ticket,
    began: Timestamp,
    ports: Option<(u16, u16)>,
    course: Course,
    /// Fragments that wait for the first one.
    waiting: u16,
    /// Fragments that have waited and are not forwarded yet.
    released: u16,
    /// Its fragments overlap: the rest is dropped (RFC 5722 section 4, RFC 8200 section 4.5).
    overlaps: bool,
    source: u16,
}

/// One sender of fragments, and what it has in the table.
#[derive(Debug, Clone, Copy)]
struct Source {
    datagrams: u16,
    waiting: u16,
}

/// The one list of [`FragmentTable::by_age`] and [`FragmentTable::by_wait`].
const ALL: u16 = 0;

/// The datagrams in flight at one worker. Keyed hashes: a sender cannot aim at another one's places.
#[derive(Debug)]
pub(in crate::pipeline) struct FragmentTable {
    datagrams: Slab<Datagram>,
    sources: Slab<Source>,
    by_key: HashMap<Key, u16>,
    by_source: HashMap<[u8; 16], u16>,
    /// All datagrams, the oldest first.
    by_age: Lists,
    /// Those with waiting fragments, the one that waits longest first.
    by_wait: Lists,
    /// The datagrams of each source, the oldest first.
    of_source: Lists,
    /// Sources by their number of datagrams, the one that has had so many for longest first.
    by_weight: Lists,
    waiting: u16,
    next_ticket: u32,
    releases: Vec<Release>,
}

impl Default for FragmentTable {
    fn default() -> Self {
        Self {
            datagrams: Slab::new(DATAGRAMS),
            sources: Slab::new(DATAGRAMS),
            // Twice the size: then removals never make them grow.
            by_key: HashMap::with_capacity(2 * usize::from(DATAGRAMS)),
            by_source: HashMap::with_capacity(2 * usize::from(DATAGRAMS)),
            by_age: Lists::new(1, DATAGRAMS),
            by_wait: Lists::new(1, DATAGRAMS),
            of_source: Lists::new(DATAGRAMS, DATAGRAMS),
            by_weight: Lists::new(DATAGRAMS_OF_SOURCE + 1, DATAGRAMS),
            waiting: 0,
            next_ticket: 0,
            releases: Vec::with_capacity(usize::from(WAITING)),
        }
    }
}

impl FragmentTable {
    /// Notes a fragment. `may_wait`: whether it waits if its datagram's first one was not seen. O(1); O(waiting fragments)
    /// where one has to make room for another.
    ///
    /// # Errors
    /// It overlaps or repeats another one, its datagram has too many gaps or nothing can make room, or the first one
    /// was not seen in time.
    pub(super) fn track(
        &mut self,
        key: Key,
        piece: Piece,
        may_wait: bool,
        now: Timestamp,
    ) -> Result<Tracked, DropReason> {
        self.expire(now);
        let place = match self.by_key.get(&key) {
            Some(&place) => place,
            None if piece.ports.is_none() && !may_wait => return Err(DropReason::FragmentUnmatched),
            None => self.begin(key, now)?,
        };
        let datagram = &mut self.datagrams[place];
        if datagram.overlaps {
            return Err(DropReason::FragmentOverlap);
        }
        match datagram.coverage.add(piece.from, piece.to, piece.more) {
            Fit::New => {}
            Fit::Repeated => return Err(DropReason::FragmentOverlap),
            Fit::Conflict => {
                datagram.overlaps = true;
                self.release(place, Err(DropReason::FragmentOverlap));
                return Err(DropReason::FragmentOverlap);
            }
            Fit::TooManyGaps => return Err(DropReason::FragmentTableFull),
        }
        if let Some(ports) = piece.ports {
            datagram.ports = Some(ports);
            datagram.released = datagram.waiting;
            self.release(place, Ok(()));
        }
        let datagram = &self.datagrams[place];
        let Some(ports) = datagram.ports else {
            return self.wait(place).map(Tracked::Waiting);
        };
        let course = datagram.course;
        self.forget_if_complete(place);
        match course {
            Course::Dropped => Err(DropReason::FragmentUnmatched),
            _ => Ok(Tracked::Known { ports, course }),
        }
    }

    /// The ports of a fragment that has waited.
    ///
    /// # Errors
    /// Its datagram had to give way meanwhile.
    pub(super) fn resume(&mut self, key: Key, now: Timestamp) -> Result<Tracked, DropReason> {
        self.expire(now);
        let place = *self.by_key.get(&key).ok_or(DropReason::FragmentUnmatched)?;
        let datagram = &mut self.datagrams[place];
        datagram.released = datagram.released.saturating_sub(1);
        if datagram.overlaps {
            return Err(DropReason::FragmentOverlap);
        }
        let ports = datagram.ports.ok_or(DropReason::FragmentUnmatched)?;
        let course = datagram.course;
        self.forget_if_complete(place);
        match course {
            Course::Dropped => Err(DropReason::FragmentUnmatched),
            _ => Ok(Tracked::Known { ports, course }),
        }
    }

    /// Notes what became of a datagram's first fragment, or of the first one that was translated; not of one that is
    /// complete. At a worker that is both before and behind the client's home, for both ways.
    pub(super) fn set_course(&mut self, key: Key, course: Course) {
        for key in key.both() {
            if let Some(&place) = self.by_key.get(&key) {
                self.datagrams[place].course = course;
            }
        }
    }

    /// Forgets datagrams whose time is over. O(expired datagrams).
    pub(in crate::pipeline) fn expire(&mut self, now: Timestamp) {
        while let Some(oldest) = self.by_age.first(ALL)
            && now.since(self.datagrams[oldest].began) >= LIFETIME
        {
            self.remove(oldest, DropReason::FragmentUnmatched);
        }
    }

    /// The next fragments that need not wait any longer, if there are any.
    #[inline]
    pub(in crate::pipeline) fn next_release(&mut self) -> Option<Release> {
        self.releases.pop()
    }

    /// Whether no datagram is in flight.
    #[cfg(test)]
    pub(in crate::pipeline) fn is_empty(&self) -> bool {
        self.by_age.first(ALL).is_none()
    }

    /// Fragments that wait.
    #[cfg(test)]
    pub(super) const fn waiting(&self) -> u16 {
        self.waiting
    }

    /// A place for a datagram with no fragment yet.
    fn begin(&mut self, key: Key, now: Timestamp) -> Result<u16, DropReason> {
        let known = self.by_source.get(&key.source).copied();
        let heaviest = match known {
            Some(source) if self.sources[source].datagrams >= DATAGRAMS_OF_SOURCE => Some(source),
            _ if self.datagrams.is_full() => self.heaviest(),
            _ => None,
        };
        if let Some(victim) = heaviest.and_then(|source| self.of_source.first(source)) {
            self.remove(victim, DropReason::FragmentTableFull);
        }
        // Looked up again: it may have lost its last datagram.
        let source = match self.by_source.get(&key.source) {
            Some(&source) => source,
            None => self.add_source(key.source)?,
        };
        let ticket = Ticket(self.next_ticket);
        self.next_ticket = self.next_ticket.wrapping_add(1);
        let place = self
            .datagrams
            .insert(Datagram {
                key,
                coverage: Coverage::EMPTY,
                ticket,
                began: now,
                ports: None,
                course: Course::Open,
                waiting: 0,
                released: 0,
                overlaps: false,
                source,
            })
            .ok_or(DropReason::Internal)?;
        self.by_age.push(ALL, place);
        self.of_source.push(source, place);
        self.weigh(source, self.sources[source].datagrams + 1);
        self.by_key.insert(key, place);
        Ok(place)
    }

    fn add_source(&mut self, address: [u8; 16]) -> Result<u16, DropReason> {
        let source = Source {
            datagrams: 0,
            waiting: 0,
        };
        // Each source has a datagram, so there is room for it where there is room for one.
        let place = self.sources.insert(source).ok_or(DropReason::Internal)?;
        self.by_source.insert(address, place);
        self.by_weight.push(0, place);
        Ok(place)
    }

    /// Makes a fragment of the datagram at `place` wait.
    fn wait(&mut self, place: u16) -> Result<Ticket, DropReason> {
        let source = self.datagrams[place].source;
        let victim = if self.sources[source].waiting >= WAITING_OF_SOURCE {
            self.by_wait
                .iter(ALL)
                .find(|&other| self.datagrams[other].source == source)
        } else if self.waiting >= WAITING {
            self.longest_waiting_of_heaviest()
        } else {
            None
        };
        match victim {
            Some(victim) if victim == place => return Err(DropReason::FragmentTableFull),
            Some(victim) => self.remove(victim, DropReason::FragmentTableFull),
            None => {}
        }
        let datagram = &mut self.datagrams[place];
        if datagram.waiting == 0 {
            self.by_wait.push(ALL, place);
        }
        datagram.waiting += 1;
        self.sources[source].waiting += 1;
        self.waiting += 1;
        Ok(datagram.ticket)
    }

    /// The source with most datagrams.
    fn heaviest(&self) -> Option<u16> {
        (1..=DATAGRAMS_OF_SOURCE)
            .rev()
            .find_map(|weight| self.by_weight.first(weight))
    }

    /// Of the datagrams with waiting fragments the one that waits longest among those of the source with most datagrams.
    ///
    /// A source is weighed by its datagrams, not by its fragments that wait: otherwise a flood of single fragments from
    /// many sources would push out datagrams that arrive in reverse.
    fn longest_waiting_of_heaviest(&self) -> Option<u16> {
        let weight = |&place: &u16| self.sources[self.datagrams[place].source].datagrams;
        let most = self.by_wait.iter(ALL).map(|place| weight(&place)).max()?;
        self.by_wait.iter(ALL).find(|place| weight(place) == most)
    }

    /// Notes how many datagrams a source has.
    fn weigh(&mut self, source: u16, datagrams: u16) {
        let before = std::mem::replace(&mut self.sources[source].datagrams, datagrams);
        self.by_weight.remove(before, source);
        self.by_weight.push(datagrams, source);
    }

    fn forget_if_complete(&mut self, place: u16) {
        let datagram = &self.datagrams[place];
        if datagram.coverage.is_complete() && datagram.released == 0 {
            self.remove(place, DropReason::Internal);
        }
    }

    /// Removes a datagram; fragments that wait for its first one are dropped for `reason`.
    fn remove(&mut self, place: u16, reason: DropReason) {
        self.release(place, Err(reason));
        let Datagram { key, source, .. } = self.datagrams[place];
        self.by_age.remove(ALL, place);
        self.of_source.remove(source, place);
        self.by_key.remove(&key);
        self.datagrams.remove(place);
        self.weigh(source, self.sources[source].datagrams - 1);
        if self.sources[source].datagrams == 0 {
            self.by_weight.remove(0, source);
            self.by_source.remove(&key.source);
            self.sources.remove(source);
        }
    }

    /// Ends the wait of a datagram's fragments.
    fn release(&mut self, place: u16, outcome: Result<(), DropReason>) {
        let datagram = &mut self.datagrams[place];
        let waiting = std::mem::take(&mut datagram.waiting);
        if waiting == 0 {
            return;
        }
        self.by_wait.remove(ALL, place);
        self.waiting -= waiting;
        self.sources[datagram.source].waiting -= waiting;
        let ticket = datagram.ticket;
        self.releases.push(Release { ticket, outcome });
    }
}
