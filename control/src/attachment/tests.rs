//! The stepper as a table, and the attacher with a scripted data plane on a virtual clock.

use std::collections::HashMap;
use std::sync::Mutex;

use vl3lb_common::dataplane::{AttachMode, FastPath, LinkChange, PublishError, Steered, WorkerFailure};
use vl3lb_common::flow_feed::FlowFeed;
use vl3lb_common::flow_query::{FlowQuery, WorkerEvent};
use vl3lb_common::next_hop::{Link, NextHops};
use vl3lb_common::selection_query::SelectionQuery;
use vl3lb_common::snapshot::Snapshot;
use vl3lb_common::stats::WorkerStats;
use vl3lb_common::{MacAddr, Timestamp};

use super::*;
use crate::network::LinkState;

fn view(index: u32, state: LinkState) -> NetworkView {
    NetworkView {
        index: Some(index),
        state,
        mtu: 1500,
        next_hops: NextHops::new(Link::Ethernet(MacAddr([2; 6])), 0, Vec::new(), HashMap::new()),
        ..NetworkView::absent()
    }
}

fn attachment(index: u32) -> Attachment {
    Attachment {
        interface: "nsm-1".to_owned(),
        index,
        link: Link::Ethernet(MacAddr([2; 6])),
        driver: "veth".to_owned(),
        mtu: 1500,
        mode: AttachMode::Generic,
        zero_copy: false,
        reason: String::new(),
        refuses: String::new(),
        local_clients: String::new(),
        receive_queues: 1,
        transmit_queues: 1,
        cores: vec![0],
        fast_path: FastPath::default(),
    }
}

#[test]
fn a_step_follows_from_view_attachment_and_comparison() {
    use LinkChange::{Gone, Queues, Replaced};
    use LinkState::{Down, NoCarrier, Up};
    let now = Instant::now();
    let wait = Step::Wait(None);
    let recheck = Step::Wait(Some(now + RECHECK));
    for (what, view, attached, change, want) in [
        ("no interface", NetworkView::absent(), None, None, wait),
        ("removed", NetworkView::absent(), Some(7), None, Step::Detach),
        ("down", view(7, Down), None, None, wait),
        ("appeared", view(7, Up), None, None, Step::Attach),
        ("without carrier", view(7, NoCarrier), None, None, Step::Attach),
        ("unchanged", view(7, Up), Some(7), None, recheck),
        ("goes down", view(7, Down), Some(7), None, recheck),
        ("loses carrier", view(7, NoCarrier), Some(7), None, recheck),
        (
            "another index",
            view(9, Up),
            Some(7),
            Some(Replaced),
            Step::Attach,
        ),
        ("another index, down", view(9, Down), Some(7), None, Step::Detach),
        ("other queues", view(7, Up), Some(7), Some(Queues), Step::Attach),
        (
            "gone since the view",
            view(7, Up),
            Some(7),
            Some(Gone),
            Step::Detach,
        ),
        ("the view is late", view(7, Up), Some(9), None, recheck),
    ] {
        let attached = attached.map(attachment);
        let step = Stepper::default().step(&view, attached.as_ref(), change, now);
        assert_eq!(step, want, "{what}");
    }
}

