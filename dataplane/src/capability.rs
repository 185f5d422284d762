//! Linux capabilities: which ones attaching needs, and why the kernel may say no although they are held.
//!
//! The kernel answers EPERM or something less helpful to whoever lacks one, so they are looked up
//! before anything is tried.

use crate::error::SetupError;

/// A capability that the data plane may need (capabilities(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    NetAdmin,
    NetRaw,
    Bpf,
}

impl Capability {
    /// All that attaching and binding sockets needs.
    pub const ALL: [Self; 3] = [Self::NetAdmin, Self::NetRaw, Self::Bpf];

    /// The name in manifests and manual pages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// What it is needed for.
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::NetAdmin => "attach programs and make the companion pair",
            Self::NetRaw => "open AF_XDP sockets",
            Self::Bpf => "load programs and maps",
        }
    }

    const fn bit(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
            Self::Bpf => 39,
        }
    }

    const fn is_in(self, set: u64) -> bool {
        let granted = set >> self.bit() & 1 == 1;
        // CAP_BPF was split off CAP_SYS_ADMIN, which still includes it.
        granted || matches!(self, Self::Bpf) && set >> SYS_ADMIN & 1 == 1
    }
}

const SYS_ADMIN: u32 = 21;

/// Fails if this thread lacks a capability of [`Capability::ALL`]; names all that are missing. `action` is
/// what was about to be done.
pub fn require_all(action: &str) -> Result<(), SetupError> {
    match effective() {
        Some(set) if !missing(set).is_empty() => Err(denied(action)),
        // Without /proc the kernel has the last word.
        Some(_) | None => Ok(()),
    }
}

/// The error for `action` that the kernel refused with EPERM: the missing capabilities, or what else may have
/// closed the door.
pub fn denied(action: &str) -> SetupError {
    let status = effective();
    let explanation = explain(status, in_user_namespace());
    SetupError::Privilege {
        action: action.to_owned(),
        explanation,
    }
}

fn explain(effective: Option<u64>, user_namespace: bool) -> String {
    let missing = effective.map(missing).unwrap_or_default();
    if !missing.is_empty() {
        let list: Vec<_> = missing
            .iter()
            .map(|capability| format!("{} ({})", capability.name(), capability.purpose()))
            .collect();
        return format!(
            "missing {}; run as root, or add the capabilities to the container's securityContext",
            list.join(", ")
        );
    }
    let held = "CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF are held";
    if user_namespace {
        return format!(
            "{held}, but in a user namespace, where the kernel does not accept them for BPF; run in the \
             host's user namespace (hostUsers: true)"
        );
    }
    format!(
        "{held}, so a seccomp profile, a security module (AppArmor, SELinux) or kernel lockdown forbids it; \
         look at the kernel's log"
    )
}

fn missing(effective: u64) -> Vec<Capability> {
    Capability::ALL
        .into_iter()
        .filter(|capability| !capability.is_in(effective))
        .collect()
}

/// This thread's effective capabilities.
fn effective() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/thread-self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The first user namespace maps all identifiers to themselves.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET_ADMIN: u64 = 1 << 12;
    const NET_RAW: u64 = 1 << 13;
    const BPF: u64 = 1 << 39;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing(NET_ADMIN | NET_RAW | BPF), []);
        assert_eq!(missing(NET_RAW), [Capability::NetAdmin, Capability::Bpf]);
        assert_eq!(
            missing(NET_ADMIN | NET_RAW | 1 << SYS_ADMIN),
            [],
            "CAP_SYS_ADMIN includes CAP_BPF"
        );
        let text = explain(Some(NET_ADMIN), false);
        assert!(
            text.contains("missing CAP_NET_RAW (open AF_XDP sockets), CAP_BPF"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_despite_all_capabilities_points_elsewhere() {
        let all = Some(NET_ADMIN | NET_RAW | BPF);
        assert!(explain(all, true).contains("user namespace"));
        assert!(explain(all, false).contains("seccomp"));
    }
}
