//! Clients in this network namespace: a program on the loopback interface sends their packets to services into a veth pair
//! of the balancer's own, at whose far end is an AF_XDP socket.
//!
//! The pair is made like a companion pair, for the same reason: the kernel segments super-packets on their way into it. Its
//! MTU is that of the loopback interface, so that no datagram is too long for it.

use std::os::fd::BorrowedFd;

use super::Steer;
use super::companion::{Companion, Purpose};
use super::refusal::local_error;
use crate::error::{Cause, SetupError};
use crate::link::LinkInfo;

/// The loopback interface.
pub(super) const LOOPBACK: &str = "lo";
/// The MTU of the pair, the largest of a veth. The loopback interface has one byte more, which IPv4 cannot use.
const MTU: u16 = 65_535;

/// The pair for local clients. Dropped after the programs.
#[derive(Debug)]
pub(super) struct LocalPair(Companion);

impl Steer {
    /// Prepares the way for clients in this network namespace. Returns the interface at whose queue 0 their packets arrive
    /// from [`Self::begin_local`] on.
    ///
    /// # Errors
    /// The kernel refuses the pair or the programs, or is older than 6.6 and cannot attach a program to the loopback
    /// interface that leaves it with its process. [`Self::end_local`] removes what was done.
    pub(crate) fn prepare_local(&mut self, link: &LinkInfo) -> Result<String, SetupError> {
        let far = LinkInfo {
            mtu: MTU,
            ..link.clone()
        };
        let pair = Companion::create(&far, 1, Purpose::LocalClients)?;
        let (index, interface) = (pair.far_index(), pair.far().to_owned());
        self.local = Some(LocalPair(pair));
        self.programs
            .attach_local_far(index)
            .map_err(|error| local_error(&interface, error))?;
        // It passes everything until it knows the pair.
        self.programs
            .attach_loopback()
            .map_err(|error| local_error(LOOPBACK, error))?;
        Ok(interface)
    }

    /// Begins to send packets of local clients to `socket`; nothing is sent before [`Self::allow`]. Packets of sockets
    /// with these `cookies` are for local clients.
    ///
    /// # Errors
    /// The kernel refuses an entry of a map.
    pub(crate) fn begin_local(&mut self, socket: BorrowedFd<'_>, cookies: &[u64]) -> Result<(), SetupError> {
        let Some(LocalPair(pair)) = &self.local else {
            return Ok(());
        };
        self.programs
            .register_local(socket, cookies)
            .map_err(|error| SetupError::RegisterSocket {
                interface: pair.far().to_owned(),
                queue: 0,
                cause: Cause::new(error),
            })?;
        self.programs.set_local_near(pair.near_index())
    }

    /// Makes room for the pair of the next attachment. What the program on the loopback interface still sends to this one is
    /// dropped: the kernel would answer with a TCP reset.
    pub(super) fn hold_local(&mut self) {
        self.programs.detach_local_far();
        self.local = None;
    }

    /// Takes back [`Self::prepare_local`].
    pub(crate) fn end_local(&mut self) {
        self.programs.detach_local();
        self.local = None;
    }
}
