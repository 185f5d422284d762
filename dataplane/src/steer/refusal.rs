//! The errors behind what the kernel refuses of a steer program: to load it, to attach it, to change its rules.

use std::error::Error;
use std::fmt::Display;

use aya::maps::MapError;
use aya::programs::ProgramError;
use vl3lb_common::dataplane::AttachMode;

use super::local::LOOPBACK;
use crate::capability;
use crate::error::{Cause, SetupError, os_code};
use crate::link::LinkInfo;

/// The error behind the kernel's refusal of the object or of a program.
pub(super) fn load_error(interface: &str, error: impl Error + Send + Sync + 'static) -> SetupError {
    if os_code(&error) == Some(libc::EPERM) {
        return capability::denied(&format!("load the steer programs for {interface}"));
    }
    let refused: &(dyn Error + 'static) = &error;
    let verdict = match refused.downcast_ref::<ProgramError>() {
        Some(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) => {
            let log = verifier_log.to_string();
            tracing::debug!(interface, log, "the kernel's verifier refused a steer program");
            Some(format!(
                "{io_error}; the kernel's verifier says: {}",
                verdict(&log)
            ))
        }
        _ => None,
    };
    let cause = Cause::new(error);
    SetupError::Load {
        interface: interface.to_owned(),
        explanation: verdict.unwrap_or_else(|| cause.to_string()),
        cause,
    }
}

/// The line of a verifier log that has the reason: the last one that is not statistics.
fn verdict(log: &str) -> &str {
    const STATISTICS: [&str; 3] = ["verification time", "stack depth", "processed"];
    log.lines()
        .rev()
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|start| line.starts_with(start)))
        .unwrap_or("nothing")
}

/// The error behind the kernel's refusal to attach.
pub(super) fn attach_error(link: &LinkInfo, mode: AttachMode, error: ProgramError) -> SetupError {
    if matches!(error, ProgramError::LoadError { .. }) {
        return load_error(&link.name, error);
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

/// The error behind the kernel's refusal to attach to an interface of local clients.
pub(super) fn local_error(interface: &str, error: ProgramError) -> SetupError {
    if matches!(error, ProgramError::LoadError { .. }) {
        return load_error(interface, error);
    }
    let interface = interface.to_owned();
    match os_code(&error) {
        Some(libc::EPERM) => capability::denied(&format!("attach to {interface}")),
        Some(libc::EINVAL) if interface == LOOPBACK => SetupError::LoopbackUnsupported,
        _ => SetupError::Attach {
            interface,
            cause: Cause::new(error),
        },
    }
}

/// The error behind the refusal of a change of a map of rules.
pub(super) fn rules_error(
    action: &'static str,
    what: &dyn Display,
    map: &'static str,
    error: MapError,
) -> SetupError {
    let what = what.to_string();
    if os_code(&error) == Some(libc::E2BIG) {
        return SetupError::RulesFull {
            action,
            what,
            map,
            cause: Cause::new(error),
        };
    }
    SetupError::Rules {
        action,
        what,
        map,
        cause: Cause::new(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_found_in_a_verifier_log() {
        let log = "0: R1=ctx()\nunknown func bpf_xdp_load_bytes#189\nverification time 74 usec\n\
                   stack depth 176\nprocessed 14 insns (limit 1000000)\n";
        assert_eq!(verdict(log), "unknown func bpf_xdp_load_bytes#189");
        assert_eq!(verdict(""), "nothing");
    }
}
