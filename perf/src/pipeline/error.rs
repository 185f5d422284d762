//! Errors of `pipeline`.

use std::io;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    #[error("make a table of {flows} flows: {cause}")]
    Table {
        flows: u32,
        #[source]
        cause: io::Error,
    },

    #[error("run on core {core}: this process may use cores {available:?}; use --core")]
    Core { core: usize, available: Vec<usize> },

    #[error("pin the thread to core {core}: the kernel refuses")]
    Pin { core: usize },

    #[error("read the translated packet of flow {flow}: it is not IPv4 and UDP")]
    NotTranslated { flow: u32 },

    #[error("end flows: {left} are left in the table, not {staying}")]
    NotEnded { left: u64, staying: u64 },

    #[error("forward a burst of {packets} packets: {transmitted} were transmitted; drops: {drops}")]
    NotForwarded {
        packets: usize,
        transmitted: usize,
        drops: String,
    },
}
