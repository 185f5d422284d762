//! The reference of fragmented datagrams: what their receivers may get.
//!
//! The first fragment is a packet of its flow like any other. The rest of the datagram goes where the first one did,
//! under the same identification, and nowhere if the first one was dropped.

use std::collections::HashMap;
use std::net::SocketAddr;

use vl3lb_common::{Duration, Protocol, Timestamp};

use super::model::{Flow, Mapping, Nat};
use super::network::{self, Network};
use super::piece::{Name, Piece};
use crate::testing::builder::flags;

/// How long the rest of a datagram is waited for.
const LIFETIME: Duration = Duration::from_secs(3);

/// Datagrams in flight, by what their senders call them.
#[derive(Debug, Default)]
pub(super) struct Datagrams(HashMap<Name, Datagram>);

#[derive(Debug)]
struct Datagram {
    began: Timestamp,
    pieces: Vec<Piece>,
    /// What its translated fragments have in common, since its first one was translated last.
    translated: Option<Name>,
    /// Its first fragment was dropped, and has not come again.
    is_headless: bool,
}

impl Datagrams {
    /// Checks the fragments that came out for one that went in.
    ///
    /// # Panics
    /// When one of them is wrong.
    pub(super) fn check(
        &mut self,
        nat: &mut Nat,
        network: &Network,
        input: &Piece,
        out: &[Piece],
        now: Timestamp,
    ) {
        let datagram = self.0.entry(input.name).or_insert_with(|| Datagram::new(now));
        // Another one under the same name: nobody waits for the rest of the one before.
        if now.since(datagram.began) >= LIFETIME {
            *datagram = Datagram::new(now);
        }
        let is_first = |piece: &Piece| piece.offset == 0;
        if is_first(input) && !datagram.pieces.iter().any(is_first) {
            datagram.is_headless = !out.iter().any(is_first);
        }
        datagram.pieces.push(input.clone());
        // Those that have waited for the first one may come out before it at another worker.
        let (first, rest): (Vec<_>, Vec<_>) = out.iter().partition(|piece| piece.offset == 0);
        for output in first {
            assert!(input.became(output), "{input:?} became {output:?}");
            translated_first(nat, network, input, output, now);
            datagram.translated = Some(output.name);
            datagram.is_headless = false;
            // If the one before was complete, the balancer has begun anew.
            datagram.began = now;
        }
        for output in rest {
            datagram.check_rest(nat, output);
        }
    }
}

impl Datagram {
    const fn new(began: Timestamp) -> Self {
        Self {
            began,
            pieces: Vec::new(),
            translated: None,
            is_headless: false,
        }
    }

    /// A translated fragment behind the first one.
    fn check_rest(&mut self, nat: &Nat, output: &Piece) {
        assert!(
            !self.is_headless,
            "{output:?} came out, and the first one was dropped"
        );
        let known = self.pieces.iter().any(|piece| piece.became(output));
        assert!(known, "{output:?} is no part of {self:?}");
        let receivers: Vec<Name> = self
            .pieces
            .iter()
            .filter_map(|piece| receiver(nat, piece))
            .map(|(from, to)| Name {
                source: from.ip(),
                destination: to.ip(),
                ..output.name
            })
            .collect();
        assert!(
            receivers.contains(&output.name) || self.translated == Some(output.name),
            "{output:?} goes to none of {receivers:?}"
        );
        let translated = self.translated.get_or_insert(output.name);
        assert_eq!(
            *translated, output.name,
            "{output:?} cannot be put together with the first one"
        );
    }
}

/// Where the flow of a first fragment leads now.
fn receiver(nat: &Nat, first: &Piece) -> Option<(SocketAddr, SocketAddr)> {
    let protocol = first.name.protocol;
    let (source, destination) = first.sockets()?;
    let flow = Flow {
        protocol,
        client: source,
        service: destination,
    };
    if let Some(mapping) = nat.mapping(&flow) {
        return Some((mapping.outside, mapping.backend));
    }
    let mapping = Mapping {
        protocol,
        outside: destination,
        backend: source,
    };
    let flow = nat.owner(&mapping)?;
    Some((flow.service, flow.client))
}

fn translated_first(nat: &mut Nat, network: &Network, input: &Piece, output: &Piece, now: Timestamp) {
    let protocol = input.name.protocol;
    let (Some((source, destination)), Some((from, to))) = (input.sockets(), output.sockets()) else {
        panic!("{input:?} has no ports and became {output:?}");
    };
    if network.is_nat_port(from) {
        let service = network::service_at(protocol, destination);
        assert!(
            service.is_some_and(|service| network::serves(service, to)),
            "{input:?} became {output:?}"
        );
        let flow = Flow {
            protocol,
            client: source,
            service: destination,
        };
        let mapping = Mapping {
            protocol,
            outside: from,
            backend: to,
        };
        let opens = protocol == Protocol::Udp || input.flags() & flags::SYN != 0;
        nat.requested(flow, mapping, opens, now);
        if protocol == Protocol::Tcp {
            nat.doubt(&flow);
        }
    } else {
        let flow = Flow {
            protocol,
            client: to,
            service: from,
        };
        let mapping = Mapping {
            protocol,
            outside: destination,
            backend: source,
        };
        nat.replied(&mapping, &flow);
        if protocol == Protocol::Tcp {
            nat.doubt(&flow);
        }
    }
}
