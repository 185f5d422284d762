//! The fast path: established flows that a BPF program translates in the kernel, under the worker that owns them.
//!
//! A worker opens a flow, judges its state and ends it. While the flow is established, the worker also writes it into
//! arrays that it shares with the program (`bpf/fastpath_maps.h`), which then takes the flow's plain packets: whole, without
//! options, ACK only, and short enough. All others come to the worker as ever. Of a UDP flow without a reply the program
//! takes requests only: the first reply changes the flow's state. Nothing here is a system call.
//!
//! | what | written by | read by |
//! |---|---|---|
//! | index words: tuple to record and direction | the worker that owns the flow | program |
//! | a record's identity | its worker, while no word names it | program |
//! | next hops, MTUs | its worker, each word as a whole | program |
//! | packets, bytes, last use, sequence numbers | program | its worker |
//! | rounds: per CPU, odd while the program runs | program | all workers |
//!
//! # Why a translation is never stale
//!
//! | | worker | program |
//! |---|---|---|
//! | opens | writes the record, then the words (release) | |
//! | | | makes its CPU's number odd (full barrier), reads a word, compares the record's key, translates, counts, makes the number even (full barrier) |
//! | takes back | clears the words; full barrier; waits until each CPU whose number was odd has another one | |
//! | | reads the counters for the last time; now NAT port and record may be used again | |
//!
//! Either the program's number is odd when the worker looks, and the worker waits for it; or the program reads the index
//! after the words were cleared, and finds nothing. So when the wait is over, no program knows the record. A model of
//! this runs every interleaving (`tests/model.rs`). The wait is some 100 ns per CPU, as long as one packet where a program
//! runs, and longer only if the system takes that CPU away from it.

mod layout;
mod memory;
mod promotion;
mod table;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(not(feature = "loom"))]
#[expect(
    unsafe_code,
    reason = "the memory boundary: words that the kernel's programs share"
)]
mod words;
#[cfg(feature = "loom")]
#[path = "model_words.rs"]
mod words;

pub(crate) use memory::FastMemory;
pub(crate) use promotion::{Hop, Promotion};
#[cfg(test)]
pub(crate) use table::NoRoom;
pub(crate) use table::{FastTable, Usage};
pub(crate) use words::Words;

/// The control side states the right size of the memory.
const _: () = {
    use layout::{BUCKET_BYTES, RECORD_BYTES};
    let flows = 1000;
    let bytes = flows as u64 * RECORD_BYTES as u64 + buckets(flows) as u64 * BUCKET_BYTES as u64;
    assert!(bytes == vl3lb_common::dataplane::fast_path_bytes(flows));
};

/// Buckets of the index for `flows` flows: a power of two, so that a bucket has two of its eight words in use at most on
/// average.
pub(crate) const fn buckets(flows: u32) -> u32 {
    flows.next_power_of_two()
}
