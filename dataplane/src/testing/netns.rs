//! Temporary network namespaces with a veth pair, for tests against the kernel. They fail without root.
#![expect(
    unsafe_code,
    reason = "packet sockets and namespaces have no safe interface here"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::thread;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::builder::MACS;

/// The balancer's end of the pair, and the end where tests send and receive.
pub(crate) const NEAR: &str = "lb0";
pub(crate) const FAR: &str = "peer0";

/// Runs `test` in a thread with a network namespace of its own, in which [`NEAR`] and [`FAR`] are
/// up with `queues` queues each, and [`MACS`] are their addresses. The namespace goes when the thread does.
pub(crate) fn with_veth(queues: u32, test: impl FnOnce() + Send + 'static) {
    in_namespace(move || {
        ip(&["link", "set", "lo", "up"]);
        remake_veth(queues);
        test();
    });
}

/// Makes the pair of [`with_veth`] in this thread's namespace, for instance after it was deleted.
pub(crate) fn remake_veth(queues: u32) {
    let queues = queues.to_string();
    let end = ["numrxqueues", &queues, "numtxqueues", &queues];
    ip(&[
        &["link", "add", NEAR],
        &end[..],
        &["type", "veth", "peer", "name", FAR],
        &end[..],
    ]
    .concat());
    for (name, mac) in [(NEAR, MACS.1), (FAR, MACS.0)] {
        ip(&["link", "set", name, "address", &mac.to_string(), "up"]);
    }
}

/// Runs `test` in a thread with an empty network namespace of its own; panics if it does.
pub(crate) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        // SAFETY: affects this thread only, which has no other user of its namespaces.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(
            result,
            0,
            "make a network namespace (root is needed): {}",
            io::Error::last_os_error()
        );
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs `ip` in this thread's namespace.
pub(crate) fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("run ip (install iproute2)");
    assert!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The far end of the wire: a packet socket that sends and receives whole frames.
pub(crate) struct Wire {
    socket: OwnedFd,
}

/// `struct virtio_net_hdr`: offloads that a frame needs (virtio 1.2, section 5.1.6).
const VNET_HEADER: usize = 10;
const VNET_NEEDS_CSUM: u8 = 1;
const VNET_GSO_TCPV4: u8 = 1;

impl Wire {
    /// All frames of [`FAR`].
    pub(crate) fn open() -> Self {
        let all = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: creates a descriptor, no memory is involved.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(all)) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: just created, nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let wire = Self { socket };
        wire.set_option(libc::PACKET_VNET_HDR);
        wire.set_option(libc::PACKET_IGNORE_OUTGOING);

        let name = std::ffi::CString::new(FAR).unwrap();
        // SAFETY: the name ends with 0 and lives across the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let address = libc::sockaddr_ll {
            sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
            sll_protocol: all,
            sll_ifindex: i32::try_from(index).unwrap(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = u32::try_from(size_of_val(&address)).unwrap();
        // SAFETY: `address` lives across the call and has `len` bytes.
        let result = unsafe { libc::bind(wire.socket.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(result, 0, "bind to {FAR}: {}", io::Error::last_os_error());
        wire
    }

    fn set_option(&self, option: i32) {
        let on = 1_i32;
        // SAFETY: `on` lives across the call and has the length given.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                4,
            )
        };
        assert_eq!(
            result,
            0,
            "packet socket option {option}: {}",
            io::Error::last_os_error()
        );
    }

    /// Sends one frame as it is.
    pub(crate) fn send(&self, frame: &[u8]) {
        self.write(&[0; VNET_HEADER], frame);
    }

    /// Sends an Ethernet, IPv4 and TCP frame with plain headers, up to 64 KB long, as a kernel does
    /// that leaves segmentation to the device.
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
        let bytes = [header, frame].concat();
        let written = rustix::io::write(&self.socket, &bytes).expect("send on a packet socket");
        assert_eq!(written, bytes.len());
    }

    /// The next frame that the near end sent; `None` after two seconds without one.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        let limit = Timespec {
            tv_sec: 2,
            tv_nsec: 0,
        };
        if poll(&mut fds, Some(&limit)).unwrap() == 0 {
            return None;
        }
        let mut bytes = vec![0; VNET_HEADER + (1 << 16)];
        let len = rustix::io::read(&self.socket, &mut bytes).unwrap();
        Some(bytes[VNET_HEADER..len].to_vec())
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