#[test]
fn failures_are_retried_with_growing_pauses_and_on_a_change_of_the_link() {
    let mut stepper = Stepper::default();
    let up = view(7, LinkState::Up);
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    for _ in 0..7 {
        assert_eq!(stepper.step(&up, None, None, now), Step::Attach);
        stepper.failed(&up, now);
        let Step::Wait(Some(retry)) = stepper.step(&up, None, None, now) else {
            panic!("no pause");
        };
        pauses.push((retry - now).as_secs());
        now = retry;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    stepper.failed(&up, now);
    let mut other = up.clone();
    other.mtu = 9000;
    assert_eq!(stepper.step(&other, None, None, now), Step::Attach);
    stepper.failed(&other, now);
    assert_eq!(
        stepper.step(&other, None, None, now),
        Step::Wait(Some(now + Duration::from_secs(1)))
    );
}

#[test]
fn comparisons_are_made_after_changes_of_the_link_and_now_and_then() {
    let mut stepper = Stepper::default();
    let (up, attached, now) = (view(7, LinkState::Up), attachment(7), Instant::now());
    stepper.attached(&up, now);
    let needs = |stepper: &Stepper, view: &NetworkView, now| stepper.needs_check(view, Some(&attached), now);
    assert!(!needs(&stepper, &up, now));
    let mut neighbors = up.clone();
    neighbors.next_hops.generation += 1;
    assert!(!needs(&stepper, &neighbors, now));
    assert!(needs(&stepper, &view(7, LinkState::NoCarrier), now));
    assert!(needs(&stepper, &up, now + RECHECK));
}

/// A data plane whose interface is what a test says.
#[derive(Default)]
struct Script {
    /// The interface's index.
    interface: Mutex<Option<u32>>,
    /// Attaching fails for this reason.
    failure: Mutex<Option<&'static str>>,
    attachment: Mutex<Option<Arc<Attachment>>>,
    attempts: Mutex<usize>,
}

impl Dataplane for Script {
    fn attach(&self) -> Result<Arc<Attachment>, AttachError> {
        self.detach();
        *self.attempts.lock().unwrap() += 1;
        if let Some(reason) = *self.failure.lock().unwrap() {
            return Err(AttachError::new(AttachErrorKind::InterfaceUnsuitable, reason));
        }
        let Some(index) = *self.interface.lock().unwrap() else {
            return Err(AttachError::new(
                AttachErrorKind::InterfaceAbsent,
                "interface nsm-1 does not exist",
            ));
        };
        let attachment = Arc::new(attachment(index));
        *self.attachment.lock().unwrap() = Some(Arc::clone(&attachment));
        Ok(attachment)
    }

    fn detach(&self) {
        *self.attachment.lock().unwrap() = None;
    }

    fn attachment(&self) -> Option<Arc<Attachment>> {
        self.attachment.lock().unwrap().clone()
    }

    fn link_change(&self) -> Option<LinkChange> {
        let attached = self.attachment()?.index;
        match *self.interface.lock().unwrap() {
            None => Some(LinkChange::Gone),
            Some(index) => (index != attached).then_some(LinkChange::Replaced),
        }
    }

    fn publish(&self, _: Arc<Snapshot>) -> Result<(), PublishError> {
        Ok(())
    }

    fn healthy(&self) -> Result<(), WorkerFailure> {
        Ok(())
    }

    fn stats(&self) -> &[Arc<WorkerStats>] {
        &[]
    }

    fn steered(&self) -> Steered {
        Steered::default()
    }

    fn query_flows(&self, _: u16, _: FlowQuery) -> bool {
        false
    }

    fn query_selection(&self, _: u16, _: SelectionQuery) -> bool {
        false
    }

    fn flow_feeds(&self) -> &[Arc<FlowFeed>] {
        &[]
    }

    fn next_event(&self) -> Option<WorkerEvent> {
        None
    }

    fn now(&self) -> Timestamp {
        Timestamp(0)
    }
}

/// Its indexes are none of the machine's.
struct World {
    script: Arc<Script>,
    network: watch::Sender<Option<Arc<NetworkView>>>,
    failure: FailureReceiver,
    events: Arc<Events>,
    attacher: Attacher,
}

impl World {
    fn new() -> Self {
        let script = Arc::new(Script::default());
        let dataplane: Arc<dyn Dataplane> = Arc::<Script>::clone(&script);
        let (network, receiver) = watch::channel(None);
        let events: Arc<Events> = Arc::default();
        let (attacher, failure) = Attacher::new(dataplane, "nsm-1".to_owned(), receiver, Arc::clone(&events));
        Self {
            script,
            network,
            failure,
            events,
            attacher,
        }
    }

    fn interface(&self, index: Option<u32>) {
        *self.script.interface.lock().unwrap() = index;
    }

    async fn see(&mut self, view: NetworkView) -> Option<Instant> {
        self.network.send_replace(Some(Arc::new(view)));
        self.attacher.step().await
    }

    fn attached(&self) -> Option<u32> {
        self.script.attachment().map(|attachment| attachment.index)
    }

    fn events(&self) -> Vec<&'static str> {
        self.events.kept().iter().map(|event| event.code.name()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_comes_and_goes_is_attached_each_time() {
    let mut world = World::new();
    world.attacher.start().await.unwrap();
    assert_eq!(world.attached(), None);
    world.see(NetworkView::absent()).await;
    assert_eq!(world.attached(), None);
    world.interface(Some(70_007));
    world.see(view(70_007, LinkState::Up)).await;
    assert_eq!(world.attached(), Some(70_007));
    world.interface(None);
    world.see(NetworkView::absent()).await;
    assert_eq!(world.attached(), None);
    world.interface(Some(70_009));
    world.see(view(70_009, LinkState::Up)).await;
    assert_eq!(world.attached(), Some(70_009));
    // Replaced so fast that no view was without it.
    world.interface(Some(70_011));
    world.see(view(70_011, LinkState::Up)).await;
    assert_eq!(world.attached(), Some(70_011));
    assert_eq!(world.events(), ["attached"; 3]);
    assert_eq!(*world.failure.borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn an_interface_that_is_renamed_for_a_moment_stays_attached() {
    // There is one with this index in each network namespace.
    const LOOPBACK: u32 = 1;
    let mut world = World::new();
    world.interface(Some(LOOPBACK));
    world.see(view(LOOPBACK, LinkState::Up)).await;
    // It has another name when it is compared, and the view does not know it yet.
    world.interface(None);
    assert!(world.see(view(LOOPBACK, LinkState::Down)).await.is_some());
    assert_eq!(world.attached(), Some(LOOPBACK));
    world.see(NetworkView::absent()).await;
    world.interface(Some(LOOPBACK));
    world.see(view(LOOPBACK, LinkState::Up)).await;
    assert_eq!(world.attached(), Some(LOOPBACK));
    assert_eq!(*world.script.attempts.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_view_that_is_late_does_not_attach_again() {
    let mut world = World::new();
    world.interface(Some(70_009));
    world.see(view(70_007, LinkState::Up)).await;
    world.attacher.step().await;
    assert_eq!(world.attached(), Some(70_009));
    assert_eq!(*world.script.attempts.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_an_event_once_for_each_reason_and_ends_with_success() {
    let mut world = World::new();
    world.interface(Some(70_007));
    *world.script.failure.lock().unwrap() = Some("nsm-1 has no native XDP");
    let retry = world.see(view(70_007, LinkState::Up)).await.unwrap();
    assert_eq!(world.failure.borrow().as_deref(), Some("nsm-1 has no native XDP"));
    sleep_until(retry).await;
    world.attacher.step().await;
    assert_eq!(world.events(), ["attach_failed"]);
    assert_eq!(*world.script.attempts.lock().unwrap(), 2);
    *world.script.failure.lock().unwrap() = None;
    let mut other = view(70_007, LinkState::Up);
    other.mtu = 9000;
    world.see(other).await;
    assert_eq!(world.events(), ["attach_failed", "attached"]);
    assert_eq!(*world.failure.borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn an_impossible_attachment_is_an_error_at_start() {
    let mut world = World::new();
    world.interface(Some(70_007));
    *world.script.failure.lock().unwrap() = Some("nsm-1 has no native XDP");
    let error = world.attacher.start().await.unwrap_err();
    assert_eq!(error.to_string(), "nsm-1 has no native XDP");
}
