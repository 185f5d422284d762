//! The loaded steer programs, and typed access to their maps (bpf/steer.h).
//!
//! Keys and values are byte and integer arrays in the layout of bpf/steer.h; the loader checks their sizes
//! against the maps'.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, MapError, MapFd, PerCpuArray, XskMap};
use aya::programs::tc::{self, TcAttachOptions, TcError};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode};
use aya::sys::SyscallError;
use aya::{Ebpf, EbpfLoader};
use vl3lb_common::addr::to_octets;
use vl3lb_common::hash::OwnerKey;
use vl3lb_common::snapshot::NatPorts;
use vl3lb_common::{MacAddr, PortSet, ServiceKey};

use super::counters::Counters;
use super::kernel::{Feature, Kernel};
use super::local::LOOPBACK;
use super::refusal::{load_error, rules_error};
use crate::error::{SetupError, os_code};
use crate::fastpath::{self, FastMemory};
use crate::link::{Link, LinkInfo};
use crate::shed::ShedMemory;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));

/// On the vL3 interface, native or generic.
pub(super) const STEER_XDP: &str = "steer_xdp";
/// On the vL3 interface, companion mode.
pub(super) const STEER_TC: &str = "steer_tc";
/// On the far end of the companion pair.
pub(super) const STEER_FAR: &str = "steer_far";
/// On the loopback interface, for local clients.
pub(super) const STEER_LO: &str = "steer_lo";
/// On the far end of the pair for local clients.
pub(super) const STEER_LOCAL: &str = "steer_local";

/// `struct vl3lb_address`.
type AddressKey = [u8; 16];
/// `struct vl3lb_service_key`: address, port in network order, protocol, zero.
type ServiceBytes = [u8; 20];
/// `struct vl3lb_config`: first and last NAT port, workers; the interface's MAC address in three words as it is in
/// memory; the near end of the pair for local clients in two words; the owner key in words of 64 bits as they are in memory.
type Config = [u16; 36];

/// The programs of one attachment. Detached and unloaded on drop.
#[derive(Debug)]
pub(super) struct Programs {
    bpf: Ebpf,
    interface: String,
    counters: Counters,
    has_fast_path: bool,
    /// [`STEER_TC`] is attached as a link.
    has_tcx: bool,
    kernel: Kernel,
    /// The content of the map `config`.
    config: Config,
}

impl Programs {
    /// [`load_into`](Self::load_into) the kernel as it is.
    #[cfg(test)]
    pub(super) fn load(
        link: &LinkInfo,
        queues: u32,
        near_index: u32,
        fast_flows: u32,
    ) -> Result<Self, SetupError> {
        Self::load_into(Kernel::default(), link, queues, near_index, fast_flows)
    }

    /// Loads the object for `link`, with room for `queues` sockets. `near_index` is the near end of the
    /// companion pair, 0 without one. `fast_flows` is the number of flows of the fast path, 0 without one.
    pub(super) fn load_into(
        kernel: Kernel,
        link: &LinkInfo,
        queues: u32,
        near_index: u32,
        fast_flows: u32,
    ) -> Result<Self, SetupError> {
        let raw_ip = u8::from(link.link == Link::RawIp);
        let (buckets, cpus) = if fast_flows == 0 {
            (0, 1)
        } else {
            (fastpath::buckets(fast_flows), possible_cpus())
        };
        let first_identification = RandomState::new().hash_one(());
        let mut bpf = EbpfLoader::new()
            // The programs do not depend on the layout of kernel structures.
            .btf(None)
            .override_global("raw_ip", &raw_ip, true)
            .override_global("near_index", &near_index, true)
            .override_global("fast_buckets", &buckets, true)
            .override_global("fast_first_identification", &first_identification, true)
            .map_max_entries("sockets", queues)
            .map_max_entries("fast_index", buckets.max(1))
            .map_max_entries("fast_flows", fast_flows.max(1))
            .map_max_entries("fast_rounds", cpus)
            .load(&kernel.object(OBJECT))
            .map_err(|error| load_error(&link.name, error))?;
        let mut counters = |name: &str| {
            bpf.take_map(name)
                .ok_or_else(|| MapError::InvalidName {
                    name: name.to_owned(),
                })
                .and_then(PerCpuArray::try_from)
                .map(Arc::new)
                .map_err(|error| load_error(&link.name, error))
        };
        let counters = Counters {
            steered: counters("counters")?,
            fast_path: counters("fast_counters")?,
        };
        let mut programs = Self {
            bpf,
            interface: link.name.clone(),
            counters,
            has_fast_path: fast_flows > 0,
            has_tcx: false,
            kernel,
            config: [0; size_of::<Config>() / 2],
        };
        programs.set_link(link.link)?;
        Ok(programs)
    }

