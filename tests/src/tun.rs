//! TUN devices, the kernel's end of a point-to-point raw-IP link.
//!
//! Linux `Documentation/networking/tuntap.rst`. The descriptor works from any thread, while the device is in
//! the namespace that the descriptor was opened in.
#![expect(unsafe_code, reason = "TUN devices are configured by ioctl only")]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use crate::netns::Netns;

/// Length of the `virtio_net_hdr` before each packet of a device with offloads.
pub const VNET_HEADER: usize = 10;

/// Creates the TUN device `name` in `netns` and returns its non-blocking descriptor. With `offloads` every
/// packet is preceded by a `virtio_net_hdr`, and the kernel hands over TCP and UDP super-packets of up to
/// 64 KB and partial checksums, as it does to a forwarder that can take them.
pub fn create(netns: &Netns, name: &str, offloads: bool) -> File {
    netns.run(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .unwrap_or_else(|error| panic!("open /dev/net/tun: {error}; load the tun module"));
        set_interface(&file, name, offloads);
        if offloads {
            set_offloads(&file);
        }
        file
    })
}

fn set_interface(file: &File, name: &str, offloads: bool) {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < libc::IFNAMSIZ, "interface name {name} is too long");
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let vnet_header = if offloads { libc::IFF_VNET_HDR } else { 0 };
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | vnet_header;
    request.ifr_ifru.ifru_flags = flags.try_into().expect("interface flags fit 16 bits");
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert!(
        result == 0,
        "create TUN device {name}: {}",
        std::io::Error::last_os_error()
    );
}

fn set_offloads(file: &File) {
    let offloads = libc::TUN_F_CSUM
        | libc::TUN_F_TSO4
        | libc::TUN_F_TSO6
        | libc::TUN_F_TSO_ECN
        | libc::TUN_F_USO4
        | libc::TUN_F_USO6;
    // SAFETY: TUNSETOFFLOAD takes its flags by value, and the descriptor is open.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    assert!(
        result == 0,
        "set TUN offloads TSO4, TSO6, USO4, USO6: {}; UDP segmentation needs Linux 6.2",
        std::io::Error::last_os_error()
    );
}
