//! An AF_XDP socket that receives, with memory of its own.
#![expect(unsafe_code, reason = "the rings of xsk-rs are unsafe")]

use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::super::Steer;

const FRAMES: u32 = 256;

pub(super) struct Receiver {
    umem: Umem,
    rx: RxQueue,
    _tx: TxQueue,
    _rings: (FillQueue, CompQueue),
}

impl Receiver {
    /// Binds to `queue` of the receive interface and registers the socket.
    pub(super) fn bind(steer: &mut Steer, queue: u32) -> Self {
        let (umem, frames) = Umem::new(UmemConfig::default(), FRAMES.try_into().unwrap(), false).unwrap();
        let config = SocketConfig::builder()
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        let interface = steer.receive_interface().parse().unwrap();
        // SAFETY: the memory is not shared with another socket.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &interface, queue) }.unwrap();
        let mut rings = rings.unwrap();
        // SAFETY: the frames belong to this memory and are in no other ring.
        let filled = unsafe { rings.0.produce(&frames) };
        assert_eq!(filled, frames.len());
        // SAFETY: the socket stays open as long as `rx`.
        let descriptor = unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) };
        steer.register_socket(queue, descriptor).unwrap();
        Self {
            umem,
            rx,
            _tx: tx,
            _rings: rings,
        }
    }

    /// The next frame, waited for up to `timeout_ms`.
    pub(super) fn receive(&mut self, timeout_ms: i32) -> Option<Vec<u8>> {
        let mut frame = FrameDesc::default();
        // SAFETY: frames that are received are read here only, and never given back.
        let received = unsafe { self.rx.poll_and_consume_one(&mut frame, timeout_ms) }.unwrap();
        // SAFETY: the frame was just received from this memory and is in no ring.
        (received == 1).then(|| unsafe { self.umem.data(&frame) }.contents().to_vec())
    }
}
