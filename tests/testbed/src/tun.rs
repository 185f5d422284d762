//! TUN and TAP devices: raw-IP and Ethernet interfaces whose other end is a descriptor. Linux `Documentation/networking/tuntap.rst`.
#![expect(unsafe_code, reason = "TUN devices are configured by ioctl only")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::{Netns, TestbedError};

/// Length of the `virtio_net_hdr` before each packet of a device that has one: virtio 1.2, section 5.1.6.
pub const VNET_HEADER: usize = 10;

/// Features of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunKind {
    /// Packets and nothing else.
    Plain,
    /// Packets with a `virtio_net_hdr`, without offloads.
    VnetHeader,
    /// Packets with a `virtio_net_hdr`; the kernel hands over TCP and UDP super-packets of up to 64 KB and
    /// partial checksums. Needs Linux 6.2 for UDP.
    Offloads,
    /// Packets and nothing else, through one descriptor for each queue.
    MultiQueue,
    /// A TAP device: frames with an Ethernet header. Its driver has native XDP and sends back what XDP sends back.
    Tap,
}

impl TunKind {
    /// Bytes before each packet.
    pub const fn header(self) -> usize {
        match self {
            Self::Plain | Self::MultiQueue | Self::Tap => 0,
            Self::VnetHeader | Self::Offloads => VNET_HEADER,
        }
    }

    const fn flags(self) -> libc::c_int {
        let own = match self {
            Self::Plain => libc::IFF_TUN,
            Self::VnetHeader | Self::Offloads => libc::IFF_TUN | libc::IFF_VNET_HDR,
            Self::MultiQueue => libc::IFF_TUN | libc::IFF_MULTI_QUEUE,
            Self::Tap => libc::IFF_TAP,
        };
        libc::IFF_NO_PI | own
    }
}

/// Opens a queue of the TUN or TAP device `name` of `netns`; the first one makes the device, which is removed with the last
/// one. The descriptor does not block, and may be used from any namespace.
pub fn open(netns: &Netns, name: &str, kind: TunKind) -> Result<File, TestbedError> {
    let open = || {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        set_interface(&file, name, kind)?;
        if kind == TunKind::Offloads {
            set_offloads(&file)?;
        }
        Ok(file)
    };
    netns.run(open).map_err(TestbedError::system::<io::Error>(format!(
        "make TUN device {name} in {} (needs the module tun, and Linux 6.2 for UDP offloads)",
        netns.label()
    )))
}

fn set_interface(file: &File, name: &str, kind: TunKind) -> io::Result<()> {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::other("an interface name has at most 15 bytes"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = kind.flags().try_into().expect("interface flags fit 16 bits");
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn set_offloads(file: &File) -> io::Result<()> {
    let offloads = libc::TUN_F_CSUM
        | libc::TUN_F_TSO4
        | libc::TUN_F_TSO6
        | libc::TUN_F_TSO_ECN
        | libc::TUN_F_USO4
        | libc::TUN_F_USO6;
    // SAFETY: TUNSETOFFLOAD takes its flags by value, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
