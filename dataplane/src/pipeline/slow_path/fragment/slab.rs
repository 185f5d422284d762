//! Numbered places for values, of which there are at most a fixed number.

use std::ops::{Index, IndexMut};

/// Up to `capacity` values in places that stay.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<T>,
    free: Vec<u16>,
    capacity: usize,
}

impl<T: Copy> Slab<T> {
    pub(super) fn new(capacity: u16) -> Self {
        let capacity = usize::from(capacity);
        Self {
            places: Vec::with_capacity(capacity),
            free: Vec::with_capacity(capacity),
            capacity,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty() && self.places.len() == self.capacity
    }

    /// A place for `value`; `None` if it is full.
    pub(super) fn insert(&mut self, value: T) -> Option<u16> {
        if let Some(place) = self.free.pop() {
            self[place] = value;
            return Some(place);
        }
        let place = u16::try_from(self.places.len()).ok()?;
        (self.places.len() < self.capacity).then(|| {
            self.places.push(value);
            place
        })
    }

    /// Frees a place that is in use.
    pub(super) fn remove(&mut self, place: u16) {
        self.free.push(place);
    }
}

impl<T> Index<u16> for Slab<T> {
    type Output = T;

    fn index(&self, place: u16) -> &T {
        &self.places[usize::from(place)]
    }
}

impl<T> IndexMut<u16> for Slab<T> {
    fn index_mut(&mut self, place: u16) -> &mut T {
        &mut self.places[usize::from(place)]
    }
}
