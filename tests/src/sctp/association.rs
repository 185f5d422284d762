//! A client's association.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;

use super::packet::{Chunk, DATA_HEADER, INIT_HEADER, Packet, kinds};
use super::socket::{Capture, RawSocket};
use crate::wait;

/// How long a client waits before it sends again.
const REPEAT: Duration = Duration::from_millis(300);
/// Packets of others that it reads in that time.
const OTHERS: usize = 100;
/// The parameters of INIT that list addresses: a host with several of them.
const LISTED: [u8; 16] = [0, 5, 0, 8, 10, 9, 8, 7, 0, 5, 0, 8, 10, 9, 8, 6];

/// The last tag that was chosen.
static LAST_TAG: AtomicU32 = AtomicU32::new(0x1000);

/// A tag that nobody else has.
pub(super) fn new_tag() -> u32 {
    LAST_TAG.fetch_add(0x0101, Ordering::Relaxed)
}

/// A client's association.
#[derive(Debug)]
pub struct Association {
    socket: RawSocket,
    port: u16,
    to: SocketAddr,
    /// The tags of packets to the client and to the server.
    tags: (u32, u32),
    sequence: u32,
}

impl Association {
    /// Opens an association from `port` by the four-way handshake. The INIT lists addresses of the client.
    ///
    /// # Panics
    /// If it is not open in time.
    pub fn open(node: &Node, port: u16, to: SocketAddr, capture: &Capture) -> Self {
        let local: IpAddr = node.address(Family::of(to.ip()));
        let mut association = Self {
            socket: RawSocket::open(&node.netns, local, REPEAT, capture),
            port,
            to,
            tags: (new_tag(), 0),
            sequence: 1,
        };
        let init = Chunk::init(kinds::INIT, association.tags.0, &LISTED);
        let answer = association.request(init, kinds::INIT_ACK);
        association.tags.1 = answer.number().expect("INIT ACK has a tag");
        let cookie = answer.value.get(INIT_HEADER..).expect("a cookie");
        association.request(Chunk::new(kinds::COOKIE_ECHO, cookie), kinds::COOKIE_ACK);
        association
    }

    /// Sends a message, and returns the next one of the server.
    pub fn ask(&mut self, payload: &[u8]) -> Vec<u8> {
        // A message that was sent again has several answers.
        let sequence = self.sequence;
        self.sequence += 1;
        let answer = self.request_until(Chunk::data(sequence, payload), |chunk| {
            chunk.kind == kinds::DATA && chunk.number() == Some(sequence)
        });
        answer.value[DATA_HEADER..].to_vec()
    }

    /// Closes the association in order.
    pub fn shut_down(self) {
        self.request(Chunk::new(kinds::SHUTDOWN, &[0; 4]), kinds::SHUTDOWN_ACK);
        self.send(Chunk::new(kinds::SHUTDOWN_COMPLETE, &[]), self.tags.1);
    }

    /// Sends an ABORT with another tag, as one who does not see the association.
    pub fn send_forged_abort(&self) {
        self.send(Chunk::new(kinds::ABORT, &[]), self.tags.1 ^ 1);
    }

    /// Waits for the ABORT that ends the association, without sending.
    pub fn wait_abort(&self) {
        wait::until("an ABORT", wait::STEP, || {
            let found = self.next(|chunk| chunk.kind == kinds::ABORT);
            found.map(drop).ok_or("nothing yet")
        });
    }

    fn send(&self, chunk: Chunk, tag: u32) {
        let packet = Packet {
            source_port: self.port,
            destination_port: self.to.port(),
            tag,
            chunks: vec![chunk],
        };
        self.socket.send(&packet, self.to.ip());
    }

    /// Sends a chunk until a chunk of this kind answers it.
    fn request(&self, chunk: Chunk, answer: u8) -> Chunk {
        self.request_until(chunk, |chunk| chunk.kind == answer)
    }

    /// Sends a chunk until such a chunk answers it.
    fn request_until(&self, chunk: Chunk, is_answer: impl Fn(&Chunk) -> bool) -> Chunk {
        wait::until("an answer of the SCTP server", wait::STEP, || {
            self.send(chunk.clone(), self.tags.1);
            self.next(&is_answer)
                .ok_or_else(|| format!("no answer to {chunk:?}"))
        })
    }

    /// The next such chunk for this association.
    fn next(&self, is_it: impl Fn(&Chunk) -> bool) -> Option<Chunk> {
        for _ in 0..OTHERS {
            let (from, packet) = self.socket.receive()?;
            let is_own = from == self.to.ip()
                && (packet.source_port, packet.destination_port) == (self.to.port(), self.port)
                && packet.tag == self.tags.0;
            if let Some(chunk) = packet.chunks.into_iter().find(|chunk| is_own && is_it(chunk)) {
                return Some(chunk);
            }
        }
        None
    }
}
