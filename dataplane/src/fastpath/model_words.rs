//! An array of words of the model checker, in the place of mapped ones. See `vl3lb_common::sync`.

use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;

use vl3lb_common::sync::atomic::AtomicU64;

/// Words that are all zero in the beginning.
pub(crate) struct Words(Box<[AtomicU64]>);

impl Words {
    /// There are no programs to share it with.
    pub(crate) fn of_map(_: BorrowedFd<'_>, _: usize) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(test)]
    #[expect(clippy::unnecessary_wraps, reason = "as that of mapped words")]
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Ok(Self((0..len).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        &self.0
    }
}
