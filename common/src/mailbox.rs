//! The hand-over of snapshots to a worker: one slot, the newest wins.
//!
//! The worker polls it once per burst without a lock; what it no longer needs goes back, so that a
//! snapshot is freed on the control side and never costs a worker time.

use std::sync::Arc;

use crossbeam::queue::{ArrayQueue, SegQueue};

/// A latest-wins mailbox of `Arc<T>` with a way back for used ones.
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
    /// Control: offers `value`; an older one that was never taken is dropped here, and so is
    /// everything that the worker gave back.
    pub fn put(&self, value: Arc<T>) {
        self.newest.force_push(value);
        while self.used.pop().is_some() {}
    }

    /// Worker: the newest value, if there is one since the last call. Lock-free, no allocation.
    #[inline]
    pub fn take(&self) -> Option<Arc<T>> {
        self.newest.pop()
    }

    /// Worker: gives back what it no longer uses. Once per snapshot.
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