    /// Maps the arrays of the fast path, which was loaded for `flows` flows.
    pub(super) fn fast_memory(&self, flows: u32) -> io::Result<FastMemory> {
        if let Some(refusal) = self.kernel.refusal(Feature::MappedArrays) {
            return Err(refusal);
        }
        FastMemory::map(
            self.array("fast_index")?.as_fd(),
            self.array("fast_flows")?.as_fd(),
            self.array("fast_rounds")?.as_fd(),
            flows,
            possible_cpus(),
        )
    }

    /// Maps the arrays by which the workers shed load in the program.
    pub(super) fn shed_memory(&self) -> io::Result<ShedMemory> {
        ShedMemory::map(
            self.array("shed_workers")?.as_fd(),
            self.array("shed_sources")?.as_fd(),
            self.array("shed_flows")?.as_fd(),
            self.array("shed_samples")?.as_fd(),
        )
    }

    fn array(&self, name: &str) -> io::Result<&MapFd> {
        match self.bpf.map(name) {
            Some(Map::Array(data)) => Ok(data.fd()),
            _ => Err(io::Error::other(format!("the object has no array {name}"))),
        }
    }

    /// Attaches [`STEER_XDP`] to the interface with this index.
    pub(super) fn attach_xdp(&mut self, index: u32, mode: XdpMode) -> Result<(), ProgramError> {
        self.xdp(STEER_XDP)?.attach_to_if_index(index, mode).map(drop)
    }

    /// Attaches [`STEER_FAR`] to the far end of the companion pair.
    pub(super) fn attach_far(&mut self, index: u32) -> Result<(), ProgramError> {
        self.xdp(STEER_FAR)?
            .attach_to_if_index(index, XdpMode::Driver)
            .map(drop)
    }

    /// Attaches [`STEER_LOCAL`] to the far end of the pair for local clients.
    pub(super) fn attach_local_far(&mut self, index: u32) -> Result<(), ProgramError> {
        self.xdp(STEER_LOCAL)?
            .attach_to_if_index(index, XdpMode::Driver)
            .map(drop)
    }

    /// Attaches [`STEER_LO`] to the egress of the loopback interface, before other programs, as a tcx link. A filter would
    /// stay after the end of a killed process, and send packets into nothing.
    pub(super) fn attach_loopback(&mut self) -> Result<(), ProgramError> {
        self.tc(STEER_LO)?;
        self.check_tcx()?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        self.tc(STEER_LO)?
            .attach_with_options(LOOPBACK, TcAttachType::Egress, options)
            .map(drop)
    }

    /// Takes the programs for local clients from their interfaces.
    pub(super) fn detach_local(&mut self) {
        // What is not loaded is not attached.
        if let Ok(program) = self.tc_program(STEER_LO) {
            program.unload().ok();
        }
        self.detach_local_far();
    }

    /// Takes the program from the far end of the pair for local clients.
    pub(super) fn detach_local_far(&mut self) {
        if let Ok(program) = self.xdp_program(STEER_LOCAL) {
            program.unload().ok();
        }
    }

    /// Attaches [`STEER_TC`] to the ingress of the interface, before other programs: as a tcx link, which goes
    /// with the process, else (Linux before 6.6) as a filter on a clsact qdisc. The fast path needs a link: a filter
    /// would go on with the flows of a killed process.
    pub(super) fn attach_tc(&mut self) -> Result<(), ProgramError> {
        match self.attach_tcx() {
            Err(error) if !self.has_fast_path && os_code(&error) == Some(libc::EINVAL) => {
                self.attach_clsact()
            }
            result => result,
        }
    }

