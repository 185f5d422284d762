//! An SCTP server.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use vl3lb_testbed::OrPanic;
use vl3lb_testbed::addresses::Family;
use vl3lb_testbed::node::Node;

use super::association::new_tag;
use super::packet::{Chunk, DATA_HEADER, Packet, kinds};
use super::socket::{Capture, RawSocket};

/// Time between two checks whether to stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// A running server, at an address of each family. It sends each message back with its name in front.
#[derive(Debug)]
pub struct SctpServer {
    stop: Arc<AtomicBool>,
    received: Arc<Mutex<Vec<Chunk>>>,
    threads: Vec<JoinHandle<()>>,
}

impl SctpServer {
    /// Starts a server at `port` of a node.
    pub fn echo(node: &Node, name: &str, port: u16, capture: &Capture) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(Mutex::new(Vec::new()));
        let threads = Family::BOTH.map(|family| {
            let socket = RawSocket::open(&node.netns, node.address(family), STOP_CHECK, capture);
            let mut endpoint = Endpoint {
                name: name.to_owned(),
                port,
                received: Arc::clone(&received),
                associations: HashMap::new(),
            };
            let stop = Arc::clone(&stop);
            let serve = move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some((from, packet)) = socket.receive()
                        && let Some(answer) = endpoint.answer(from, &packet)
                    {
                        socket.send(&answer, from);
                    }
                }
            };
            node.netns.spawn("sctp-server", serve).or_panic()
        });
        Self {
            stop,
            received,
            threads: threads.into(),
        }
    }

    /// The chunks of this kind that it has received.
    pub fn received(&self, kind: u8) -> Vec<Chunk> {
        let received = self.received.lock().expect("no holder panics");
        received
            .iter()
            .filter(|chunk| chunk.kind == kind)
            .cloned()
            .collect()
    }
}

impl Drop for SctpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("an SCTP server panicked");
            }
        }
    }
}

/// The state of one address.
struct Endpoint {
    name: String,
    port: u16,
    received: Arc<Mutex<Vec<Chunk>>>,
    /// The tags of packets to the client and to the server, by the client's address and port.
    associations: HashMap<(IpAddr, u16), (u32, u32)>,
}

impl Endpoint {
    fn answer(&mut self, from: IpAddr, packet: &Packet) -> Option<Packet> {
        if packet.destination_port != self.port {
            return None;
        }
        let received = &mut self.received.lock().expect("no holder panics");
        received.extend(packet.chunks.iter().cloned());
        let client = (from, packet.source_port);
        if let Some(init) = packet.chunk(kinds::INIT) {
            let tag = init.number()?;
            let tags = match self.associations.get(&client) {
                // The same again.
                Some(&known) if known.0 == tag => known,
                _ => (tag, new_tag()),
            };
            self.associations.insert(client, tags);
            // A state cookie, parameter 7.
            let cookie = [0, 7, 0, 8, 1, 2, 3, 4];
            return Some(self.packet(
                client,
                tags.0,
                vec![Chunk::init(kinds::INIT_ACK, tags.1, &cookie)],
            ));
        }
        let &(to_client, to_server) = self.associations.get(&client)?;
        if packet.tag != to_server {
            return None;
        }
        let chunks = packet.chunks.iter().find_map(|chunk| match chunk.kind {
            kinds::COOKIE_ECHO => Some(vec![Chunk::new(kinds::COOKIE_ACK, &[])]),
            kinds::DATA => {
                let sequence = chunk.number()?;
                let payload = [self.name.as_bytes(), b":", chunk.value.get(DATA_HEADER..)?].concat();
                let sack = [&sequence.to_be_bytes()[..], &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
                Some(vec![
                    Chunk::new(kinds::SACK, &sack),
                    Chunk::data(sequence, &payload),
                ])
            }
            kinds::SHUTDOWN => Some(vec![Chunk::new(kinds::SHUTDOWN_ACK, &[])]),
            _ => None,
        })?;
        Some(self.packet(client, to_client, chunks))
    }

    fn packet(&self, client: (IpAddr, u16), tag: u32, chunks: Vec<Chunk>) -> Packet {
        Packet {
            source_port: self.port,
            destination_port: client.1,
            tag,
            chunks,
        }
    }
}
