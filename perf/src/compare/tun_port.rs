//! The descriptor of a TUN device as a port of the tester.
//!
//! The tester's frames begin with an Ethernet header. Here it is room that nobody sees: in front of what is read, and
//! taken off what is written; the device's own header (`virtio_net_hdr`) takes its place.

use std::fs::File;
use std::io::{Read, Write};

use vl3lb_dataplane::port::{Frame, Port};
use vl3lb_testbed::tun::VNET_HEADER;

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// Where the device's header begins: right before the packet.
const START: usize = ETHERNET - VNET_HEADER;
/// Bytes of a frame; the tester's are short.
const CAPACITY: usize = 2048;

/// Packets written to and read from a TUN device, one system call for each.
#[derive(Debug)]
pub(crate) struct TunPort {
    device: File,
    free: Vec<TunFrame>,
}

/// A piece of memory.
#[derive(Debug)]
pub(crate) struct TunFrame {
    bytes: Box<[u8; CAPACITY]>,
    len: usize,
}

impl TunPort {
    /// `device` does not block. There are `frames` frames.
    pub(crate) fn new(device: File, frames: usize) -> Self {
        let frame = || TunFrame {
            bytes: Box::new([0; CAPACITY]),
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
        &self.bytes[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
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

    fn receive(&mut self, packets: &mut Vec<TunFrame>, budget: usize) -> usize {
        for count in 0..budget {
            let Some(mut frame) = self.free.pop() else {
                return count;
            };
            match self.device.read(&mut frame.bytes[START..]) {
                Ok(length) => {
                    frame.len = START + length;
                    packets.push(frame);
                }
                // Nothing there.
                Err(_) => {
                    self.free.push(frame);
                    return count;
                }
            }
        }
        budget
    }

    fn transmit_room(&mut self) -> usize {
        usize::MAX
    }

    fn transmit(&mut self, packets: &mut Vec<TunFrame>) {
        for mut frame in packets.drain(..) {
            if frame.len >= ETHERNET {
                // No offload is asked for: the checksum is complete.
                frame.bytes[START..ETHERNET].fill(0);
                // A device that is down takes nothing: lost, and counted as that by whoever waits for it.
                self.device.write_all(&frame.bytes[START..frame.len]).ok();
            }
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
