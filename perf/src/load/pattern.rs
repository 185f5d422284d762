//! The flow of each packet.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rand_distr::Distribution as _;
use rand_distr::weighted::WeightedAliasIndex;

/// How packets are spread over flows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Spread {
    /// Random, with equal shares.
    Uniform,
    /// Random; the flow of rank k has a share proportional to 1 / k^s.
    Zipf(f64),
    /// One flow after the other.
    Sequential,
}

/// An endless, seeded sequence of flows: those of one thread.
#[derive(Debug)]
pub(crate) struct Pattern {
    random: StdRng,
    flows: u32,
    rule: Rule,
    share: f64,
}

#[derive(Debug)]
enum Rule {
    Uniform,
    Weighted(WeightedAliasIndex<f64>),
    Sequential { next: u32 },
}

impl Pattern {
    /// The flows of `thread` of `threads`: those of rank thread, thread + threads, ... of `flows` in all,
    /// numbered from 0 here. O(flows).
    pub(crate) fn new(spread: Spread, flows: u32, thread: u32, threads: u32, seed: u64) -> Self {
        let ranks = || (thread..flows).step_by(threads as usize);
        let own = flows.saturating_sub(thread).div_ceil(threads);
        let weight = |rank: u32| match spread {
            Spread::Uniform | Spread::Sequential => 1.0,
            Spread::Zipf(exponent) => (f64::from(rank) + 1.0).powf(-exponent),
        };
        let total: f64 = (0..flows).map(weight).sum();
        let share = ranks().map(weight).sum::<f64>() / total;
        let rule = match spread {
            Spread::Uniform => Rule::Uniform,
            Spread::Zipf(_) => Rule::Weighted(
                WeightedAliasIndex::new(ranks().map(weight).collect())
                    .expect("weights are positive and finite"),
            ),
            Spread::Sequential => Rule::Sequential { next: 0 },
        };
        Self {
            random: StdRng::seed_from_u64(seed.wrapping_add(thread.into())),
            flows: own,
            rule,
            share,
        }
    }

    /// This thread's part of all packets.
    pub(crate) const fn share(&self) -> f64 {
        self.share
    }

    /// Number of this thread's flows.
    pub(crate) const fn flows(&self) -> u32 {
        self.flows
    }

    /// The next packet's flow. O(1).
    pub(crate) fn next_flow(&mut self) -> u32 {
        match &mut self.rule {
            Rule::Uniform => self.random.random_range(0..self.flows),
            #[expect(clippy::cast_possible_truncation, reason = "an index below `flows`")]
            Rule::Weighted(weights) => weights.sample(&mut self.random) as u32,
            Rule::Sequential { next } => {
                let flow = *next;
                *next = if flow + 1 == self.flows { 0 } else { flow + 1 };
                flow
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(mut pattern: Pattern, draws: u32) -> Vec<f64> {
        let mut counts = vec![0_u32; pattern.flows() as usize];
        for _ in 0..draws {
            counts[pattern.next_flow() as usize] += 1;
        }
        counts
            .iter()
            .map(|&count| f64::from(count) / f64::from(draws))
            .collect()
    }

    #[test]
    fn uniform_flows_have_equal_shares() {
        for share in shares(Pattern::new(Spread::Uniform, 10, 0, 1, 1), 100_000) {
            assert!((share - 0.1).abs() < 0.01, "{share}");
        }
    }

    #[test]
    fn sequential_flows_repeat_in_their_order() {
        let mut pattern = Pattern::new(Spread::Sequential, 3, 0, 1, 1);
        let flows: Vec<u32> = (0..7).map(|_| pattern.next_flow()).collect();
        assert_eq!(flows, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn zipf_shares_fall_with_the_rank() {
        let shares = shares(Pattern::new(Spread::Zipf(1.0), 100, 0, 1, 1), 1_000_000);
        let harmonic: f64 = (1..=100).map(|rank| 1.0 / f64::from(rank)).sum();
        for (rank, share) in (1..=10).zip(shares) {
            let expected = 1.0 / f64::from(rank) / harmonic;
            assert!(
                (share - expected).abs() < 0.05 * expected,
                "{rank}: {share}, expected {expected}"
            );
        }
    }

    #[test]
    fn threads_share_all_flows_and_all_packets() {
        for spread in [Spread::Uniform, Spread::Zipf(1.2)] {
            let patterns: Vec<_> = (0..3)
                .map(|thread| Pattern::new(spread, 10, thread, 3, 1))
                .collect();
            let flows: Vec<_> = patterns.iter().map(Pattern::flows).collect();
            assert_eq!(flows, [4, 3, 3]);
            let total: f64 = patterns.iter().map(Pattern::share).sum();
            assert!((total - 1.0).abs() < 1e-9, "{total}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let draw = |seed| {
            let mut pattern = Pattern::new(Spread::Zipf(0.8), 1000, 0, 1, seed);
            (0..100).map(|_| pattern.next_flow()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
