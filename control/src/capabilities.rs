//! The capabilities and limits of this process, and those that the configuration needs.
//!
//! The kernel reports a missing capability as EPERM in a dozen places. A check at the start names it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit};
use vl3lb_common::capability::{Capabilities, Capability};

/// The effective capabilities and limits of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    effective: Capabilities,
    /// Bytes that may be locked in memory; `None` without a limit.
    memlock: Option<u64>,
    /// Lower ports need CAP_NET_BIND_SERVICE.
    first_free_port: u16,
}

/// Needs of the configuration, in addition to capabilities that are always needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needs {
    /// Bytes of packet memory, which the kernel charges to RLIMIT_MEMLOCK.
    pub packet_memory: u64,
    /// Addresses to listen on.
    pub listeners: Vec<SocketAddr>,
}

/// A missing capability and its purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    pub capability: &'static str,
    pub purpose: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is missing: needed to {}", self.capability, self.purpose)
    }
}

impl Privileges {
    /// Reads those of this process.
    ///
    /// Errors: /proc is not mounted.
    pub fn read() -> io::Result<Self> {
        let effective = Capabilities::effective()?;
        // Absent before Linux 4.11 and where /proc/sys is masked; then the old fixed limit holds.
        let first_free_port = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1024);
        Ok(Self {
            effective,
            memlock: getrlimit(Resource::Memlock).current,
            first_free_port,
        })
    }

    const fn holds(self, capability: Capability) -> bool {
        self.effective.holds(capability)
    }

    /// The capabilities that `needs` requires and the process lacks.
    pub fn missing(self, needs: &Needs) -> Vec<Missing> {
        let mut missing = Vec::new();
        let mut need = |holds: bool, capability: &'static str, purpose: String| {
            if !holds {
                missing.push(Missing { capability, purpose });
            }
        };
        for capability in Capability::ATTACHMENT {
            let name = match capability {
                Capability::Bpf => "CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN)",
                _ => capability.name(),
            };
            need(self.holds(capability), name, capability.purpose().to_owned());
        }
        if let Some(limit) = self.memlock.filter(|&limit| limit < needs.packet_memory) {
            need(
                self.holds(Capability::IpcLock),
                Capability::IpcLock.name(),
                format!(
                    "lock {} bytes of packet memory, as RLIMIT_MEMLOCK is {limit}",
                    needs.packet_memory
                ),
            );
        }
        for listener in &needs.listeners {
            need(
                self.holds(Capability::NetBindService) || listener.port() >= self.first_free_port,
                Capability::NetBindService.name(),
                format!("listen on {listener}"),
            );
        }
        missing
    }
}

impl fmt::Display for Privileges {
    /// The capabilities that the process has, of those that the balancer uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<_> = Capability::ALL
            .into_iter()
            .filter(|&capability| self.holds(capability))
            .map(Capability::name)
            .collect();
        if held.is_empty() {
            f.write_str("none")
        } else {
            f.write_str(&held.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn privileges(held: &[Capability]) -> Privileges {
        Privileges {
            effective: held.iter().copied().collect(),
            memlock: Some(64 << 10),
            first_free_port: 1024,
        }
    }

    fn missing(held: &[Capability], needs: &Needs) -> Vec<&'static str> {
        privileges(held)
            .missing(needs)
            .iter()
            .map(|missing| missing.capability)
            .collect()
    }

    #[test]
    fn each_missing_capability_is_named() {
        use Capability::{Bpf, IpcLock, NetAdmin, NetBindService, NetRaw, SysAdmin};
        let small = Needs {
            packet_memory: 4096,
            listeners: Vec::new(),
        };
        let large = Needs {
            packet_memory: 32 << 20,
            listeners: vec![
                "172.16.1.103:53".parse().unwrap(),
                "127.0.0.1:9090".parse().unwrap(),
            ],
        };
        assert_eq!(
            missing(&[], &small),
            [
                "CAP_NET_ADMIN",
                "CAP_NET_RAW",
                "CAP_BPF (before Linux 5.8: CAP_SYS_ADMIN)"
            ]
        );
        assert_eq!(missing(&[NetAdmin, NetRaw, Bpf], &small), [""; 0]);
        assert_eq!(missing(&[NetAdmin, NetRaw, SysAdmin], &small), [""; 0]);
        assert_eq!(
            missing(&[NetAdmin, NetRaw, Bpf], &large),
            ["CAP_IPC_LOCK", "CAP_NET_BIND_SERVICE"]
        );
        assert_eq!(
            missing(&[NetAdmin, NetRaw, Bpf, IpcLock, NetBindService], &large),
            [""; 0]
        );
    }

    #[test]
    fn the_purpose_names_value_and_limit() {
        let needs = Needs {
            packet_memory: 1 << 20,
            listeners: vec!["[::1]:53".parse().unwrap()],
        };
        let texts: Vec<_> = privileges(&[])
            .missing(&needs)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(
            texts[3].contains("1048576") && texts[3].contains("65536"),
            "{}",
            texts[3]
        );
        assert!(texts[4].contains("[::1]:53"), "{}", texts[4]);
    }

    #[test]
    fn this_process_has_privileges_to_read() {
        let privileges = Privileges::read().unwrap();
        assert!(!privileges.to_string().is_empty());
    }
}
