//! A bare XDP program that drops a flood by its sources: the bound for every balancer under a flood.

use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};

use crate::error::{Cause, SetupError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flood_filter.bpf.o"));

/// Drops IPv4 packets from 10.64.0.0/12 that arrive at an interface, before the kernel has spent anything on them, as
/// long as it lives.
#[derive(Debug)]
pub struct FloodFilter {
    _bpf: Ebpf,
}

impl FloodFilter {
    /// Attaches to `interface` in the network namespace of the calling thread, by the driver.
    ///
    /// # Errors
    /// The kernel refuses the program, the driver has no native XDP, or there is no such interface.
    pub fn attach(interface: &str) -> Result<Self, SetupError> {
        Self::load(interface).map_err(|cause| SetupError::Attach {
            interface: interface.to_owned(),
            cause,
        })
    }

    fn load(interface: &str) -> Result<Self, Cause> {
        let mut bpf = EbpfLoader::new().btf(None).load(OBJECT).map_err(Cause::new)?;
        let program: &mut Xdp = bpf
            .program_mut("drop_flood")
            .expect("flood_filter.bpf.c has it")
            .try_into()
            .map_err(Cause::new)?;
        program.load().map_err(Cause::new)?;
        program.attach(interface, XdpMode::Driver).map_err(Cause::new)?;
        Ok(Self { _bpf: bpf })
    }
}
