//! What can go wrong while the data plane is set up. Packets never end here: they get a
//! [`DropReason`](vl3lb_common::DropReason).

use std::error::Error;
use std::io;

use vl3lb_common::dataplane::{AttachError, AttachErrorKind};

/// Setting up failed. Each message is complete: what was attempted, on what, why it failed, what to do.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(
        "another vl3-lb serves {interface}: its companion pair {companion} has a live program; stop that one \
         first"
    )]
    AlreadyServed { interface: String, companion: String },

    #[error("attach to {interface}: {cause}")]
    Attach { interface: String, cause: String },

    #[error("bind an AF_XDP socket to queue {queue} of {interface}{mode}: {cause}{advice}")]
    BindSocket {
        interface: String,
        queue: u32,
        mode: &'static str,
        cause: io::Error,
        advice: &'static str,
    },

    #[error("{action} companion pair {companion} of {interface}: {cause}")]
    Companion {
        action: &'static str,
        interface: String,
        companion: String,
        cause: io::Error,
    },

    #[error(
        "make a companion pair for {interface}: an interface called {companion} exists that is not ours; \
         rename or delete it"
    )]
    CompanionNameTaken { interface: String, companion: String },

    #[error("interface {interface} is down; run: ip link set {interface} up")]
    InterfaceDown { interface: String },

    #[error("interface {interface} does not exist; there are: {existing}")]
    InterfaceMissing { interface: String, existing: String },

    #[error("inspect interface {interface}: {cause}")]
    Inspect { interface: String, cause: io::Error },

    #[error(
        "interface {interface} is a {kind} device of link type {link_type}; only Ethernet and TUN devices can \
         be served"
    )]
    LinkUnsupported {
        interface: String,
        kind: String,
        link_type: String,
    },

    #[error("load the steer programs for {interface}: {cause}; Linux 5.18 or newer is needed")]
    Load { interface: String, cause: String },

    #[error(
        "MTU {mtu} of interface {interface} cannot work, {min} to {max} can; run: ip link set {interface} mtu \
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
    NoAttachment { interface: String, attempts: String },

    #[error("register {mebibytes} MiB of packet memory with the kernel: {cause}{advice}")]
    PacketMemory {
        mebibytes: u64,
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

    #[error("queue {queue} of {interface} has no worker: queues 0 to {last} do")]
    QueueUnknown {
        interface: String,
        queue: u32,
        last: u32,
    },

    #[error("register the socket of queue {queue} of {interface}: {cause}")]
    RegisterSocket {
        interface: String,
        queue: u32,
        cause: String,
    },

    #[error("{action} {what} in the steer program's {map} map: {cause}")]
    Rules {
        action: &'static str,
        what: String,
        map: &'static str,
        cause: String,
    },

    #[error("start {what}: {cause}")]
    Start { what: String, cause: io::Error },

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
            Self::LinkUnsupported { .. }
            | Self::MtuUnusable { .. }
            | Self::NativeUnsupported { .. }
            | Self::NoAttachment { .. }
            | Self::PeerQueues { .. } => AttachErrorKind::InterfaceUnsuitable,
            Self::AlreadyServed { .. }
            | Self::Attach { .. }
            | Self::BindSocket { .. }
            | Self::Companion { .. }
            | Self::CompanionNameTaken { .. }
            | Self::Inspect { .. }
            | Self::Load { .. }
            | Self::PacketMemory { .. }
            | Self::Privilege { .. }
            | Self::QueueUnknown { .. }
            | Self::RegisterSocket { .. }
            | Self::Rules { .. }
            | Self::Start { .. }
            | Self::XdpBusy { .. } => AttachErrorKind::System,
        }
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
    fn causes_that_a_message_hides_are_shown_once() {
        let error = Outer(io::Error::from_raw_os_error(libc::EBUSY));
        let text = with_causes(&error);
        assert!(text.starts_with("`bpf_link_create` failed: "), "{text}");
        assert_eq!(text.matches("busy").count(), 1, "{text}");
        assert_eq!(os_code(&error), Some(libc::EBUSY));
    }
}