    /// Detaches [`STEER_XDP`].
    pub(super) fn detach_xdp(&mut self) -> Result<(), ProgramError> {
        self.xdp(STEER_XDP)?.unload()
    }

    /// Attaches [`STEER_TC`] as a link, which goes with the process, if it is not attached yet.
    pub(super) fn attach_tcx(&mut self) -> Result<(), ProgramError> {
        if self.has_tcx {
            return Ok(());
        }
        // Loaded first, so that a refusal of the program is not taken for one of the link.
        self.tc(STEER_TC)?;
        self.check_tcx()?;
        let interface = self.interface.clone();
        self.tc(STEER_TC)?.attach_with_options(
            &interface,
            TcAttachType::Ingress,
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )?;
        self.has_tcx = true;
        Ok(())
    }

    /// The error of a kernel without tcx links, if this one is to act as one.
    fn check_tcx(&self) -> Result<(), ProgramError> {
        let call = "bpf_link_create";
        match self.kernel.refusal(Feature::TcxLinks) {
            Some(io_error) => Err(SyscallError { call, io_error }.into()),
            None => Ok(()),
        }
    }

    /// The filter outlives a killed process: the next attachment removes it. The qdisc always stays: other
    /// programs may use it by then, and it does nothing by itself.
    pub(super) fn attach_clsact(&mut self) -> Result<(), ProgramError> {
        let interface = self.interface.clone();
        match tc::qdisc_add_clsact(&interface) {
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            result => result?,
        }
        match tc::qdisc_detach_program(&interface, TcAttachType::Ingress, STEER_TC) {
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        let options = tc::NlOptions {
            priority: 1,
            ..tc::NlOptions::default()
        };
        self.tc(STEER_TC)?
            .attach_with_options(
                &interface,
                TcAttachType::Ingress,
                TcAttachOptions::Netlink(options),
            )
            .map(drop)
    }

    pub(super) fn register_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), MapError> {
        XskMap::try_from(self.map("sockets")?)?.set(queue, socket, 0)
    }

    /// Makes `socket` get the packets of local clients; packets of sockets with these `cookies` are for them.
    pub(super) fn register_local(&mut self, socket: BorrowedFd<'_>, cookies: &[u64]) -> Result<(), MapError> {
        let mut stacks: HashMap<_, u64, u8> = self.map("local_stacks")?.try_into()?;
        for cookie in cookies {
            stacks.insert(cookie, 1, 0)?;
        }
        XskMap::try_from(self.map("local_sockets")?)?.set(0, socket, 0)
    }

    /// Sets the interface that packets of local clients are sent to.
    pub(super) fn set_local_near(&mut self, index: u32) -> Result<(), SetupError> {
        let mut config = self.config;
        for (word, bytes) in config[6..8].iter_mut().zip(index.to_ne_bytes().chunks_exact(2)) {
            *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
        }
        self.write_config(config, "the pair for local clients")
    }

    pub(super) fn set_config(
        &mut self,
        nat_ports: NatPorts,
        workers: u16,
        owner_key: &OwnerKey,
    ) -> Result<(), SetupError> {
        let mut config = self.config;
        config[..3].copy_from_slice(&[nat_ports.first(), nat_ports.last(), workers]);
        for (words, key) in config[8..].chunks_exact_mut(4).zip(owner_key.words()) {
            for (word, bytes) in words.iter_mut().zip(key.to_ne_bytes().chunks_exact(2)) {
                *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
            }
        }
        self.write_config(config, "NAT ports")
    }

    /// Sets the destination MAC address of frames to the balancer. No effect on a raw-IP link.
    pub(super) fn set_link(&mut self, link: Link) -> Result<(), SetupError> {
        let Link::Ethernet(MacAddr(mac)) = link else {
            return Ok(());
        };
        let mut config = self.config;
        for (word, bytes) in config[3..6].iter_mut().zip(mac.chunks_exact(2)) {
            *word = u16::from_ne_bytes([bytes[0], bytes[1]]);
        }
        self.write_config(config, "the MAC address")
    }

