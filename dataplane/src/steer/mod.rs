//! The steer programs, which select the balancer's packets, and the three ways to attach them.
//!
//! A steer program redirects the packets that [`Rules`] describe to AF_XDP sockets and passes all others to
//! the kernel. The programs are C, in `bpf/`. The modes:
//!
//! - native: XDP in the interface's driver. The peer then segments its super-packets itself.
//! - generic: XDP in the kernel's receive path. Super-packets stay whole; UDP ones cannot be segmented.
//! - companion: a tc program on the interface redirects to a veth pair of our own, with native XDP on its far
//!   end. Correct for every sender, on every link.
//!
//! All attachments are BPF links, so they end with the process, however it ends. kill -9 leaves a companion
//! pair behind (and before Linux 6.6 a tc filter): the next attachment removes it.

mod companion;
mod counters;
mod kernel;
mod local;
mod mode;
mod program;
mod refusal;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use aya::programs::{ProgramError, XdpMode};
use vl3lb_common::dataplane::{AttachMode, FastPath, Steered};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{PortSet, ServiceKey};

use crate::config::{FastPathConfig, Mode};
use crate::error::{Attempts, Cause, SetupError, os_code};
use crate::fastpath::FastMemory;
use crate::link::{Link, LinkInfo};
use crate::shed::ShedMemory;
use companion::{Companion, Purpose};
use kernel::Kernel;
use local::LocalPair;
use mode::{With, candidates, no_fast_path, queues, reason, refuses};
use program::Programs;
use refusal::attach_error;

pub(crate) use counters::Counters;

/// Which packets belong to the balancer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// At most 16,384.
    pub services: HashSet<ServiceKey>,
    /// The balancer's own addresses, those of all services among them. At most 256.
    pub addresses: Vec<IpAddr>,
    pub nat_ports: NatPorts,
    /// Ports of the range that are the kernel's.
    pub kernel_ports: Arc<PortSet>,
    /// Number of workers that flows are divided among.
    pub workers: u16,
    /// The secret of the hash that divides them.
    pub owner_key: OwnerKey,
}

impl Rules {
    /// Ports that no flow has as NAT port, though they may be in the range.
    fn left_out(&self) -> PortSet {
        let mut ports = PortSet::clone(&self.kernel_ports);
        for service in &self.services {
            ports.insert(service.port);
        }
        ports
    }
}

/// The attached steer programs. Dropping it detaches them and removes their pairs.
#[derive(Debug)]
pub struct Steer {
    // Fields are dropped in this order: programs leave before the pairs do.
    programs: Programs,
    companion: Option<Companion>,
    local: Option<LocalPair>,
    interface: String,
    mode: AttachMode,
    reason: String,
    refuses: String,
    queues: u32,
    fast_path: FastPath,
    /// What the workers share with the fast path, if it is in use.
    fast_memory: Option<Arc<FastMemory>>,
    /// What the workers share with the programs to shed load.
    shed_memory: Arc<ShedMemory>,
    /// The contents of the maps.
    services: HashSet<ServiceKey>,
    addresses: HashSet<IpAddr>,
    left_out: PortSet,
}

impl Steer {
    /// Attaches to `link` in `mode`; nothing is steered before [`Self::allow`]. `workers` is the number of
    /// workers, `None` for one per queue. Takes a few milliseconds (the kernel verifies the
    /// programs); a physical interface may lose its carrier for a moment.
    ///
    /// `auto` tries the modes that are correct for every sender, best first, and generic mode last.
    pub fn attach(
        link: &LinkInfo,
        mode: Mode,
        workers: Option<u16>,
        fast_path: FastPathConfig,
    ) -> Result<Self, SetupError> {
        Self::attach_on(Kernel::default(), link, mode, workers, fast_path)
    }

