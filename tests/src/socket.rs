//! Sockets with options that the standard library does not offer.
#![expect(unsafe_code, reason = "UDP_SEGMENT has no safe interface")]

use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_reuseaddr, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Receives one datagram. A signal, or a pause of the whole machine, interrupts a receive with a time-out; it is
/// repeated.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Connects over TCP from `from` (port 0: any), within `limit`. Reads and writes keep `limit` as their
/// time-out.
pub fn connect_tcp(from: SocketAddr, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    // A program that another test starts meanwhile must not keep the connection open.
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_reuseaddr(&socket, true)?;
    // The sending time-out bounds connect(2) too: socket(7).
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(limit))?;
    rustix::net::bind(&socket, &from)?;
    rustix::net::connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Makes every send on `socket` a super-packet that the kernel or the device segments into datagrams of `size`
/// bytes: udp(7), UDP_SEGMENT.
pub fn set_udp_segment(socket: &UdpSocket, size: u16) -> io::Result<()> {
    let value = libc::c_int::from(size);
    let length = size_of_val(&value).try_into().expect("a small option");
    // SAFETY: the pointer and the length are those of `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const value).cast(),
            length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
