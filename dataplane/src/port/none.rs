//! The port of a worker while the data plane is detached.

use super::{Frame, Port};

/// A port without queues and frames: it neither receives nor transmits.
#[derive(Debug, Default)]
pub(crate) struct NoPort;

/// A frame that cannot exist.
#[derive(Debug)]
pub(crate) enum NoFrame {}

impl Frame for NoFrame {
    fn bytes(&self) -> &[u8] {
        match *self {}
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match *self {}
    }

    fn capacity(&self) -> usize {
        match *self {}
    }

    fn set_len(&mut self, _: usize) {
        match *self {}
    }

    fn continues(&self) -> bool {
        match *self {}
    }

    fn set_continues(&mut self, _: bool) {
        match *self {}
    }
}

impl Port for NoPort {
    type Frame = NoFrame;

    fn receive(&mut self, _: &mut Vec<NoFrame>, _: usize) -> usize {
        0
    }

    fn transmit_room(&mut self) -> usize {
        0
    }

    fn transmit(&mut self, _: &mut Vec<NoFrame>) {}

    fn allocate(&mut self) -> Option<NoFrame> {
        None
    }

    fn release(&mut self, frame: NoFrame) {
        match frame {}
    }

    fn free_frames(&self) -> usize {
        0
    }

    fn outstanding<'a>(_: impl Iterator<Item = &'a Self> + Clone) -> usize {
        0
    }
}
