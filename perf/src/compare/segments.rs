//! UDP super-packets (udp(7), UDP_SEGMENT), as QUIC stacks send them: one sender as fast as it can, and a receiver that
//! looks at every datagram.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};

use crate::failure::Failure;
use crate::net::{BALANCER_ADDRESS, Netns};

use super::services::SEGMENTS;

/// Bytes of a datagram, and datagrams of a super-packet.
const DATAGRAM: usize = 1200;
const COUNT: usize = 42;
/// Room for the longest super-packet.
const LONGEST: usize = 1 << 16;
/// So that the receiver misses little while it waits for a core.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How long the receiver goes on after the sender.
const READ_TIMEOUT: Duration = Duration::from_millis(100);

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Received {
    pub(super) datagrams: u64,
    /// Datagrams that nobody has sent so.
    pub(super) wrong: u64,
}

impl Received {
    pub(super) fn bits(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let datagrams = self.datagrams as f64;
        datagrams * 8.0 * DATAGRAM as f64
    }

    /// Looks at what one call has received: datagrams of `size` bytes, the last one perhaps shorter.
    fn take(&mut self, bytes: &[u8], size: usize) {
        for datagram in bytes.chunks(size.max(1)) {
            if is_right(datagram) {
                self.datagrams += 1;
            } else {
                self.wrong += 1;
            }
        }
    }
}

/// Sends from `client` to the service for `duration`, and returns what arrived at `backends` in that time.
pub(super) fn measure(client: &Netns, backends: &Netns, duration: Duration) -> Result<Received, Failure> {
    let failed = |attempt: &'static str| Failure::system::<io::Error>(attempt);
    let receiver = backends
        .run(receiver)
        .map_err(failed("open a receiver of UDP_GRO"))?;
    let sender = client
        .run(sender)
        .map_err(failed("open a sender of UDP_SEGMENT"))?;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let received = scope.spawn(|| receive(&receiver, &is_over));
        send(&sender, duration);
        is_over.store(true, Ordering::Relaxed);
        received.join().map_err(|_| Failure::Panicked("receiver"))
    })?
    .map_err(failed("receive datagrams"))
}

fn receiver() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, SEGMENTS.target_port))?;
    setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(READ_TIMEOUT))?;
    Ok(socket)
}

fn sender() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let segment = i32::try_from(DATAGRAM).map_err(io::Error::other)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &segment)?;
    socket.connect(SocketAddrV4::new(BALANCER_ADDRESS, SEGMENTS.port))?;
    Ok(socket)
}

/// A number in front, and its complement at the end.
fn write(datagram: &mut [u8], number: u64) {
    if let Some(front) = datagram.first_chunk_mut() {
        *front = number.to_le_bytes();
    }
    if let Some(end) = datagram.last_chunk_mut() {
        *end = (!number).to_le_bytes();
    }
}

fn is_right(datagram: &[u8]) -> bool {
    let number = |bytes: Option<&[u8; 8]>| bytes.map(|bytes| u64::from_le_bytes(*bytes));
    let (front, end) = (number(datagram.first_chunk()), number(datagram.last_chunk()));
    datagram.len() == DATAGRAM && front.map(|front| !front) == end
}

/// Loss is no error here: it is what the rate shows.
fn send(socket: &UdpSocket, duration: Duration) {
    let mut packet = [0; DATAGRAM * COUNT];
    let mut number = 0;
    let start = Instant::now();
    while start.elapsed() < duration {
        for datagram in packet.chunks_mut(DATAGRAM) {
            write(datagram, number);
            number += 1;
        }
        socket.send(&packet).ok();
    }
}

/// Counts until nothing arrives any more after the end.
fn receive(socket: &UdpSocket, is_over: &AtomicBool) -> io::Result<Received> {
    let mut buffer = vec![0; LONGEST];
    let mut control = nix::cmsg_space!(i32);
    let mut received = Received::default();
    loop {
        let mut into = [IoSliceMut::new(&mut buffer)];
        let message = match recvmsg::<SockaddrIn>(
            socket.as_raw_fd(),
            &mut into,
            Some(&mut control),
            MsgFlags::empty(),
        ) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN) if is_over.load(Ordering::Relaxed) => return Ok(received),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let size = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        });
        let length = message.bytes;
        received.take(&buffer[..length], size.unwrap_or(length));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet() -> Vec<u8> {
        let mut packet = vec![0; 3 * DATAGRAM];
        for (datagram, number) in packet.chunks_mut(DATAGRAM).zip(7..) {
            write(datagram, number);
        }
        packet
    }

    #[test]
    fn only_whole_datagrams_are_right() {
        let packet = packet();
        for (bytes, size, datagrams, wrong) in [
            (&packet[..], DATAGRAM, 3, 0),
            (&packet[..DATAGRAM], DATAGRAM, 1, 0),
            // Merged: as one, and with another size.
            (&packet[..], packet.len(), 0, 1),
            (&packet[..], 2 * DATAGRAM, 1, 1),
            // Cut.
            (&packet[..DATAGRAM - 1], DATAGRAM - 1, 0, 1),
            (&packet[..2 * DATAGRAM - 1], DATAGRAM, 1, 1),
            // Shifted.
            (&packet[1..=DATAGRAM], DATAGRAM, 0, 1),
        ] {
            let mut received = Received::default();
            received.take(bytes, size);
            assert_eq!(received, Received { datagrams, wrong }, "{} {size}", bytes.len());
        }
    }
}
