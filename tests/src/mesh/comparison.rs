//! What a fault does to a connection through the balancer, beside one past it between two clients of the SDK.

use std::time::Duration;

use vl3lb_testbed::Netns;

use super::balancer::MeshBalancer;
use super::client::MeshClient;
use super::server::MeshServer;
use super::traffic::{Traffic, retransmissions};

/// Segments that kernels send again without a loss when a machine with two cores is late: tail loss probes.
const SPURIOUS: u64 = 3;
/// A connection with one message on its way stands still for at least 200 ms when a packet is lost.
const LATE: Duration = Duration::from_secs(1);

/// Two open connections. Dropping it ends them.
#[derive(Debug)]
pub struct Comparison {
    balanced: Side,
    direct: Side,
}

#[derive(Debug)]
struct Side {
    traffic: Traffic,
    pods: Vec<Netns>,
    /// Retransmissions of the pods before.
    before: u64,
}

impl Comparison {
    /// Opens one from `client` through the balancer to one of `servers`, and one from `bystander` to `other`, which
    /// is none of the balancer's servers.
    pub fn start(
        (client, balancer, servers): (&MeshClient<'_>, &MeshBalancer, &[MeshServer<'_>]),
        (bystander, other): (&MeshClient<'_>, &MeshServer<'_>),
    ) -> Self {
        let pods = |own: &MeshClient<'_>, servers: &[&MeshServer<'_>]| {
            let servers = servers.iter().map(|server| &server.client);
            servers.chain([own]).map(|client| client.netns.clone()).collect()
        };
        Self {
            balanced: Side::new(
                Traffic::start(&client.netns, balancer.address()),
                pods(client, &servers.iter().collect::<Vec<_>>()),
            ),
            direct: Side::new(
                Traffic::start_directly(&bystander.netns, other),
                pods(bystander, &[other]),
            ),
        }
    }

    /// The connection through the balancer.
    pub fn balanced(&self) -> &Traffic {
        &self.balanced.traffic
    }

    /// Waits until both carry more messages; panics if one broke or stands still.
    pub fn goes_on(&self) {
        self.balanced.traffic.goes_on(20);
        self.direct.traffic.goes_on(20);
    }

    /// Ends them; panics if the balancer lost what the network did not lose.
    pub fn finish(self, fault: &str) {
        let (balanced, direct) = (self.balanced.finish(), self.direct.finish());
        let text = format!("{fault}: balanced {balanced:?}, direct {direct:?}");
        println!("{text}");
        assert!(
            balanced.retransmissions <= direct.retransmissions + SPURIOUS,
            "{text}"
        );
        assert!(balanced.longest <= direct.longest + LATE, "{text}");
    }
}

/// What a connection suffered.
#[derive(Debug)]
struct Suffered {
    retransmissions: u64,
    /// The longest time that an echo took.
    longest: Duration,
}

impl Side {
    fn new(traffic: Traffic, pods: Vec<Netns>) -> Self {
        let before = retransmissions(&pods);
        Self {
            traffic,
            pods,
            before,
        }
    }

    fn finish(self) -> Suffered {
        let longest = self.traffic.finish();
        Suffered {
            retransmissions: retransmissions(&self.pods) - self.before,
            longest,
        }
    }
}
