//! Errors of setting up the data plane. A packet that is not forwarded gets a
//! [`DropReason`](vl3lb_common::DropReason) instead.

use std::error::Error;
use std::fmt::{self, Display};
use std::io;

use vl3lb_common::dataplane::{AttachError, AttachErrorKind, AttachMode};

/// Setting up failed. Each message is complete: what was attempted, on what, why it failed, what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(
        "another vl3-lb serves {interface}: its companion pair {companion} has a live program; stop that one \
         first"
    )]
    AlreadyServed { interface: String, companion: String },

    #[error("attach to {interface}: {cause}")]
    Attach {
        interface: String,
        #[source]
        cause: Cause,
    },

    #[error("bind an AF_XDP socket to queue {queue} of {interface}{mode}: {cause}{advice}")]
    BindSocket {
        interface: String,
        queue: u32,
        mode: &'static str,
        #[source]
        cause: io::Error,
        advice: &'static str,
    },

    #[error("{action} companion pair {companion} of {interface}: {cause}")]
    Companion {
        action: &'static str,
        interface: String,
        companion: String,
        #[source]
        cause: io::Error,
    },

    #[error(
        "make a companion pair for {interface}: another interface is called {companion}; rename or delete \
         it"
    )]
    CompanionNameTaken { interface: String, companion: String },

    #[error("map the fast path for {flows} flows of {interface}: {cause}; try fewer `fastPath.flows`")]
    FastPath {
        interface: String,
        flows: u32,
        #[source]
        cause: io::Error,
    },

    #[error(
        "map the arrays by which the workers of {interface} shed load in the kernel: {cause}; check the memory limit of the \
         process (RLIMIT_AS, the container's)"
    )]
    ShedMemory {
        interface: String,
        #[source]
        cause: io::Error,
    },

    #[error(
        "attach the fast path to {interface}: the kernel has no tcx links (Linux before 6.6), and a tc filter would go on \
         with the flows of a killed process"
    )]
    FastPathUnsupported { interface: String },

    #[error("interface {interface} is down; run: ip link set {interface} up")]
    InterfaceDown { interface: String },

    #[error("interface {interface} does not exist; there are: {existing}")]
    InterfaceMissing { interface: String, existing: String },

    #[error("inspect interface {interface}: {cause}")]
    Inspect {
        interface: String,
        #[source]
        cause: io::Error,
    },

    #[error(
        "interface {interface} is a {kind} device of link type {link_type}; only Ethernet and TUN devices can \
         be served"
    )]
    LinkUnsupported {
        interface: String,
        kind: String,
        link_type: String,
    },

    #[error("load the steer programs for {interface}: {explanation}; Linux 5.18 or newer is needed")]
    Load {
        interface: String,
        /// The verifier's reason, or the causes in one line.
        explanation: String,
        #[source]
        cause: Cause,
    },

    #[error(
        "MTU {mtu} of interface {interface}, allowed {min} to {max}; run: ip link set {interface} mtu \
         {min}..{max}"
    )]
    MtuUnusable {
        interface: String,
        mtu: u32,
        min: u32,
        max: u32,
    },

    #[error(
        "interface {interface} (driver {driver}) has no native XDP; use mode: auto, which takes what works \
         best here"
    )]
    NativeUnsupported { interface: String, driver: String },

    #[error("no way to attach to {interface}: {attempts}")]
    NoAttachment { interface: String, attempts: Attempts },

    #[error("register {mebibytes} MiB of packet memory with the kernel: {cause}{advice}")]
    PacketMemory {
        mebibytes: u64,
        #[source]
        cause: io::Error,
        advice: &'static str,
    },

    #[error(
        "attach to {interface} in native mode: its other end has more transmit queues than it has receive \
         queues; make them equal (ethtool -L), or use mode: auto"
    )]
    PeerQueues { interface: String },

    #[error("{action}: operation not permitted: {explanation}")]
    Privilege { action: String, explanation: String },

    #[error("{interface} has no queue {queue}: its queues are 0 to {last}")]
    QueueUnknown {
        interface: String,
        queue: u32,
        last: u32,
    },

    #[error("register the socket of queue {queue} of {interface}: {cause}")]
    RegisterSocket {
        interface: String,
        queue: u32,
        #[source]
        cause: Cause,
    },

    #[error("{action} {what} in the steer program's {map} map: the map is full")]
    RulesFull {
        action: &'static str,
        what: String,
        map: &'static str,
        #[source]
        cause: Cause,
    },

    #[error("{action} {what} in the steer program's {map} map: {cause}")]
    Rules {
        action: &'static str,
        what: String,
        map: &'static str,
        #[source]
        cause: Cause,
    },

    #[error("start {what}: {cause}")]
    Start {
        what: String,
        #[source]
        cause: io::Error,
    },

    #[error(
        "attach to lo: the kernel has no tcx links, which Linux has since 6.6; clients in the balancer's own network \
         namespace need one"
    )]
    LoopbackUnsupported,

    #[error("attach to {interface}: another XDP program is attached; see: ip -details link show {interface}")]
    XdpBusy { interface: String },
}

