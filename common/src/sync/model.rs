//! Crossbeam's queues as loom sees them: with the orderings that they promise and no more.
//!
//! Who takes an element sees what was written before it was put there, and nothing else follows. Crossbeam's own fences
//! would hide one that is missing beside a queue. Elements are in mutexes that loom does not know: it runs one thread at a
//! time, and a word decides whether an element is seen.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

/// A bounded queue of many writers and readers, after Dmitry Vyukov's, as crossbeam's is.
#[derive(Debug)]
pub struct ArrayQueue<T> {
    slots: Box<[Slot<T>]>,
    head: AtomicUsize,
    tail: AtomicUsize,
}

#[derive(Debug)]
struct Slot<T> {
    /// Twice the position that may be written next, or that may be read and one.
    stamp: AtomicUsize,
    element: Mutex<Option<T>>,
}

impl<T> ArrayQueue<T> {
    /// A queue for `capacity` elements.
    pub fn new(capacity: usize) -> Self {
        let slot = |position| Slot {
            stamp: AtomicUsize::new(2 * position),
            element: Mutex::new(None),
        };
        Self {
            slots: (0..capacity).map(slot).collect(),
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
        }
    }

    /// # Errors
    ///
    /// The queue is full; with `element`.
    pub fn push(&self, element: T) -> Result<(), T> {
        loop {
            let tail = self.tail.load(Relaxed);
            let slot = self.slot(tail);
            if slot.stamp.load(Acquire) == 2 * tail
                && self
                    .tail
                    .compare_exchange(tail, tail + 1, AcqRel, Relaxed)
                    .is_ok()
            {
                *slot.element.lock().unwrap_or_else(PoisonError::into_inner) = Some(element);
                slot.stamp.store(2 * tail + 1, Release);
                return Ok(());
            }
            if self.head.load(Acquire) + self.capacity() == tail {
                return Err(element);
            }
            loom::thread::yield_now();
        }
    }

    /// Puts `element` into the queue, in the place of the oldest one if it is full.
    pub fn force_push(&self, mut element: T) -> Option<T> {
        let mut oldest = None;
        while let Err(refused) = self.push(element) {
            element = refused;
            oldest = self.pop().or(oldest);
        }
        oldest
    }

    /// The oldest element, unless the queue is empty.
    pub fn pop(&self) -> Option<T> {
        loop {
            let head = self.head.load(Relaxed);
            let slot = self.slot(head);
            let stamp = slot.stamp.load(Acquire);
            if stamp == 2 * head {
                return None;
            }
            if stamp == 2 * head + 1
                && self
                    .head
                    .compare_exchange(head, head + 1, AcqRel, Relaxed)
                    .is_ok()
            {
                let element = slot.element.lock().unwrap_or_else(PoisonError::into_inner).take();
                slot.stamp.store(2 * (head + self.capacity()), Release);
                return element;
            }
            loom::thread::yield_now();
        }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        let head = self.head.load(Acquire);
        self.tail.load(Acquire).saturating_sub(head)
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of elements that fit.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    fn slot(&self, position: usize) -> &Slot<T> {
        &self.slots[position % self.slots.len()]
    }
}

/// A queue without a limit.
#[derive(Debug)]
pub struct SegQueue<T>(loom::sync::Mutex<VecDeque<T>>);

impl<T> Default for SegQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> SegQueue<T> {
    pub fn new() -> Self {
        Self(loom::sync::Mutex::new(VecDeque::new()))
    }

    pub fn push(&self, element: T) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(element);
    }

    /// The oldest element, unless the queue is empty.
    pub fn pop(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}