    fn write_config(&mut self, config: Config, what: &'static str) -> Result<(), SetupError> {
        if config == self.config {
            return Ok(());
        }
        self.map("config")
            .and_then(Array::<_, Config>::try_from)
            .and_then(|mut map| map.set(0, config, 0))
            .map_err(|error| rules_error("set", &what, "config", error))?;
        self.config = config;
        Ok(())
    }

    /// Sets the ports of the range of NAT ports that no flow gets. One system call.
    pub(super) fn set_left_out(&mut self, ports: &PortSet) -> Result<(), SetupError> {
        self.map("left_out_ports")
            .and_then(Array::<_, [u64; PortSet::WORDS]>::try_from)
            .and_then(|mut map| map.set(0, ports.words(), 0))
            .map_err(|error| rules_error("set", &"ports that are left out", "left_out_ports", error))
    }

    pub(super) fn insert_service(&mut self, service: &ServiceKey) -> Result<(), SetupError> {
        self.services()
            .and_then(|mut map| map.insert(service_bytes(service), 1, 0))
            .map_err(|error| rules_error("put", service, "services", error))
    }

    pub(super) fn remove_service(&mut self, service: &ServiceKey) -> Result<(), SetupError> {
        self.services()
            .and_then(|mut map| map.remove(&service_bytes(service)))
            .map_err(|error| rules_error("remove", service, "services", error))
    }

    pub(super) fn insert_address(&mut self, address: IpAddr) -> Result<(), SetupError> {
        self.addresses()
            .and_then(|mut map| map.insert(to_octets(address), 1, 0))
            .map_err(|error| rules_error("put", &address, "addresses", error))
    }

    pub(super) fn remove_address(&mut self, address: IpAddr) -> Result<(), SetupError> {
        self.addresses()
            .and_then(|mut map| map.remove(&to_octets(address)))
            .map_err(|error| rules_error("remove", &address, "addresses", error))
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The XDP program `name`, loaded.
    pub(super) fn xdp(&mut self, name: &str) -> Result<&mut Xdp, ProgramError> {
        let program = self.xdp_program(name)?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
            Err(error) => Err(error),
        }
    }

    /// The same, loaded or not.
    fn xdp_program(&mut self, name: &str) -> Result<&mut Xdp, ProgramError> {
        self.bpf
            .program_mut(name)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()
    }

    /// The tc program `name`, loaded.
    pub(super) fn tc(&mut self, name: &str) -> Result<&mut SchedClassifier, ProgramError> {
        let program = self.tc_program(name)?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
            Err(error) => Err(error),
        }
    }

    /// The same, loaded or not.
    fn tc_program(&mut self, name: &str) -> Result<&mut SchedClassifier, ProgramError> {
        self.bpf
            .program_mut(name)
            .ok_or(ProgramError::NotLoaded)?
            .try_into()
    }

    fn services(&mut self) -> Result<HashMap<&mut MapData, ServiceBytes, u8>, MapError> {
        self.map("services")?.try_into()
    }

    fn addresses(&mut self) -> Result<HashMap<&mut MapData, AddressKey, u8>, MapError> {
        self.map("addresses")?.try_into()
    }

    fn map(&mut self, name: &str) -> Result<&mut Map, MapError> {
        self.bpf.map_mut(name).ok_or_else(|| MapError::InvalidName {
            name: name.to_owned(),
        })
    }
}

/// CPUs that the system may ever have: the number of elements of a per-CPU array.
fn possible_cpus() -> u32 {
    aya::util::nr_cpus()
        .ok()
        .and_then(|cpus| u32::try_from(cpus).ok())
        .unwrap_or(1)
}

fn service_bytes(service: &ServiceKey) -> ServiceBytes {
    let mut bytes = [0; 20];
    bytes[..16].copy_from_slice(&to_octets(service.address));
    bytes[16..18].copy_from_slice(&service.port.to_be_bytes());
    bytes[18] = service.protocol.number();
    bytes
}
