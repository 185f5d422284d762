//! TUN devices: an interface whose other end is a descriptor, and packets without an Ethernet header.
//!
//! Linux `Documentation/networking/tuntap.rst`. They are made with offloads, as a forwarder that can take them makes
//! them: a [`VNET_HEADER`] precedes every packet, and the kernel hands over TCP super-packets and partial checksums.
#![expect(unsafe_code, reason = "TUN devices are configured by ioctl only")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::Failure;

use super::Netns;

/// Length of the `virtio_net_hdr` before each packet.
pub(crate) const VNET_HEADER: usize = 10;
/// The longest packet, and what precedes it.
const LONGEST: usize = VNET_HEADER + 65_536;
/// How often a forwarding thread looks whether to end.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// Makes the device `name` in `netns`. It lasts as long as its descriptor, which does not block and may be used from
/// any namespace.
pub(super) fn create(netns: &Netns, name: &str) -> Result<File, Failure> {
    netns
        .run(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")?;
            configure(&file, name)?;
            Ok(file)
        })
        .map_err(|error: io::Error| {
            Failure::new(format!(
                "make the TUN device {name}: {error}; is the tun module there?"
            ))
        })
}

fn configure(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0, which ends the name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags.try_into().expect("interface flags fit 16 bits");
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and the descriptor is open.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made != 0 {
        return Err(io::Error::last_os_error());
    }
    let offloads = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    // SAFETY: TUNSETOFFLOAD takes its flags by value, and the descriptor is open.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Two threads that copy packets between two devices: the forwarder of a raw-IP link. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Forwarder {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Forwarder {
    pub(super) fn start(ends: &[File; 2]) -> Result<Self, Failure> {
        let stop = Arc::<AtomicBool>::default();
        let mut threads = Vec::new();
        for (from, to) in [(0, 1), (1, 0)] {
            let open = || Ok((ends[from].try_clone()?, ends[to].try_clone()?));
            let (from, to) =
                open().map_err(|error: io::Error| Failure::new(format!("start the forwarder: {error}")))?;
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || forward(&from, &to, &stop)));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic, and nothing could be done if it had.
            thread.join().ok();
        }
    }
}

fn forward(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut packet = vec![0; LONGEST];
    while !stop.load(Ordering::Relaxed) {
        let mut source = [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)];
        if poll(&mut source, Some(&LOOK)).is_err() {
            continue;
        }
        while let Ok(length) = from.read(&mut packet) {
            // What the other device does not take, as while it is down, is lost, as on any link.
            to.write_all(&packet[..length]).ok();
        }
    }
}
