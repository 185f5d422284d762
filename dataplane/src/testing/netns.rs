//! Namespaces of their own for tests against the kernel, with the links of `vl3lb-testbed`. They fail without root.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use vl3lb_testbed::packet_socket::PacketSocket;
use vl3lb_testbed::tun::{self, TunKind, VNET_HEADER};
use vl3lb_testbed::veth::{self, VethEnd};
use vl3lb_testbed::{Netns, OrPanic};

use super::builder::MACS;

/// The balancer's end of the pair, and the end where tests send and receive.
pub(crate) const NEAR: &str = "lb0";
pub(crate) const FAR: &str = "peer0";

/// Limit of the wait for a frame.
const LIMIT: Duration = Duration::from_secs(2);

/// Runs `test` on a thread in a namespace of its own, whose interfaces send nothing by themselves; panics if `test`
/// does.
pub(crate) fn in_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    let netns = Netns::new("test").or_panic();
    // New interfaces get no link-local address (1: none), so they send no router solicitations and the like.
    netns
        .sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
        .or_panic();
    netns.run(test)
}

/// Runs `test` in a namespace in which [`NEAR`] and [`FAR`] are up with `queues` queues each, and [`MACS`] are their
/// addresses.
pub(crate) fn with_veth(queues: u32, test: impl FnOnce() + Send) {
    in_namespace(|| {
        remake_veth(queues);
        test();
    });
}

/// Makes the pair of [`with_veth`] in this thread's namespace, for instance after it was deleted.
pub(crate) fn remake_veth(queues: u32) {
    let [near, far] = [(NEAR, MACS.1), (FAR, MACS.0)].map(|(name, mac)| VethEnd::new(name, queues).mac(mac));
    veth_pair(&near, &far, 1500);
}

/// Makes a veth pair in this thread's namespace that is up.
pub(crate) fn veth_pair(one: &VethEnd<'_>, other: &VethEnd<'_>, mtu: u16) {
    veth_pair_down(one, other, mtu);
    bring_up(one.name);
    bring_up(other.name);
}

/// Makes a veth pair in this thread's namespace that is down.
pub(crate) fn veth_pair_down(one: &VethEnd<'_>, other: &VethEnd<'_>, mtu: u16) {
    let netns = Netns::of_this_thread().or_panic();
    veth::create((&netns, one), (&netns, other), mtu).or_panic();
}

/// Opens queues of a TUN device in this thread's namespace; it is up. A packet that is written to a queue arrives
/// at the device.
pub(crate) fn tun<const QUEUES: usize>(name: &str, kind: TunKind) -> [File; QUEUES] {
    let netns = Netns::of_this_thread().or_panic();
    let queues = [(); QUEUES].map(|()| tun::open(&netns, name, kind).or_panic());
    bring_up(name);
    queues
}

/// Runs a line of `ip` in this thread's namespace.
pub(crate) fn ip(line: &str) {
    Netns::of_this_thread().or_panic().ip(line).or_panic();
}

fn bring_up(name: &str) {
    ip(&format!("link set {name} up"));
}

/// Runs `test` in a namespace with a TAP device [`NEAR`] that is up, with the second of [`MACS`], and its other end.
pub(crate) fn with_tap(test: impl FnOnce(Wire) + Send) {
    in_namespace(|| {
        let [end] = tun(NEAR, TunKind::Tap);
        ip(&format!("link set {NEAR} address {}", MACS.1));
        test(Wire::Tap(end));
    });
}

/// The far end of the wire: sends and receives whole frames.
pub(crate) enum Wire {
    /// At [`FAR`].
    Veth(PacketSocket),
    /// The descriptor of a TAP device.
    Tap(File),
}

/// Of `struct virtio_net_hdr`: virtio 1.2, section 5.1.6.
const VNET_NEEDS_CSUM: u8 = 1;
const VNET_GSO_TCPV4: u8 = 1;

impl Wire {
    pub(crate) fn open() -> Self {
        Self::Veth(PacketSocket::with_vnet_header(FAR).or_panic())
    }

    /// Sends one frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.write(&[0; VNET_HEADER], frame);
    }

    /// Sends an Ethernet, IPv4 and TCP frame with plain headers, up to 64 KB long, as a kernel does
    /// that leaves segmentation to the device. On veth.
    pub(crate) fn send_super_packet(&self, frame: &[u8], segment: u16) {
        let mut header = [0; VNET_HEADER];
        header[0] = VNET_NEEDS_CSUM;
        header[1] = VNET_GSO_TCPV4;
        header[2..4].copy_from_slice(&54_u16.to_ne_bytes());
        header[4..6].copy_from_slice(&segment.to_ne_bytes());
        header[6..8].copy_from_slice(&34_u16.to_ne_bytes());
        header[8..10].copy_from_slice(&16_u16.to_ne_bytes());
        self.write(&header, frame);
    }

    fn write(&self, header: &[u8], frame: &[u8]) {
        match self {
            Self::Veth(socket) => socket.send(&[header, frame].concat()).expect("send a frame"),
            Self::Tap(end) => {
                let mut end: &File = end;
                end.write_all(frame).expect("send a frame");
            }
        }
    }

    /// The next frame that the near end sent; `None` after two seconds without one.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        match self {
            Self::Veth(socket) => {
                let frame = socket.receive(LIMIT).expect("receive a frame")?;
                Some(frame[VNET_HEADER..].to_vec())
            }
            Self::Tap(end) => read_frame(end),
        }
    }

    /// The next frame that `wanted` accepts: namespaces have traffic of their own.
    pub(crate) fn receive_matching(&self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        loop {
            let frame = self.receive()?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }
}

fn read_frame(mut end: &File) -> Option<Vec<u8>> {
    let since = Instant::now();
    let mut frame = vec![0; 2_048];
    while since.elapsed() < LIMIT {
        match end.read(&mut frame) {
            Ok(length) => {
                frame.truncate(length);
                return Some(frame);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("receive a frame: {error}"),
        }
    }
    None
}
