//! Packet sockets, which send and receive whole frames at one interface: packet(7).
#![expect(unsafe_code, reason = "packet sockets have no safe interface")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use crate::TestbedError;
use crate::tun::VNET_HEADER;

/// The longest frame, a super-packet of 64 KB, with its `virtio_net_hdr`.
const BUFFER: usize = VNET_HEADER + 65_536;

/// An open socket, bound to one interface.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// Opens a socket that sends frames out of `interface` of the calling thread's namespace.
    pub fn sender(interface: &str) -> Result<Self, TestbedError> {
        let open = || Self::open(interface, 0);
        open().map_err(TestbedError::system(attempt(interface)))
    }

    /// Opens a socket that sends frames, and receives those that arrive, each with a `virtio_net_hdr`.
    pub fn with_vnet_header(interface: &str) -> Result<Self, TestbedError> {
        let open = || {
            let socket = Self::open(interface, libc::ETH_P_ALL)?;
            socket.set_option(libc::PACKET_VNET_HDR)?;
            socket.set_option(libc::PACKET_IGNORE_OUTGOING)?;
            Ok(socket)
        };
        open().map_err(TestbedError::system::<io::Error>(attempt(interface)))
    }

    /// Sends one frame. The kernel refuses frames shorter than an Ethernet header (EINVAL) and longer than the
    /// interface's MTU allows (EMSGSIZE).
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, frame, SendFlags::empty())?;
        Ok(())
    }

    /// The next frame; none after `limit`.
    pub fn receive(&self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&limit))? == 0 {
            return Ok(None);
        }
        let mut buffer = vec![0; BUFFER];
        let length = rustix::io::read(&self.0, &mut buffer)?;
        buffer.truncate(length);
        Ok(Some(buffer))
    }

    fn open(interface: &str, protocol: libc::c_int) -> io::Result<Self> {
        let socket =
            rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let index = rustix::net::netdevice::name_to_index(&socket, interface)?;
        // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET.try_into().expect("a small constant");
        address.sll_protocol = u16::try_from(protocol).expect("a small constant").to_be();
        address.sll_ifindex = index.try_into().map_err(io::Error::other)?;
        // SAFETY: the pointer and the length are those of `address`, which lives through the call.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address).try_into().expect("a small struct"),
            )
        };
        if result == 0 {
            Ok(Self(socket))
        } else {
            Err(io::Error::last_os_error())
        }
    }

    fn set_option(&self, option: libc::c_int) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the pointer and the length are those of `on`, which lives through the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_PACKET,
                option,
                (&raw const on).cast(),
                size_of_val(&on).try_into().expect("a small option"),
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

fn attempt(interface: &str) -> String {
    format!("open a packet socket at {interface}")
}
