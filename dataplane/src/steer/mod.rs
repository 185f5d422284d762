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
mod kernel;
mod program;

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use aya::programs::{ProgramError, XdpMode};
use vl3lb_common::dataplane::{AttachMode, FastPath, Steered};
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{PortSet, ServiceKey};

use crate::capability;
use crate::config::{FastPathConfig, Mode};
use crate::error::{Attempts, Cause, SetupError, os_code};
use crate::fastpath::FastMemory;
use crate::link::{Link, LinkInfo};
use crate::shed::ShedMemory;
use companion::Companion;
use kernel::Kernel;
use program::Programs;

pub(crate) use program::Counters;

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

/// The attached steer programs. Dropping it detaches them and removes the companion pair.
#[derive(Debug)]
pub struct Steer {
    // Fields are dropped in this order: programs leave before the pair does.
    programs: Programs,
    companion: Option<Companion>,
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
            AttachMode::Companion => Some(Companion::create(link, queues)?),
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
        Ok(Self {
            programs,
            companion,
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

/// Whether an attachment without the fast path is one that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    FastPath,
    Any,
}

/// The modes to try, best first. On a virtual link a native program makes senders take their super-packets apart, so the
/// companion pair is better if established flows do not pass it.
fn candidates(link: &LinkInfo, mode: Mode, fast_path: FastPathConfig) -> &'static [(AttachMode, With)] {
    use AttachMode::{Companion, Generic, Native};
    use With::{Any, FastPath};
    match (mode, link.link) {
        (Mode::Auto, Link::Ethernet(_)) if fast_path.enabled && link.driver == "veth" => &[
            (Companion, FastPath),
            (Native, Any),
            (Companion, Any),
            (Generic, Any),
        ],
        (Mode::Auto, Link::Ethernet(_)) => &[(Native, Any), (Companion, Any), (Generic, Any)],
        (Mode::Auto, Link::RawIp) => &[(Companion, Any), (Generic, Any)],
        (Mode::Native, _) => &[(Native, Any)],
        (Mode::Generic, _) => &[(Generic, Any)],
        (Mode::Companion, _) => &[(Companion, Any)],
    }
}

/// Why flows are not forwarded in the kernel in `mode`, if that is so whatever the kernel can do.
///
/// A frame that XDP sends back (XDP_TX) on veth arrives only where the other end receives by NAPI, with an XDP program of
/// its own or with GRO; else it is lost (`veth_xdp_xmit` in the kernel's drivers/net/veth.c). The other end is in the
/// network's namespace and may change that at any time, so this end never knows.
fn no_fast_path(link: &LinkInfo, mode: AttachMode) -> Option<&'static str> {
    match mode {
        AttachMode::Companion => None,
        AttachMode::Native if link.driver == "veth" => Some(
            "on veth, frames that XDP sends back are lost unless the other end has GRO or XDP, which cannot be seen \
             from here; companion mode has a fast path",
        ),
        AttachMode::Native => None,
        AttachMode::Generic => Some("generic mode has none, companion mode has one"),
    }
}

/// How many receive queues to serve. With XDP on the interface: all that it has, or frames of the others
/// would never reach a worker. The companion pair has one for each worker: the fixed number of `workers`, else
/// one per CPU, up to the transmit queues of the interface.
fn queues(link: &LinkInfo, mode: AttachMode, workers: Option<u16>, cpus: u32) -> Result<u32, SetupError> {
    match mode {
        AttachMode::Native if link.link == Link::RawIp => Err(SetupError::NativeUnsupported {
            interface: link.name.clone(),
            driver: link.driver.clone(),
        }),
        AttachMode::Native | AttachMode::Generic => Ok(link.receive_queues),
        AttachMode::Companion => Ok(workers
            .map_or_else(|| link.transmit_queues.min(cpus), u32::from)
            .max(1)),
    }
}

/// Why this mode was chosen, and what it does not see.
fn reason(link: &LinkInfo, mode: Mode, chosen: AttachMode, failures: &Attempts) -> String {
    let mut reason = choice(link, mode, chosen, failures);
    if let (AttachMode::Native | AttachMode::Generic, Link::Ethernet(_)) = (chosen, link.link) {
        reason.push_str(VLANS_UNSEEN);
    }
    reason
}

/// A veth peer, and a NIC that strips tags, keeps the tag beside the frame, where XDP does not see it without the hint
/// bpf_xdp_metadata_rx_vlan_tag: a function for programs under a licence compatible with the GPL, of one device, in
/// native mode only. The tc program sees it.
const VLANS_UNSEEN: &str = "; VLAN tags that the sender or the NIC keeps beside the frame are not visible, so such frames \
                            are balanced like untagged ones: use mode: companion on a link with VLANs";

fn choice(link: &LinkInfo, mode: Mode, chosen: AttachMode, failures: &Attempts) -> String {
    if mode != Mode::Auto {
        return format!("set by mode: {}", chosen.name());
    }
    let mut reason = match (chosen, link.link) {
        (AttachMode::Native, _) => "the driver has XDP, so senders segment super-packets before they arrive",
        (AttachMode::Companion, Link::RawIp) => {
            "a TUN device has no native XDP; the companion pair segments super-packets"
        }
        (AttachMode::Companion, Link::Ethernet(_)) => {
            "established flows stay in the kernel, and senders keep their super-packets"
        }
        (AttachMode::Generic, _) => "nothing better can be attached",
    }
    .to_owned();
    if !failures.0.is_empty() {
        reason = format!("{reason} ({failures})");
    }
    reason
}

fn refuses(link: &LinkInfo, mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Generic if link.super_packets => {
            "UDP super-packets (UDP_SEGMENT): their segment size is not visible in generic mode, so they cannot \
             be segmented; each is dropped and counted as udp_super_packet"
        }
        AttachMode::Generic | AttachMode::Native | AttachMode::Companion => "",
    }
}

/// The error behind the kernel's refusal to attach.
fn attach_error(link: &LinkInfo, mode: AttachMode, error: ProgramError) -> SetupError {
    if matches!(error, ProgramError::LoadError { .. }) {
        return program::load_error(&link.name, error);
    }
    let interface = link.name.clone();
    match (os_code(&error), mode) {
        (Some(libc::EPERM), _) => {
            capability::denied(&format!("attach to {interface} in {} mode", mode.name()))
        }
        (Some(libc::EBUSY | libc::EEXIST), AttachMode::Native | AttachMode::Generic) => {
            SetupError::XdpBusy { interface }
        }
        (Some(libc::EOPNOTSUPP), AttachMode::Native) => SetupError::NativeUnsupported {
            interface,
            driver: link.driver.clone(),
        },
        (Some(libc::ENOSPC), AttachMode::Native) => SetupError::PeerQueues { interface },
        _ => SetupError::Attach {
            interface,
            cause: Cause::new(error),
        },
    }
}

#[cfg(test)]
mod tests;
