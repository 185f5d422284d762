//! The descriptor of a TUN device as a port of the tester: one system call for each packet.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use vl3lb_dataplane::{Frame, Port};
use vl3lb_testbed::tun::VNET_HEADER;

/// Bytes of a frame behind the device's header; the tester's are short.
const CAPACITY: usize = 2048;

/// Packets written to and read from a TUN device with `virtio_net_hdr`.
#[derive(Debug)]
pub(super) struct TunPort {
    device: File,
    free: Vec<TunFrame>,
}

/// Memory for the device's header and a packet.
#[derive(Debug)]
pub(super) struct TunFrame {
    bytes: Box<[u8; VNET_HEADER + CAPACITY]>,
    len: usize,
}

impl TunPort {
    /// `device` does not block.
    pub(super) fn new(device: File, frames: usize) -> Self {
        let frame = || TunFrame {
            bytes: Box::new([0; VNET_HEADER + CAPACITY]),
            len: 0,
        };
        Self {
            device,
            free: std::iter::repeat_with(frame).take(frames).collect(),
        }
    }
}

impl Frame for TunFrame {
    fn bytes(&self) -> &[u8] {
        &self.bytes[VNET_HEADER..][..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[VNET_HEADER..][..self.len]
    }

    fn capacity(&self) -> usize {
        CAPACITY
    }

    fn set_len(&mut self, len: usize) {
        self.len = len.min(CAPACITY);
    }

    fn continues(&self) -> bool {
        false
    }

    fn set_continues(&mut self, _: bool) {}
}

impl Port for TunPort {
    type Frame = TunFrame;

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.device.as_fd())
    }

    fn receive(&mut self, packets: &mut Vec<TunFrame>, budget: usize) -> usize {
        for count in 0..budget {
            let Some(mut frame) = self.free.pop() else {
                return count;
            };
            // An error: no packet is there.
            let Ok(length) = self.device.read(&mut frame.bytes[..]) else {
                self.free.push(frame);
                return count;
            };
            frame.len = length.saturating_sub(VNET_HEADER);
            packets.push(frame);
        }
        budget
    }

    fn transmit_room(&mut self) -> usize {
        usize::MAX
    }

    fn transmit(&mut self, packets: &mut Vec<TunFrame>) {
        for mut frame in packets.drain(..) {
            // No offload: checksums are complete.
            frame.bytes[..VNET_HEADER].fill(0);
            // A packet that a device does not take, as while it is down, is lost and counted by the caller.
            self.device
                .write_all(&frame.bytes[..VNET_HEADER + frame.len])
                .ok();
            self.free.push(frame);
        }
    }

    fn allocate(&mut self) -> Option<TunFrame> {
        self.free.pop()
    }

    fn release(&mut self, frame: TunFrame) {
        self.free.push(frame);
    }

    fn free_frames(&self) -> usize {
        self.free.len()
    }

    fn outstanding<'a>(_: impl Iterator<Item = &'a Self> + Clone) -> usize {
        0
    }
}
