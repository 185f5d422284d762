//! A layer-3 switch in the role of an NSM forwarder: it holds the descriptors of TUN devices, and passes each IP
//! packet on by its destination.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use ipnet::IpNet;
use rustix::event::{PollFd, PollFlags, poll};

use crate::TestbedError;
use crate::tun::{TunKind, VNET_HEADER};

/// Packets between two looks whether to stop.
const BURST: usize = 64;
/// The longest packet, a super-packet of 64 KB, with its `virtio_net_hdr`.
const BUFFER: usize = VNET_HEADER + 65_536;

/// One device and the prefixes behind it.
#[derive(Debug)]
pub struct SwitchPort {
    /// Does not block, as [`tun::open`](crate::tun::open) makes it.
    pub device: File,
    pub prefixes: Vec<IpNet>,
}

/// A running switch with one thread for each port. Dropping it stops it and closes the devices.
#[derive(Debug)]
pub struct Switch {
    stop: Option<PipeWriter>,
    threads: Vec<JoinHandle<()>>,
    longest: Arc<AtomicUsize>,
}

impl Switch {
    /// Starts to forward between `ports`, whose devices are all of `kind`. Super-packets pass through whole, since
    /// each packet keeps the `virtio_net_hdr` it came with.
    pub fn start(ports: Vec<SwitchPort>, kind: TunKind) -> Result<Self, TestbedError> {
        let start = || -> io::Result<Self> {
            let (stopped, stop) = io::pipe()?;
            let longest = Arc::new(AtomicUsize::new(0));
            let table = Arc::new(Table::new(ports));
            let mut threads = Vec::new();
            for port in 0..table.devices.len() {
                let (table, stopped) = (Arc::clone(&table), stopped.try_clone()?);
                let longest = Arc::clone(&longest);
                let work = move || table.forward(port, kind.header(), &stopped, &longest);
                threads.push(
                    std::thread::Builder::new()
                        .name("switch".to_owned())
                        .spawn(work)?,
                );
            }
            Ok(Self {
                stop: Some(stop),
                threads,
                longest,
            })
        };
        start().map_err(TestbedError::system("start a switch"))
    }

    /// Length of the longest IP packet so far.
    pub fn longest_packet(&self) -> usize {
        self.longest.load(Ordering::Relaxed)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Closing the writing end makes the reading end readable.
        drop(self.stop.take());
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a thread of the switch panicked");
            }
        }
    }
}

struct Table {
    devices: Vec<File>,
    /// Prefix and index of its device, the longest prefix first.
    routes: Vec<(IpNet, usize)>,
}

impl Table {
    fn new(ports: Vec<SwitchPort>) -> Self {
        let mut table = Self {
            devices: Vec::new(),
            routes: Vec::new(),
        };
        for (index, port) in ports.into_iter().enumerate() {
            table.devices.push(port.device);
            table
                .routes
                .extend(port.prefixes.into_iter().map(|prefix| (prefix, index)));
        }
        table
            .routes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        table
    }

    fn device(&self, destination: IpAddr) -> Option<&File> {
        let (_, index) = self
            .routes
            .iter()
            .find(|(prefix, _)| prefix.contains(&destination))?;
        self.devices.get(*index)
    }

    /// Forwards what comes from one port until the switch is dropped or the device is gone.
    fn forward(&self, port: usize, header: usize, stopped: &PipeReader, longest: &AtomicUsize) {
        let mut source = &self.devices[port];
        let mut buffer = vec![0; BUFFER];
        loop {
            let mut ready = [
                PollFd::new(source, PollFlags::IN),
                PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::IN),
            ];
            // A signal ends it early, which does no harm.
            if poll(&mut ready, None).is_ok() && !ready[1].revents().is_empty() {
                return;
            }
            for _ in 0..BURST {
                let packet = match source.read(&mut buffer) {
                    Ok(length) => &buffer[..length],
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // The device was deleted, or its namespace.
                    Err(_) => return,
                };
                let Some(ip) = packet.get(header..) else { continue };
                longest.fetch_max(ip.len(), Ordering::Relaxed);
                if let Some(mut device) = destination(ip).and_then(|to| self.device(to)) {
                    // A full queue or a device that is down loses the packet, as in any switch.
                    device.write_all(packet).ok();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_of_both_families_are_read_and_short_packets_have_none() {
        let mut packet = [0; 40];
        packet[0] = 0x45;
        packet[16..20].copy_from_slice(&[172, 16, 1, 103]);
        assert_eq!(destination(&packet), Some("172.16.1.103".parse().unwrap()));
        packet[0] = 0x60;
        packet[24..40].copy_from_slice(&"2001:db8::67".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(destination(&packet), Some("2001:db8::67".parse().unwrap()));
        assert_eq!(destination(&packet[..39]), None);
        assert_eq!(destination(&[0x45; 19]), None);
        assert_eq!(destination(&[]), None);
    }

    #[test]
    fn the_longest_prefix_wins() {
        let port = |prefixes: &[&str]| SwitchPort {
            device: File::open("/dev/null").unwrap(),
            prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        };
        let table = Table::new(vec![port(&["0.0.0.0/0"]), port(&["172.16.1.103/32"])]);
        let index = |address: &str| {
            let found = table.device(address.parse().unwrap())?;
            table
                .devices
                .iter()
                .position(|device| std::ptr::eq(device, found))
        };
        assert_eq!(index("172.16.1.103"), Some(1));
        assert_eq!(index("172.16.1.20"), Some(0));
        assert_eq!(index("2001:db8::1"), None);
    }
}
