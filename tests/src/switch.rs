//! A small layer-3 switch in the role of an NSM forwarder: it holds the descriptors of TUN devices that are
//! in the pods, and passes each IP packet on by its destination.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};

use crate::tun::VNET_HEADER;

/// Packets taken from one device before the others get their turn.
const BURST: usize = 64;
/// The longest packet, a super-packet of 64 KB, with its `virtio_net_hdr`.
const BUFFER: usize = VNET_HEADER + 65_536;

/// One device and the addresses behind it.
#[derive(Debug)]
pub struct SwitchPort {
    pub device: File,
    pub addresses: Vec<IpAddr>,
}

/// A running switch; dropping it stops it and removes the devices.
#[derive(Debug)]
pub struct Switch {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    longest: Arc<AtomicUsize>,
}

impl Switch {
    /// Starts to forward between `ports`, all of them with or all of them without offloads. With offloads,
    /// super-packets pass through whole, since each packet keeps the `virtio_net_hdr` it came with.
    pub fn start(ports: Vec<SwitchPort>, offloads: bool) -> Self {
        let (stopped, stop) = std::io::pipe().expect("make a pipe");
        let longest = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&longest);
        let thread = std::thread::Builder::new()
            .name("switch".to_owned())
            .spawn(move || forward(&ports, if offloads { VNET_HEADER } else { 0 }, &stopped, &seen))
            .expect("start the switch");
        Self {
            stop: Some(stop),
            thread: Some(thread),
            longest,
        }
    }

    /// Length of the longest IP packet that came by so far.
    pub fn longest_packet(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Closing the writing end makes the reading end readable for good.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the switch panicked");
        }
    }
}

fn forward(ports: &[SwitchPort], header: usize, stopped: &PipeReader, longest: &AtomicUsize) {
    let routes: HashMap<IpAddr, &File> = ports
        .iter()
        .flat_map(|port| port.addresses.iter().map(move |address| (*address, &port.device)))
        .collect();
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut ready: Vec<PollFd<'_>> = ports
            .iter()
            .map(|port| PollFd::new(&port.device, PollFlags::IN))
            .chain([PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN)])
            .collect();
        poll(&mut ready, None).expect("poll the TUN devices");
        let ready: Vec<bool> = ready.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.last() == Some(&true) {
            return;
        }
        for (port, _) in ports.iter().zip(ready).filter(|(_, ready)| *ready) {
            for _ in 0..BURST {
                let packet = match (&port.device).read(&mut buffer) {
                    Ok(length) => &buffer[..length],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("read from a TUN device: {error}"),
                };
                longest.fetch_max(packet.len() - header, Ordering::Relaxed);
                if let Some(mut device) =
                    destination(&packet[header..]).and_then(|to| routes.get(&to).copied())
                {
                    // A full or closed device loses the packet, as a full queue of a switch does.
                    let _lost_if_error = device.write(packet);
                }
            }
        }
    }
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from(*packet.get(16..)?.first_chunk::<4>()?).into()),
        6 => Some(Ipv6Addr::from(*packet.get(24..)?.first_chunk::<16>()?).into()),
        _ => None,
    }
}
