//! A network namespace for one test: it and its devices are gone when the test's thread ends.
#![expect(
    unsafe_code,
    reason = "namespaces, packet sockets and TUN devices have no safe interface"
)]

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo as Info, LinkMessage,
};
use rustix::net::{AddressFamily, SocketType};
use rustix::thread::UnshareFlags;

use super::super::companion::{bring_up, silence_ipv6};
use super::classify::require_root;
use crate::link::netlink::Netlink;

/// Runs `test` in a thread with a network namespace of its own.
pub(super) fn in_new_namespace<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    require_root();
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: the thread leaves its network namespace only; descriptors stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .expect("make a network namespace");
            test()
        });
        thread.join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// One end of a veth pair.
#[derive(Clone, Copy)]
pub(super) struct End {
    pub(super) name: &'static str,
    pub(super) receive_queues: u32,
    pub(super) transmit_queues: u32,
}

impl End {
    pub(super) const fn new(name: &'static str, queues: u32) -> Self {
        Self {
            name,
            receive_queues: queues,
            transmit_queues: queues,
        }
    }
}

/// Makes a veth pair that is up and silent.
pub(super) fn veth(one: End, other: End, mtu: u32) {
    veth_down(one, other, mtu);
    let mut netlink = Netlink::open().unwrap();
    for end in [one, other] {
        let index = link(end.name).unwrap().header.index;
        silence_ipv6(&mut netlink, index).unwrap();
        bring_up(&mut netlink, index).unwrap();
    }
}

/// Makes a veth pair.
pub(super) fn veth_down(one: End, other: End, mtu: u32) {
    let message = |end: End| {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(end.name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NumTxQueues(end.transmit_queues),
            LinkAttribute::NumRxQueues(end.receive_queues),
        ];
        message
    };
    let peer = Info::Data(InfoData::Veth(InfoVeth::Peer(message(other))));
    let mut request = message(one);
    request
        .attributes
        .push(LinkAttribute::LinkInfo(vec![Info::Kind(InfoKind::Veth), peer]));
    let mut netlink = Netlink::open().unwrap();
    netlink
        .change(RouteNetlinkMessage::NewLink(request), NLM_F_CREATE | NLM_F_EXCL)
        .unwrap();
}

/// The interface as the kernel describes it.
pub(super) fn link(name: &str) -> Option<LinkMessage> {
    Netlink::open().unwrap().link(name).unwrap()
}

/// The names of all interfaces.
pub(super) fn link_names() -> Vec<String> {
    Netlink::open().unwrap().link_names().unwrap()
}

/// Sends `frame` out of the Ethernet interface `name`.
pub(super) fn send(name: &str, frame: &[u8]) {
    let socket: OwnedFd = rustix::net::socket(AddressFamily::PACKET, SocketType::RAW, None).unwrap();
    // SAFETY: sockaddr_ll is plain data, for which all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).unwrap();
    address.sll_ifindex = i32::try_from(link(name).unwrap().header.index).unwrap();
    // SAFETY: the buffer and the address live until the call returns, and their lengths are theirs.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const address).cast(),
            u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap(),
        )
    };
    assert_eq!(
        usize::try_from(sent).unwrap(),
        frame.len(),
        "{}",
        std::io::Error::last_os_error()
    );
}

/// Length of the `virtio_net_hdr` before each packet of a TUN device that has one.
pub(super) const VNET_HEADER: usize = 10;

/// Makes a TUN device that is up and silent. What is written to the file comes in at the device.
pub(super) fn tun(name: &str, vnet_header: bool) -> File {
    let file = open_tun(name, if vnet_header { libc::IFF_VNET_HDR } else { 0 });
    let mut netlink = Netlink::open().unwrap();
    let index = link(name).unwrap().header.index;
    silence_ipv6(&mut netlink, index).unwrap();
    bring_up(&mut netlink, index).unwrap();
    file
}

/// Makes a TUN device with two queues that is up. The files are its queues.
pub(super) fn tun_with_two_queues(name: &str) -> [File; 2] {
    let queues = [0, 1].map(|_| open_tun(name, libc::IFF_MULTI_QUEUE));
    bring_up(&mut Netlink::open().unwrap(), link(name).unwrap().header.index).unwrap();
    queues
}

fn open_tun(name: &str, flags: libc::c_int) -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .expect("open /dev/net/tun");
    // SAFETY: ifreq is plain data, for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | flags;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap();
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}
