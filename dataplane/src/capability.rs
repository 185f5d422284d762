//! Why the kernel refused an operation with EPERM.

use vl3lb_common::capability::{Capabilities, Capability};

use crate::error::SetupError;

/// The error for `action` that the kernel refused with EPERM: names the missing capabilities, or other causes that
/// may forbid it.
pub(crate) fn denied(action: &str) -> SetupError {
    let explanation = explain(Capabilities::effective().ok(), in_user_namespace());
    SetupError::Privilege {
        action: action.to_owned(),
        explanation,
    }
}

/// `effective` is unknown without /proc.
fn explain(effective: Option<Capabilities>, user_namespace: bool) -> String {
    let missing: Vec<_> = Capability::ATTACHMENT
        .into_iter()
        .filter(|&capability| effective.is_some_and(|set| !set.holds(capability)))
        .map(|capability| format!("{} ({})", capability.name(), capability.purpose()))
        .collect();
    if !missing.is_empty() {
        return format!(
            "missing {}; run as root, or add the capabilities to the container's securityContext",
            missing.join(", ")
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
         see the kernel's log"
    )
}

/// The first user namespace maps all identifiers to themselves.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| !map.split_whitespace().eq(["0", "0", "4294967295"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let text = explain(Some([Capability::NetAdmin].into_iter().collect()), false);
        assert!(
            text.contains("missing CAP_NET_RAW (open AF_XDP sockets), CAP_BPF"),
            "{text}"
        );
        assert!(!text.contains("CAP_NET_ADMIN"), "{text}");
    }

    #[test]
    fn a_refusal_despite_all_capabilities_names_other_causes() {
        let all: Option<Capabilities> = Some(Capability::ATTACHMENT.into_iter().collect());
        assert!(explain(all, true).contains("user namespace"));
        assert!(explain(all, false).contains("seccomp"));
    }
}
