//! The UDP echo.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

use super::{LOOK, stopped};

/// The longest datagram.
const LONGEST: usize = 65_536;
/// Bytes that may wait in the socket, if the kernel allows it (net.core.rmem_max).
const BUFFER: usize = 4 << 20;

/// A socket that shares its port with those of other threads; the kernel spreads flows over them.
pub(super) fn open(listen: SocketAddr) -> io::Result<UdpSocket> {
    let family = if listen.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
    bind(&socket, &listen)?;
    let socket = UdpSocket::from(socket);
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

/// Sends every datagram back where it came from.
pub(super) fn serve(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; LONGEST];
    while !stopped(stop) {
        // An error is a time-out, a signal, or an ICMP error about an answer: the next datagram counts.
        let Ok((len, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        // What cannot be sent is lost, as on any network; the other side counts it.
        drop(socket.send_to(&buffer[..len], from));
    }
}
