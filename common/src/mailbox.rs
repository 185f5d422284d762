//! Hands snapshots to a worker: one slot, the newest wins.
//!
//! The worker polls it once per burst without a lock and returns the snapshot that it used before, so that
//! snapshots are freed on the control side.

use std::sync::Arc;

use crate::sync::{ArrayQueue, SegQueue};

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

#[cfg(all(test, not(feature = "loom")))]
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

/// All interleavings, by the model checker. See [`crate::sync`].
#[cfg(all(test, feature = "loom"))]
mod interleavings {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    /// A value whose end is noted with the thread that it happens in.
    #[derive(Debug)]
    struct Value {
        number: u32,
        ends: Arc<Mutex<Vec<(u32, loom::thread::ThreadId)>>>,
    }

    impl Drop for Value {
        fn drop(&mut self) {
            let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.push((self.number, loom::thread::current().id()));
        }
    }

    #[test]
    fn the_newest_value_arrives_and_each_ends_once_on_the_control_side() {
        loom::model(|| {
            let mailbox = loom::sync::Arc::new(Mailbox::default());
            let ends = Arc::new(Mutex::new(Vec::new()));
            let value = |number| {
                Arc::new(Value {
                    number,
                    ends: Arc::clone(&ends),
                })
            };
            let worker = {
                let mailbox = loom::sync::Arc::clone(&mailbox);
                loom::thread::spawn(move || {
                    let mut used: Option<Arc<Value>> = None;
                    for _ in 0..2 {
                        if let Some(new) = mailbox.take() {
                            if let Some(old) = used.replace(new) {
                                assert!(old.number < used.as_ref().map_or(0, |new| new.number), "in order");
                                mailbox.give_back(old);
                            }
                        }
                    }
                    used
                })
            };
            mailbox.put(value(1));
            mailbox.put(value(2));
            let used = worker.join().unwrap();
            let left = mailbox.take();
            let newest = left.as_ref().or(used.as_ref()).expect("a value");
            assert_eq!(newest.number, 2, "the newest one");
            drop((used, left));
            mailbox.put(value(3));
            drop(mailbox);
            let here = loom::thread::current().id();
            let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
            ends.sort_by_key(|(number, _)| *number);
            let numbers: Vec<_> = ends.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, [1, 2, 3], "each once");
            assert!(
                ends.iter().all(|(_, thread)| *thread == here),
                "on the control side"
            );
        });
    }
}
