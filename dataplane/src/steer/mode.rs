//! The choice of the mode of an attachment, and why.

use vl3lb_common::dataplane::AttachMode;

use crate::config::{FastPathConfig, Mode};
use crate::error::{Attempts, SetupError};
use crate::link::{Link, LinkInfo};

/// Whether an attachment without the fast path is one that is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum With {
    FastPath,
    Any,
}

/// The modes to try, best first. On a virtual link a native program makes senders take their super-packets apart, so the
/// companion pair is better if established flows do not pass it.
pub(super) fn candidates(
    link: &LinkInfo,
    mode: Mode,
    fast_path: FastPathConfig,
) -> &'static [(AttachMode, With)] {
    use AttachMode::{Companion, Generic, Native};
    use With::{Any, FastPath};
    match (mode, link.link) {
        (Mode::Auto, Link::Ethernet(_)) if fast_path.enabled && link.driver == "veth" => &[
            (Companion, FastPath),
            (Native, Any),
            (Companion, Any),
            (Generic, Any),
        ],
        (Mode::Auto, Link::Ethernet(_)) => &[(Native, Any), (Companion, Any), (Generic, Any)],
        (Mode::Auto, Link::RawIp) => &[(Companion, Any), (Generic, Any)],
        (Mode::Native, _) => &[(Native, Any)],
        (Mode::Generic, _) => &[(Generic, Any)],
        (Mode::Companion, _) => &[(Companion, Any)],
    }
}

/// Why flows are not forwarded in the kernel in `mode`, if that is so whatever the kernel can do.
///
/// A frame that XDP sends back (XDP_TX) on veth arrives only where the other end receives by NAPI, with an XDP program of
/// its own or with GRO; else it is lost (`veth_xdp_xmit` in the kernel's drivers/net/veth.c). The other end is in the
/// network's namespace and may change that at any time, so this end never knows.
pub(super) fn no_fast_path(link: &LinkInfo, mode: AttachMode) -> Option<&'static str> {
    match mode {
        AttachMode::Companion => None,
        AttachMode::Native if link.driver == "veth" => Some(
            "on veth, frames that XDP sends back are lost unless the other end has GRO or XDP, which cannot be seen \
             from here; companion mode has a fast path",
        ),
        AttachMode::Native => None,
        AttachMode::Generic => Some("generic mode has none, companion mode has one"),
    }
}

/// How many receive queues to serve. With XDP on the interface: all that it has, or frames of the others
/// would never reach a worker. The companion pair has one for each worker: the fixed number of `workers`, else
/// one per CPU, up to the transmit queues of the interface.
pub(super) fn queues(
    link: &LinkInfo,
    mode: AttachMode,
    workers: Option<u16>,
    cpus: u32,
) -> Result<u32, SetupError> {
    match mode {
        AttachMode::Native if link.link == Link::RawIp => Err(SetupError::NativeUnsupported {
            interface: link.name.clone(),
            driver: link.driver.clone(),
        }),
        AttachMode::Native | AttachMode::Generic => Ok(link.receive_queues),
        AttachMode::Companion => Ok(workers
            .map_or_else(|| link.transmit_queues.min(cpus), u32::from)
            .max(1)),
    }
}

/// Why this mode was chosen, and what it does not see.
pub(super) fn reason(link: &LinkInfo, mode: Mode, chosen: AttachMode, failures: &Attempts) -> String {
    let mut reason = choice(link, mode, chosen, failures);
    if let (AttachMode::Native | AttachMode::Generic, Link::Ethernet(_)) = (chosen, link.link) {
        reason.push_str(VLANS_UNSEEN);
    }
    reason
}

/// A veth peer, and a NIC that strips tags, keeps the tag beside the frame, where XDP does not see it without the hint
/// bpf_xdp_metadata_rx_vlan_tag: a function for programs under a licence compatible with the GPL, of one device, in
/// native mode only. The tc program sees it.
const VLANS_UNSEEN: &str = "; VLAN tags that the sender or the NIC keeps beside the frame are not visible, so such frames \
                            are balanced like untagged ones: use mode: companion on a link with VLANs";

fn choice(link: &LinkInfo, mode: Mode, chosen: AttachMode, failures: &Attempts) -> String {
    if mode != Mode::Auto {
        return format!("set by mode: {}", chosen.name());
    }
    let mut reason = match (chosen, link.link) {
        (AttachMode::Native, _) => "the driver has XDP, so senders segment super-packets before they arrive",
        (AttachMode::Companion, Link::RawIp) => {
            "a TUN device has no native XDP; the companion pair segments super-packets"
        }
        (AttachMode::Companion, Link::Ethernet(_)) => {
            "established flows stay in the kernel, and senders keep their super-packets"
        }
        (AttachMode::Generic, _) => "nothing better can be attached",
    }
    .to_owned();
    if !failures.0.is_empty() {
        reason = format!("{reason} ({failures})");
    }
    reason
}

pub(super) fn refuses(link: &LinkInfo, mode: AttachMode) -> &'static str {
    match mode {
        AttachMode::Generic if link.super_packets => {
            "UDP super-packets (UDP_SEGMENT): their segment size is not visible in generic mode, so they cannot \
             be segmented; each is dropped and counted as udp_super_packet"
        }
        AttachMode::Generic | AttachMode::Native | AttachMode::Companion => "",
    }
}
