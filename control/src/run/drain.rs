//! The end of a balancer: new clients go to other balancers, open flows may finish within a limit.

use std::time::{Duration, Instant};

use crate::api::EventCode;
use crate::dns;
use crate::observe::events::Event;
use crate::observe::report::Reporter;
use crate::peers::Membership;
use tokio::time::sleep;
use tracing::{info, warn};

use super::signals::Signals;

/// The wait for flows at shutdown is the longest drain time of a service, but never longer than
/// this: less than the 30 s that Kubernetes grants by default.
const LONGEST_DRAIN: Duration = Duration::from_secs(20);
/// Peers see that a balancer left within this time, and answer without it from then on.
const PEERS_NOTICE: Duration = Duration::from_secs(1);
/// Time between two counts of the open flows.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// Not ready from now on. Sends new clients to other balancers, and waits until no flow is open: for
/// the limit at most, or until a second signal.
pub(super) async fn drain(reporter: &Reporter, membership: Option<&Membership>, signals: &mut Signals) {
    reporter.drain();
    let end = Instant::now() + LONGEST_DRAIN;
    tokio::select! {
        () = leave(membership) => {}
        name = signals.stop() => {
            warn!("{name} again: cutting open flows ({})", reporter.open_flows());
            return;
        }
    }
    let flows = reporter.open_flows();
    if flows == 0 {
        emit(reporter, "draining: no flow is open".to_owned());
        return;
    }
    let left = end
        .saturating_duration_since(Instant::now())
        .min(reporter.longest_drain());
    let noun = if flows == 1 { "flow" } else { "flows" };
    emit(reporter, format!("draining: {flows} {noun}, limit {left:?}"));
    let finished = async {
        while reporter.open_flows() > 0 {
            sleep(COUNT_INTERVAL).await;
        }
    };
    tokio::select! {
        () = finished => info!("all flows have finished"),
        () = sleep(left) => warn!("limit reached: cutting open flows ({})", reporter.open_flows()),
        name = signals.stop() => warn!("{name} again: cutting open flows ({})", reporter.open_flows()),
    }
}

fn emit(reporter: &Reporter, text: String) {
    let event = Event::new(EventCode::Draining, text).transition("running", "draining");
    reporter.events().emit(event);
}

/// Leaves the DNS answers of all balancers, if other balancers can take new clients. Returns when the last answers
/// with this balancer have expired.
async fn leave(membership: Option<&Membership>) {
    let Some(membership) = membership else {
        return;
    };
    if membership.leave().await {
        let expired = PEERS_NOTICE + dns::ANSWERS_LAST;
        info!("new clients are sent to other balancers; waiting {expired:?} for DNS answers to expire");
        sleep(expired).await;
    }
}
