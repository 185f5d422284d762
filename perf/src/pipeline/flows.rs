//! The flows of the benchmark: who the clients are, which flow a packet belongs to, and how the
//! engine translated each flow.

use std::net::{Ipv4Addr, SocketAddrV4};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::{Distribution as _, Zipf};

use super::world::{BACKEND_PORT, OWN_ADDRESS};
use crate::args::Distribution;

/// Flows of one client address.
const PORTS_PER_CLIENT: u32 = 256;
const FIRST_CLIENT_PORT: u16 = 40_000;

/// The client's end of flow `number`: 256 flows for each address from 10.0.0.1 on.
pub(super) fn client(number: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::new(10, 0, 0, 1).to_bits() + number / PORTS_PER_CLIENT;
    let port = u16::try_from(number % PORTS_PER_CLIENT).expect("below 256") + FIRST_CLIENT_PORT;
    SocketAddrV4::new(Ipv4Addr::from_bits(address), port)
}

/// How the engine translated a flow: what its replies need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Translated {
    backend: Ipv4Addr,
    nat_port: u16,
}

impl Translated {
    /// From source and destination of a request as it left the balancer.
    pub(super) fn from_request(source: SocketAddrV4, destination: SocketAddrV4) -> Self {
        Self {
            backend: *destination.ip(),
            nat_port: source.port(),
        }
    }

    /// Source and destination of a reply.
    pub(super) const fn reply(self) -> (SocketAddrV4, SocketAddrV4) {
        let backend = SocketAddrV4::new(self.backend, BACKEND_PORT);
        (backend, SocketAddrV4::new(OWN_ADDRESS, self.nat_port))
    }
}

/// Says which flow comes next.
pub(super) struct Picker {
    flows: u32,
    rule: Rule,
    random: StdRng,
}

enum Rule {
    Uniform,
    Zipf(Zipf<f64>),
    Sequential { next: u32 },
}

impl Picker {
    pub(super) fn new(distribution: Distribution, flows: u32, seed: u64) -> Self {
        let rule = match distribution {
            Distribution::Uniform => Rule::Uniform,
            Distribution::Zipf => Rule::Zipf(
                Zipf::new(f64::from(flows), 1.0).expect("at least one flow and a positive exponent"),
            ),
            Distribution::Sequential => Rule::Sequential { next: 0 },
        };
        Self {
            flows,
            rule,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// The next packet's flow.
    pub(super) fn pick(&mut self) -> u32 {
        match &mut self.rule {
            Rule::Uniform => self.random.random_range(0..self.flows),
            Rule::Zipf(zipf) => scatter(zipf.sample(&mut self.random), self.flows),
            Rule::Sequential { next } => {
                let flow = *next;
                *next = if flow + 1 == self.flows { 0 } else { flow + 1 };
                flow
            }
        }
    }
}

/// The flow with this popularity, 1 for the most popular: popular flows are not neighbours in the
/// table.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "ranks are 1 to the number of flows, remainders are below it"
)]
fn scatter(rank: f64, flows: u32) -> u32 {
    /// A prime above the largest number of flows, so that no two ranks meet.
    const PRIME: u64 = 2_654_435_761;
    ((rank as u64 - 1) * PRIME % u64::from(flows)) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn picks(distribution: Distribution, flows: u32, count: usize) -> Vec<u32> {
        let mut picker = Picker::new(distribution, flows, 1);
        (0..count).map(|_| picker.pick()).collect()
    }

    #[test]
    fn clients_differ() {
        let ends: HashSet<SocketAddrV4> = (0..100_000).map(client).collect();
        assert_eq!(ends.len(), 100_000);
    }

    #[test]
    fn sequential_goes_round() {
        assert_eq!(picks(Distribution::Sequential, 3, 7), [0, 1, 2, 0, 1, 2, 0]);
        assert_eq!(picks(Distribution::Sequential, 1, 2), [0, 0]);
    }

    #[test]
    fn uniform_and_zipf_stay_within_the_flows_and_differ_in_skew() {
        let share_of_most_popular = |distribution| {
            let picks = picks(distribution, 1000, 100_000);
            let mut counts = vec![0_u32; 1000];
            picks.iter().for_each(|&flow| counts[flow as usize] += 1);
            f64::from(*counts.iter().max().unwrap()) / 100_000.0
        };
        assert!(share_of_most_popular(Distribution::Uniform) < 0.002);
        // 1 / (1 + 1/2 + ... + 1/1000) = 0.134
        let popular = share_of_most_popular(Distribution::Zipf);
        assert!((0.12..0.15).contains(&popular), "{popular}");
    }

    #[test]
    fn every_rank_is_another_flow() {
        let flows: HashSet<u32> = (1..=1000).map(|rank| scatter(f64::from(rank), 1000)).collect();
        assert_eq!(flows.len(), 1000);
    }
}