impl SetupError {
    /// Whether there is no interface of the configured name.
    pub const fn is_interface_missing(&self) -> bool {
        matches!(self, Self::InterfaceMissing { .. })
    }

    /// Which change could let an attachment succeed.
    pub fn kind(&self) -> AttachErrorKind {
        match self {
            Self::InterfaceMissing { .. } | Self::InterfaceDown { .. } => AttachErrorKind::InterfaceAbsent,
            Self::NoAttachment { attempts, .. } if attempts.has_absent() => AttachErrorKind::InterfaceAbsent,
            // It vanished meanwhile.
            _ if matches!(os_code(self), Some(libc::ENODEV | libc::ENXIO)) => {
                AttachErrorKind::InterfaceAbsent
            }
            Self::LinkUnsupported { .. }
            | Self::MtuUnusable { .. }
            | Self::NativeUnsupported { .. }
            | Self::NoAttachment { .. }
            | Self::PeerQueues { .. } => AttachErrorKind::InterfaceUnsuitable,
            Self::AlreadyServed { .. }
            | Self::Attach { .. }
            | Self::BindSocket { .. }
            | Self::Companion { .. }
            | Self::FastPath { .. }
            | Self::FastPathUnsupported { .. }
            | Self::CompanionNameTaken { .. }
            | Self::Inspect { .. }
            | Self::Load { .. }
            | Self::LoopbackUnsupported
            | Self::PacketMemory { .. }
            | Self::Privilege { .. }
            | Self::QueueUnknown { .. }
            | Self::RegisterSocket { .. }
            | Self::Rules { .. }
            | Self::RulesFull { .. }
            | Self::ShedMemory { .. }
            | Self::Start { .. }
            | Self::XdpBusy { .. } => AttachErrorKind::System,
        }
    }
}

/// An error of another crate. Shows all its causes in one line: some crates leave them out of their
/// own message.
#[derive(Debug)]
pub struct Cause(Box<dyn Error + Send + Sync>);

impl Cause {
    pub(crate) fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&with_causes(&*self.0))
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// The ways to attach that were tried, and why each failed.
#[derive(Debug)]
pub struct Attempts(pub Vec<(AttachMode, SetupError)>);

impl Attempts {
    fn has_absent(&self) -> bool {
        let absent = |error: &SetupError| error.kind() == AttachErrorKind::InterfaceAbsent;
        self.0.iter().any(|(_, error)| absent(error))
    }
}

impl Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (mode, error)) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{}: {error}", mode.name())?;
        }
        Ok(())
    }
}

impl From<SetupError> for AttachError {
    fn from(error: SetupError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// An error with all its causes in one line: some crates leave the cause out of their own message.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

/// The operating system's error code at the bottom of `error`, if there is one.
pub(crate) fn os_code(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(code) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
        {
            return Some(code);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("`bpf_link_create` failed")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_cause_missing_from_a_message_is_shown_once() {
        let error = Outer(io::Error::from_raw_os_error(libc::EBUSY));
        let text = with_causes(&error);
        assert!(text.starts_with("`bpf_link_create` failed: "), "{text}");
        assert_eq!(text.matches("busy").count(), 1, "{text}");
        assert_eq!(os_code(&error), Some(libc::EBUSY));
    }
}
