//! Hands snapshots to a worker: one slot, the newest wins.
//!
//! The worker polls it once per burst without a lock and returns the snapshot that it used before, so that
//! snapshots are freed on the control side.

use std::sync::Arc;

use crossbeam::queue::{ArrayQueue, SegQueue};

/// A latest-wins mailbox of `Arc<T>`; used values are returned.
#[derive(Debug)]
pub struct Mailbox<T> {
    newest: ArrayQueue<Arc<T>>,
    used: SegQueue<Arc<T>>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            newest: ArrayQueue::new(1),
            used: SegQueue::new(),
        }
    }
}

impl<T> Mailbox<T> {
    /// Control: offers `value`. Drops an older one that was never taken, and all that the worker returned.
    pub fn put(&self, value: Arc<T>) {
        self.newest.force_push(value);
        while self.used.pop().is_some() {}
    }

    /// Worker: the newest value since the last call, if any. Lock-free, no allocation.
    #[inline]
    pub fn take(&self) -> Option<Arc<T>> {
        self.newest.pop()
    }

    /// Worker: returns a value that it no longer uses. Once per snapshot.
    pub fn give_back(&self, value: Arc<T>) {
        self.used.push(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_value_wins_and_used_ones_are_freed_by_control() {
        let mailbox = Mailbox::default();
        let first = Arc::new(1);
        let weak = Arc::downgrade(&first);
        mailbox.put(first);
        mailbox.put(Arc::new(2));
        assert!(weak.upgrade().is_none());
        let second = mailbox.take().unwrap();
        assert_eq!(*second, 2);
        assert!(mailbox.take().is_none());
        let weak = Arc::downgrade(&second);
        mailbox.give_back(second);
        assert!(weak.upgrade().is_some());
        mailbox.put(Arc::new(3));
        assert!(weak.upgrade().is_none());
    }
}
