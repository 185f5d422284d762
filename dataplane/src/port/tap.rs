//! A port that shows every packet to an observer: the place for captures and traces.

use std::os::fd::BorrowedFd;

use vl3lb_common::stats::PortStatistics;

use super::{Frame, Port, fitting_frames, packet_frames};

/// Which way a packet goes, seen from the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Received,
    Transmitted,
}

/// The receiver of a [`Tap`]'s packets. It is called on the packet path, once per packet, and must not block.
pub(crate) trait TapSink {
    /// Sees all frames of one packet.
    fn packet<F: Frame>(&mut self, direction: Direction, packet: &[F]);
}

/// Wraps a port and shows received and transmitted packets to a sink, each packet once.
#[derive(Debug)]
pub(crate) struct Tap<P, S> {
    port: P,
    sink: S,
}

impl<P: Port, S: TapSink> Tap<P, S> {
    /// Shows the packets of `port` to `sink`.
    pub(crate) const fn new(port: P, sink: S) -> Self {
        Self { port, sink }
    }

    fn show(&mut self, direction: Direction, mut frames: &[P::Frame]) {
        while !frames.is_empty() {
            let (packet, rest) = frames.split_at(packet_frames(frames));
            self.sink.packet(direction, packet);
            frames = rest;
        }
    }
}

impl<P: Port, S: TapSink> Port for Tap<P, S> {
    type Frame = P::Frame;

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.port.wait_descriptor()
    }

    fn receive(&mut self, packets: &mut Vec<P::Frame>, budget: usize) -> usize {
        let before = packets.len();
        let received = self.port.receive(packets, budget);
        self.show(Direction::Received, &packets[before..]);
        received
    }

    fn can_transmit(&self) -> bool {
        self.port.can_transmit()
    }

    fn transmit_room(&mut self) -> usize {
        self.port.transmit_room()
    }

    fn transmit(&mut self, packets: &mut Vec<P::Frame>) {
        // Packets that do not fit are shown when they are transmitted.
        let fits = fitting_frames(packets, self.port.transmit_room());
        self.show(Direction::Transmitted, &packets[..fits]);
        self.port.transmit(packets);
    }

    fn is_sendable(&self, packet: &[P::Frame]) -> bool {
        self.port.is_sendable(packet)
    }

    fn deliver(&mut self, packet: &[P::Frame]) -> bool {
        self.sink.packet(Direction::Transmitted, packet);
        self.port.deliver(packet)
    }

    fn allocate(&mut self) -> Option<P::Frame> {
        self.port.allocate()
    }

    fn release(&mut self, frame: P::Frame) {
        self.port.release(frame);
    }

    fn free_frames(&self) -> usize {
        self.port.free_frames()
    }

    fn lacks_frames(&self) -> bool {
        self.port.lacks_frames()
    }

    fn in_flight(&self) -> usize {
        self.port.in_flight()
    }

    fn outstanding<'a>(taps: impl Iterator<Item = &'a Self> + Clone) -> usize
    where
        Self: 'a,
    {
        P::outstanding(taps.map(|tap| &tap.port))
    }

    fn statistics(&self) -> PortStatistics {
        self.port.statistics()
    }
}
