//! The cores of a comparison.
//!
//! The peer has one core to itself, for its threads or for the kernel's work for it. The tester has another one.
//! Programs with sockets, on both sides of the peer, run on all cores: on two cores they would be the bottleneck if
//! they shared the one that is left.

use super::error::CompareError;

/// The cores of tester and peer, and all that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores {
    tester: usize,
    peer: usize,
    all: Vec<usize>,
}

impl Cores {
    /// The first core of this process for the tester, the last one for the peer.
    pub(crate) fn here() -> Result<Self, CompareError> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        Self::of(cores.into_iter().map(|core| core.id).collect())
    }

    /// With tester and peer at each other's core: the peer then has the one that programs take by default.
    pub(crate) fn exchanged(self) -> Self {
        Self {
            tester: self.peer,
            peer: self.tester,
            all: self.all,
        }
    }

    fn of(all: Vec<usize>) -> Result<Self, CompareError> {
        match all[..] {
            [tester, .., peer] => Ok(Self { tester, peer, all }),
            _ => Err(CompareError::TooFewCores { available: all }),
        }
    }

    pub(crate) const fn tester_core(&self) -> usize {
        self.tester
    }

    pub(crate) const fn peer_core(&self) -> usize {
        self.peer
    }

    /// The peer's core as for taskset.
    pub(crate) fn peer_list(&self) -> String {
        self.peer.to_string()
    }

    /// All cores as for taskset.
    pub(crate) fn all_list(&self) -> String {
        let all: Vec<String> = self.all.iter().map(ToString::to_string).collect();
        all.join(",")
    }

    /// The peer's core as a bit mask.
    pub(crate) const fn peer_mask(&self) -> u128 {
        1 << self.peer
    }

    /// Keeps the calling thread on the tester's core.
    pub(crate) fn pin_tester(&self) -> Result<(), CompareError> {
        let core = self.tester;
        if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
            Ok(())
        } else {
            Err(CompareError::Pin { core })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tester_and_peer_never_share_a_core() {
        let cores = Cores::of(vec![0, 2, 5]).unwrap();
        assert_eq!((cores.tester_core(), cores.peer_core()), (0, 5));
        assert_eq!(
            (cores.peer_list(), cores.all_list()),
            ("5".to_owned(), "0,2,5".to_owned())
        );
        assert_eq!(cores.peer_mask(), 0b10_0000);
        let exchanged = cores.exchanged();
        assert_eq!((exchanged.tester_core(), exchanged.peer_core()), (5, 0));
        assert!(Cores::of(vec![0]).is_err());
    }
}
