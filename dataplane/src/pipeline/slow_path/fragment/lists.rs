//! Lists of numbered places, linked: taking a place out of the middle costs as much as at the ends.

/// No place.
const NONE: u16 = u16::MAX;

/// A fixed number of lists; each place is in one of them at most.
#[derive(Debug)]
pub(super) struct Lists {
    links: Box<[Link]>,
    ends: Box<[Ends]>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u16,
    behind: u16,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    first: u16,
    last: u16,
}

impl Lists {
    /// `lists` empty ones of places below `places`.
    pub(super) fn new(lists: u16, places: u16) -> Self {
        let unlinked = Link {
            before: NONE,
            behind: NONE,
        };
        let empty = Ends {
            first: NONE,
            last: NONE,
        };
        Self {
            links: vec![unlinked; usize::from(places)].into(),
            ends: vec![empty; usize::from(lists)].into(),
        }
    }

    /// Appends a place that is in no list.
    pub(super) fn push(&mut self, list: u16, place: u16) {
        let ends = &mut self.ends[usize::from(list)];
        let before = std::mem::replace(&mut ends.last, place);
        match before {
            NONE => ends.first = place,
            before => self.links[usize::from(before)].behind = place,
        }
        self.links[usize::from(place)] = Link { before, behind: NONE };
    }

    /// Takes out a place that is in this list.
    pub(super) fn remove(&mut self, list: u16, place: u16) {
        let Link { before, behind } = self.links[usize::from(place)];
        let ends = &mut self.ends[usize::from(list)];
        match before {
            NONE => ends.first = behind,
            before => self.links[usize::from(before)].behind = behind,
        }
        match behind {
            NONE => ends.last = before,
            behind => self.links[usize::from(behind)].before = before,
        }
    }

    /// The place that was appended first of those in the list.
    pub(super) fn first(&self, list: u16) -> Option<u16> {
        self.iter(list).next()
    }

    /// The places in a list, in the order in which they were appended.
    pub(super) fn iter(&self, list: u16) -> impl Iterator<Item = u16> {
        let some = |place: u16| (place != NONE).then_some(place);
        std::iter::successors(some(self.ends[usize::from(list)].first), move |&place| {
            some(self.links[usize::from(place)].behind)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_are_like_deques(steps in prop::collection::vec((0..3_u16, 0..16_u16), 1..200)) {
            let mut lists = Lists::new(3, 16);
            let mut model = vec![VecDeque::new(); 3];
            for (list, place) in steps {
                match (0..3_u16).find(|&own| model[usize::from(own)].contains(&place)) {
                    Some(own) => {
                        lists.remove(own, place);
                        model[usize::from(own)].retain(|&other| other != place);
                    }
                    None => {
                        lists.push(list, place);
                        model[usize::from(list)].push_back(place);
                    }
                }
                for list in 0..3 {
                    prop_assert!(lists.iter(list).eq(model[usize::from(list)].iter().copied()));
                    prop_assert_eq!(lists.first(list), model[usize::from(list)].front().copied());
                }
            }
        }
    }
}
