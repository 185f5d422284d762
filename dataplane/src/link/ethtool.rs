//! The ethtool ioctl: the driver, and the queues in use.
//!
//! Kernel: include/uapi/linux/ethtool.h. Works on the network namespace of the calling thread, unlike
//! /sys, which shows the namespace that it was mounted in.
#![expect(unsafe_code, reason = "ioctl(2) has no safe form")]

use std::io;
use std::os::fd::AsRawFd;

use rustix::net::{AddressFamily, SocketType};

const GET_DRIVER_INFO: u32 = 0x0000_0003;
const GET_CHANNELS: u32 = 0x0000_003c;

/// Receive and transmit queues in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channels {
    pub(crate) receive: u32,
    pub(crate) transmit: u32,
}

/// The name of the driver of `interface`.
pub(crate) fn driver(interface: &str) -> io::Result<String> {
    let mut request = DriverInfo {
        command: GET_DRIVER_INFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    ioctl(interface, &mut request)?;
    let name = request.driver.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// The queues of `interface` that are in use. Not every driver reports them.
pub(crate) fn channels(interface: &str) -> io::Result<Channels> {
    let mut request = ChannelCounts {
        command: GET_CHANNELS,
        ..ChannelCounts::default()
    };
    ioctl(interface, &mut request)?;
    Ok(Channels {
        receive: request.receive + request.combined,
        transmit: request.transmit + request.combined,
    })
}

/// Runs one ethtool command: reads and writes `request`.
fn ioctl<T: Command>(interface: &str, request: &mut T) -> io::Result<()> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    // SAFETY: ifreq is plain data, for which all zeroes is valid.
    let mut ifreq: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0: the kernel wants a terminated string.
    for (to, from) in ifreq
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(interface.bytes())
    {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    ifreq.ifr_ifru.ifru_data = std::ptr::from_mut(request).cast();
    // SAFETY: SIOCETHTOOL takes an ifreq whose data points to the structure of its command, which
    // `Command` promises; both live until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut ifreq) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The structure of an ethtool command.
///
/// # Safety
///
/// The implementor has the layout of the structure that the kernel reads and writes for the command in its
/// first field.
unsafe trait Command {}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    /// Version, firmware, bus, reserved and five counts.
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

// SAFETY: the layout of ethtool_drvinfo, as asserted above; `driver` is at offset 4.
unsafe impl Command for DriverInfo {}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct ChannelCounts {
    command: u32,
    max_receive: u32,
    max_transmit: u32,
    max_other: u32,
    max_combined: u32,
    receive: u32,
    transmit: u32,
    other: u32,
    combined: u32,
}

const _: () = assert!(size_of::<ChannelCounts>() == 36);

// SAFETY: the layout of ethtool_channels, field by field.
unsafe impl Command for ChannelCounts {}
