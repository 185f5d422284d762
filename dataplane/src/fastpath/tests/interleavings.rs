//! All interleavings of a worker that takes a record back and a program that uses it, by the model checker: of the
//! orderings, where `model` has those of the steps. See `vl3lb_common::sync`.

use loom::sync::Arc;
use vl3lb_common::sync::atomic::{Ordering, fence};

use super::super::memory::FastMemory;

/// The program of `bpf/fastpath.h` on one CPU: between two full barriers, it finds the record and reads it twice.
fn run_program(memory: &FastMemory) {
    memory.round(0).store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    if memory.index_word(0).load(Ordering::Acquire) == 1 {
        let record = memory.record(0);
        let seen = [0, 1].map(|_| record[0].load(Ordering::Relaxed));
        assert_eq!(seen, [7; 2], "the record of another flow");
    }
    // The barrier before the number, so that all that was read is older.
    fence(Ordering::SeqCst);
    memory.round(0).store(2, Ordering::Release);
}

#[test]
fn a_record_is_used_again_only_when_no_program_knows_it() {
    loom::model(|| {
        let memory = Arc::new(FastMemory::anonymous(1, 1).unwrap());
        memory.record(0)[0].store(7, Ordering::Relaxed);
        memory.index_word(0).store(1, Ordering::Release);
        let program = {
            let memory = Arc::clone(&memory);
            loom::thread::spawn(move || run_program(&memory))
        };
        memory.index_word(0).store(0, Ordering::Release);
        if memory.is_quiet(2) {
            memory.record(0)[0].store(8, Ordering::Relaxed);
        }
        program.join().unwrap();
    });
}
