//! A bare tc program that sends what arrives back: the bound for every program in the kernel.

use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions};
use aya::{Ebpf, EbpfLoader};

use crate::error::{Cause, SetupError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// Sends each IP packet that arrives at an interface back out of it, with its MAC addresses swapped, as long as it lives.
#[derive(Debug)]
pub struct Redirect {
    _bpf: Ebpf,
}

impl Redirect {
    /// Attaches to `interface` in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses the program or has no tcx links (Linux before 6.6), or there is no such interface.
    pub fn attach(interface: &str) -> Result<Self, SetupError> {
        Self::load(interface).map_err(|cause| SetupError::Attach {
            interface: interface.to_owned(),
            cause,
        })
    }

    fn load(interface: &str) -> Result<Self, Cause> {
        let mut bpf = EbpfLoader::new().btf(None).load(OBJECT).map_err(Cause::new)?;
        let program: &mut SchedClassifier = bpf
            .program_mut("redirect_back")
            .expect("redirect.bpf.c has it")
            .try_into()
            .map_err(Cause::new)?;
        program.load().map_err(Cause::new)?;
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        program
            .attach_with_options(interface, TcAttachType::Ingress, first)
            .map_err(Cause::new)?;
        Ok(Self { _bpf: bpf })
    }
}
