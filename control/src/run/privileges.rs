//! The check that this process holds the capabilities that its configuration needs.

use crate::capabilities::{Needs, Privileges};
use crate::cli::Failure;
use crate::config::{Config, DnsListen, Workers};
use tracing::info;

use super::{failed, refused};

/// Bytes of a UMEM frame.
const FRAME: u64 = 4096;

/// Logs the capabilities held, and refuses to start without those that `config` needs.
pub(super) fn check(config: &Config) -> Result<(), Failure> {
    let privileges =
        Privileges::read().map_err(|error| failed(format!("read this process's capabilities: {error}")))?;
    info!("capabilities: {privileges}");
    let workers = match &config.workers {
        Workers::Auto => 1,
        Workers::Cores(cores) => cores.len() as u64,
    };
    let dns = match config.dns.listen {
        DnsListen::OwnAddresses(port) => ([0, 0, 0, 0], port).into(),
        DnsListen::Address(address) => address,
    };
    let missing = privileges.missing(&Needs {
        packet_memory: u64::from(config.frames) * FRAME * workers,
        listeners: std::iter::once(dns)
            .chain(
                config
                    .admin
                    .listeners()
                    .into_iter()
                    .map(|listener| listener.address),
            )
            .collect(),
    });
    if missing.is_empty() {
        return Ok(());
    }
    let texts: Vec<_> = missing.iter().map(ToString::to_string).collect();
    Err(refused(texts.join("; "))
        .hint("run as root, or add the capability: securityContext.capabilities.add, or setcap"))
}