    /// [`attach`](Self::attach) with a kernel that may act as an older one.
    fn attach_on(
        kernel: Kernel,
        link: &LinkInfo,
        mode: Mode,
        workers: Option<u16>,
        fast_path: FastPathConfig,
    ) -> Result<Self, SetupError> {
        let cpus =
            std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1));
        let mut failures = Attempts(Vec::new());
        for &(candidate, with) in candidates(link, mode, fast_path) {
            let attached = queues(link, candidate, workers, cpus)
                .and_then(|queues| Self::attach_with(kernel, link, (candidate, with), queues, fast_path));
            match attached {
                Ok(mut steer) => {
                    steer.reason = reason(link, mode, candidate, &failures);
                    return Ok(steer);
                }
                Err(error @ (SetupError::Privilege { .. } | SetupError::AlreadyServed { .. })) => {
                    return Err(error);
                }
                Err(error) => failures.0.push((candidate, error)),
            }
        }
        match failures.0.pop() {
            Some((_, only)) if failures.0.is_empty() => Err(only),
            last => {
                failures.0.extend(last);
                Err(SetupError::NoAttachment {
                    interface: link.name.clone(),
                    attempts: failures,
                })
            }
        }
    }

    /// How the programs are attached.
    pub fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Whether established flows are forwarded in the kernel, and why.
    pub(crate) fn fast_path(&self) -> &FastPath {
        &self.fast_path
    }

    /// What the workers share with the fast path, if it is in use.
    pub(crate) fn fast_memory(&self) -> Option<Arc<FastMemory>> {
        self.fast_memory.clone()
    }

    /// What the workers share with the programs to shed load.
    pub(crate) fn shed_memory(&self) -> Arc<ShedMemory> {
        Arc::clone(&self.shed_memory)
    }

    /// Why this mode was chosen.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The traffic that this mode cannot serve; empty if there is none.
    pub fn refuses(&self) -> &str {
        &self.refuses
    }

    /// The interface that receiving sockets are bound to: the vL3 interface, or the far end of the companion
    /// pair.
    pub fn receive_interface(&self) -> &str {
        self.companion.as_ref().map_or(&self.interface, Companion::far)
    }

    /// The interface that sending sockets are bound to: the vL3 interface.
    pub fn transmit_interface(&self) -> &str {
        &self.interface
    }

    /// Queues of the receive interface.
    pub fn queues(&self) -> u32 {
        self.queues
    }

    /// Makes `socket`, which is bound to `queue` of [`Self::receive_interface`], get that queue's frames.
    pub fn register_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SetupError> {
        let interface = || self.receive_interface().to_owned();
        if queue >= self.queues {
            return Err(SetupError::QueueUnknown {
                interface: interface(),
                queue,
                last: self.queues - 1,
            });
        }
        self.programs
            .register_socket(queue, socket)
            .map_err(|error| SetupError::RegisterSocket {
                interface: self.receive_interface().to_owned(),
                queue,
                cause: Cause::new(error),
            })
    }

    /// Adds the new entries of `rules`, after all workers have switched to them. NAT ports and workers are
    /// replaced. A few microseconds per new entry; after an error the rules are partly in force and may be
    /// allowed again.
    pub fn allow(&mut self, rules: &Rules) -> Result<(), SetupError> {
        self.programs
            .set_config(rules.nat_ports, rules.workers, &rules.owner_key)?;
        for &address in &rules.addresses {
            if !self.addresses.contains(&address) {
                self.programs.insert_address(address)?;
                self.addresses.insert(address);
            }
        }
        let new: Vec<_> = rules.services.difference(&self.services).copied().collect();
        for service in new {
            self.programs.insert_service(&service)?;
            self.services.insert(service);
        }
        self.leave_out(rules.left_out())
    }

    /// Replaces the XDP program by the tc program, which drops what is the workers' by the present rules. `None` in companion
    /// mode, and where the kernel refuses.
    pub fn hold(mut self) -> Option<Hold> {
        if self.mode == AttachMode::Companion {
            return None;
        }
        let held = self
            .programs
            .attach_tcx()
            .and_then(|()| self.programs.detach_xdp());
        match held {
            Ok(()) => {
                self.hold_local();
                Some(Hold { _steer: self })
            }
            Err(error) => {
                tracing::debug!(interface = self.interface, %error, "hold back packets during an attachment");
                None
            }
        }
    }

    /// Removes entries that are not in `rules`, before the workers switch to them.
    pub fn restrict(&mut self, rules: &Rules) -> Result<(), SetupError> {
        let old: Vec<_> = self.services.difference(&rules.services).copied().collect();
        for service in old {
            self.programs.remove_service(&service)?;
            self.services.remove(&service);
        }
        for address in self.addresses.clone() {
            if !rules.addresses.contains(&address) {
                self.programs.remove_address(address)?;
                self.addresses.remove(&address);
            }
        }
        // Workers may use ports that are free again as soon as they switch.
        let mut freed = self.left_out.clone();
        freed.remove_all(&rules.left_out());
        let mut kept = self.left_out.clone();
        kept.remove_all(&freed);
        self.leave_out(kept)
    }

    fn leave_out(&mut self, ports: PortSet) -> Result<(), SetupError> {
        if ports != self.left_out {
            self.programs.set_left_out(&ports)?;
            self.left_out = ports;
        }
        Ok(())
    }

    /// Frames sent to the workers, and passed to the kernel, since attaching. Every frame that the interface
    /// received counts as one of them, ARP and broadcasts too. One system call per counter.
    pub fn steered(&self) -> Steered {
        self.programs.counters().read()
    }

    /// The counters behind [`Self::steered`], for other threads. They outlive the programs.
    pub fn counters(&self) -> Counters {
        self.programs.counters().clone()
    }

    /// Takes over the interface's MAC address and MTU after a change, without an interruption. The link type of
    /// an interface never changes.
    pub fn set_link(&mut self, link: Link, mtu: u16) -> Result<(), SetupError> {
        self.programs.set_link(link)?;
        match &mut self.companion {
            Some(pair) => pair.set_mtu(&self.interface, mtu),
            None => Ok(()),
        }
    }

    /// With the fast path, where `mode` has one, or without it.
    fn attach_with(
        kernel: Kernel,
        link: &LinkInfo,
        (mode, with): (AttachMode, With),
        queues: u32,
        config: FastPathConfig,
    ) -> Result<Self, SetupError> {
        let without = |reason: String| {
            let mut steer = Self::attach_as(kernel, link, mode, queues, 0)?;
            steer.fast_path.reason = reason;
            Ok(steer)
        };
        if !config.enabled {
            return without("set by fastPath: {mode: off}".to_owned());
        }
        if let Some(reason) = no_fast_path(link, mode) {
            return without(reason.to_owned());
        }
        match Self::attach_as(kernel, link, mode, queues, config.flows) {
            Err(
                error @ (SetupError::Load { .. }
                | SetupError::FastPath { .. }
                | SetupError::FastPathUnsupported { .. }),
            ) if with == With::Any => without(error.to_string()),
            attached => attached,
        }
    }

    /// `fast_flows` is the number of flows of the fast path, 0 without one.
    fn attach_as(
        kernel: Kernel,
        link: &LinkInfo,
        mode: AttachMode,
        queues: u32,
        fast_flows: u32,
    ) -> Result<Self, SetupError> {
        let companion = match mode {
            AttachMode::Companion => Some(Companion::create(link, queues, Purpose::Interface)?),
            AttachMode::Native | AttachMode::Generic => None,
        };
        let near_index = companion.as_ref().map_or(0, Companion::near_index);
        let mut programs = Programs::load_into(kernel, link, queues, near_index, fast_flows)?;
        let fast_memory = match fast_flows {
            0 => None,
            flows => Some(
                programs
                    .fast_memory(flows)
                    .map_err(|cause| SetupError::FastPath {
                        interface: link.name.clone(),
                        flows,
                        cause,
                    })?,
            ),
        };
        let shed_memory = programs.shed_memory().map_err(|cause| SetupError::ShedMemory {
            interface: link.name.clone(),
            cause,
        })?;
        let attached = match &companion {
            Some(pair) => programs
                .attach_far(pair.far_index())
                .and_then(|()| programs.attach_tc()),
            None if mode == AttachMode::Native => programs.attach_xdp(link.index, XdpMode::Driver),
            None => programs.attach_xdp(link.index, XdpMode::Skb),
        };
        attached.map_err(|error| {
            let is_refused_program = matches!(error, ProgramError::LoadError { .. });
            if fast_flows > 0 && !is_refused_program && os_code(&error) == Some(libc::EINVAL) {
                return SetupError::FastPathUnsupported {
                    interface: link.name.clone(),
                };
            }
            attach_error(link, mode, error)
        })?;
        // For packets that the driver leaves to the kernel although the program in it should see them.
        if mode == AttachMode::Native
            && let Err(error) = programs.attach_tcx()
        {
            tracing::debug!(interface = link.name, %error, "attach the program behind the driver's");
        }
        Ok(Self {
            programs,
            companion,
            local: None,
            interface: link.name.clone(),
            mode,
            reason: String::new(),
            refuses: refuses(link, mode).to_owned(),
            queues,
            fast_path: FastPath {
                flows: fast_flows,
                reason: match mode {
                    AttachMode::Companion => "the tc program of companion mode has it",
                    AttachMode::Native | AttachMode::Generic => "the XDP program in the driver has it",
                }
                .to_owned(),
            },
            fast_memory: fast_memory.map(Arc::new),
            shed_memory: Arc::new(shed_memory),
            services: HashSet::new(),
            addresses: HashSet::new(),
            left_out: PortSet::default(),
        })
    }
}

/// Drops the packets of the workers while another attachment is made: if they were left to the kernel, it would answer with
/// TCP resets. Until it is dropped.
#[derive(Debug)]
pub struct Hold {
    _steer: Steer,
}

#[cfg(test)]
mod tests;
