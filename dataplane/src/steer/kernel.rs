//! What the fast path needs of the kernel beyond the steer programs.
//!
//! Nothing is concluded from a version: each feature is used, and the kernel's refusal is the reason that log and status
//! show. A test can make this kernel refuse one as an older one does.

use std::borrow::Cow;
use std::io;

/// A feature that the fast path needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    /// Arrays that are mapped into memory, Linux 5.5.
    MappedArrays,
    /// A verifier that takes the program.
    Program,
    /// Programs that leave the interface with their process, Linux 6.6.
    TcxLinks,
}

/// The kernel that the programs are loaded into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Kernel {
    /// What it refuses as if it were older; for tests.
    pub(super) without: Option<Feature>,
}

impl Kernel {
    /// The error of a kernel without `feature`, if this one is to act as one.
    pub(super) fn refusal(self, feature: Feature) -> Option<io::Error> {
        (self.without == Some(feature)).then(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    /// The object to load: with an instruction of the fast path that no verifier takes, if this kernel is to refuse it.
    pub(super) fn object(self, object: &'static [u8]) -> Cow<'static, [u8]> {
        if self.without == Some(Feature::Program) {
            with_unknown_atomics(object).into()
        } else {
            object.into()
        }
    }
}

/// BPF_XCHG on 64 bits (opcode 0xdb, immediate 0xe1), which only the fast path uses, becomes an operation that does not
/// exist.
fn with_unknown_atomics(object: &[u8]) -> Vec<u8> {
    let mut object = object.to_vec();
    for instruction in object.chunks_exact_mut(8) {
        if let [0xdb, _, _, _, immediate @ 0xe1, 0, 0, 0] = instruction {
            *immediate = 0x70;
        }
    }
    object
}
