//! Linux capabilities (capabilities(7)) that a balancer may need.
//!
//! The kernel reports a missing one as EPERM, or by a less helpful error, in a dozen places. The
//! control side checks them once at the start; the data plane names the missing ones where the
//! kernel refuses an operation nevertheless.

use std::io;

/// A capability. The values are the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    NetBindService = 10,
    NetAdmin = 12,
    NetRaw = 13,
    IpcLock = 14,
    SysAdmin = 21,
    Bpf = 39,
}

impl Capability {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::NetBindService,
        Self::NetAdmin,
        Self::NetRaw,
        Self::IpcLock,
        Self::SysAdmin,
        Self::Bpf,
    ];

    /// Those that every attachment needs.
    pub const ATTACHMENT: [Self; 3] = [Self::NetAdmin, Self::NetRaw, Self::Bpf];

    /// The name in manifests and manual pages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// Its purpose in a balancer.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::NetBindService => "listen on a port below 1024",
            Self::NetAdmin => "attach the steer programs and follow the kernel's routes",
            Self::NetRaw => "open AF_XDP sockets",
            Self::IpcLock => "lock packet memory beyond RLIMIT_MEMLOCK",
            Self::SysAdmin => "load the steer programs before Linux 5.8",
            Self::Bpf => "load the steer programs",
        }
    }
}

/// A set of capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The effective set of the calling thread. Reads /proc/thread-self/status.
    ///
    /// # Errors
    ///
    /// /proc is not there, or shows no capabilities.
    pub fn effective() -> io::Result<Self> {
        let status = std::fs::read_to_string("/proc/thread-self/status")?;
        status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
            .map(Self)
            .ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "no CapEff in /proc/thread-self/status",
                )
            })
    }

    /// Whether `capability` is in the set. CAP_BPF was split off CAP_SYS_ADMIN, which still includes it.
    pub const fn holds(self, capability: Capability) -> bool {
        let has = self.0 >> capability as u8 & 1 == 1;
        has || matches!(capability, Capability::Bpf) && self.holds(Capability::SysAdmin)
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let bit = |capability| 1 << capability as u8;
        Self(
            capabilities
                .into_iter()
                .fold(0, |bits, capability: Capability| bits | bit(capability)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_includes_bpf() {
        let set: Capabilities = [Capability::SysAdmin].into_iter().collect();
        assert!(set.holds(Capability::Bpf) && set.holds(Capability::SysAdmin));
        assert!(!set.holds(Capability::NetAdmin));
        let set: Capabilities = [Capability::Bpf].into_iter().collect();
        assert!(set.holds(Capability::Bpf) && !set.holds(Capability::SysAdmin));
    }

    #[test]
    fn every_thread_has_a_set() {
        Capabilities::effective().unwrap();
    }
}
