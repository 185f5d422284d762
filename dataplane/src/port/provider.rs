//! Where a plane gets its ports.

use std::fmt::Debug;
use std::sync::Arc;

use vl3lb_common::dataplane::{Attachment, LinkChange, Steered};
use vl3lb_common::next_hop::Link;

use super::Port;
use crate::error::SetupError;
use crate::fastpath::FastMemory;
use crate::shed::ShedMemory;
use crate::steer::Rules;

/// Opens ports on an interface that may come and go.
pub trait PortProvider: Debug + Send + Sync + 'static {
    type Port: Port<Frame: 'static> + Debug + Send + 'static;
    type Steering: Steering;

    /// Inspects the interface and opens one port for each worker; no packet arrives before
    /// [`Steering::allow`]. `workers` is the fixed number of workers, `None` if the provider may choose.
    ///
    /// # Errors
    ///
    /// The interface is missing or unsuitable, or the system refuses; nothing stays open.
    fn attach(&self, workers: Option<u16>) -> Result<Attached<Self::Port, Self::Steering>, SetupError>;

    /// Compares `attachment` with the interface as it is now.
    fn link_change(&self, attachment: &Attachment) -> Option<LinkChange>;
}

/// Open ports.
#[derive(Debug)]
pub struct Attached<P, S> {
    /// One for each worker.
    pub ports: Vec<P>,
    /// Dropped before the ports are closed, so that no more packets arrive.
    pub steering: S,
    /// How they were opened; the cores are not filled in.
    pub attachment: Attachment,
    /// What the workers share with the in-kernel path, if there is one.
    pub fast_path: Option<Arc<FastMemory>>,
    /// What the workers share with the programs in the kernel to shed load there, if there are any.
    pub shed: Option<Arc<ShedMemory>>,
}

/// Decides which packets go to the ports; all others stay with the kernel. Dropping it stops the
/// arrival of packets.
pub trait Steering: Debug + Send + 'static {
    /// Removes rules that are not in `rules`. Call it before the workers remove the services.
    fn restrict(&mut self, rules: &Rules) -> Result<(), SetupError>;

    /// Adds the new ones of `rules`. Call it when all workers have the services. After an error the rules are
    /// partly in force and may be allowed again.
    fn allow(&mut self, rules: &Rules) -> Result<(), SetupError>;

    /// Ends it, and has the packets of its rules dropped until what this returns is dropped: another attachment is made
    /// meanwhile, and the kernel must not answer them. `None`: they are left to the kernel.
    fn hold(self) -> Option<Box<dyn Debug + Send>>
    where
        Self: Sized,
    {
        None
    }

    /// Follows a change of the interface's MAC address or MTU.
    fn set_link(&mut self, link: Link, mtu: u16) -> Result<(), SetupError>;

    /// Packets steered since attaching. They can still be read when this is gone.
    fn counters(&self) -> Arc<dyn SteerCounters>;
}

/// Readable without a lock, and while rules change.
pub trait SteerCounters: Debug + Send + Sync {
    /// The counts so far. May cost a few system calls.
    fn read(&self) -> Steered;
}
