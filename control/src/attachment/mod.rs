//! Keeps the data plane attached to the vL3 interface, which comes and goes.
//!
//! [`Attacher`] follows the [`NetworkView`] and calls [`Dataplane::attach`] and [`Dataplane::detach`]; the decision is
//! pure ([`stepper`]). The publisher continues without an interface: the next attachment starts with the last snapshot.

mod stepper;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustix::net::netdevice::index_to_name_inlined;
use rustix::net::{AddressFamily, SocketType, socket};
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};
use vl3lb_common::Duration;
use vl3lb_common::dataplane::{AttachError, AttachErrorKind, Attachment, Dataplane, LinkChange};

use crate::api::EventCode;
use crate::log::CONTROL_ACTION;
use crate::network::{NetworkReceiver, NetworkView};
use crate::observe::events::{Event, Events};

use stepper::{Step, Stepper};

/// The attached interface is compared with the kernel's after each change of the link, and this often: a new number
/// of queues is not announced, and packets at a new queue are dropped until it has a socket.
const RECHECK: Duration = Duration::from_secs(1);

/// The reason why attaching to the existing interface failed; `None` if it did not.
pub type FailureReceiver = watch::Receiver<Option<Arc<str>>>;

/// Attaches and detaches for as long as it runs.
pub struct Attacher {
    dataplane: Arc<dyn Dataplane>,
    interface: String,
    network: NetworkReceiver,
    events: Arc<Events>,
    stepper: Stepper,
    failure: watch::Sender<Option<Arc<str>>>,
    attached: watch::Sender<Option<u32>>,
}

impl std::fmt::Debug for Attacher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attacher")
            .field("interface", &self.interface)
            .field("stepper", &self.stepper)
            .finish_non_exhaustive()
    }
}

impl Attacher {
    /// An attacher of `dataplane` to `interface`, which `network` observes.
    pub fn new(
        dataplane: Arc<dyn Dataplane>,
        interface: String,
        network: NetworkReceiver,
        events: Arc<Events>,
    ) -> (Self, FailureReceiver) {
        let (failure, receiver) = watch::channel(None);
        let attacher = Self {
            dataplane,
            interface,
            network,
            events,
            stepper: Stepper::default(),
            failure,
            attached: watch::channel(None).0,
        };
        (attacher, receiver)
    }

    /// The index of the interface that the data plane is attached to.
    pub fn attached(&self) -> watch::Receiver<Option<u32>> {
        self.attached.subscribe()
    }

    /// Attaches if the interface is there and up. Call it once, before [`Self::run`].
    ///
    /// # Errors
    ///
    /// The interface is there, and attaching is impossible: a mistake to correct rather than to wait out.
    pub async fn start(&mut self) -> Result<(), AttachError> {
        match self.attach().await {
            Ok(attachment) => self.emit_attached(&attachment),
            Err(error) if error.kind == AttachErrorKind::InterfaceAbsent => {
                info!("{error}; waiting for interface {}", self.interface);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Follows the interface until the network's monitor ends.
    pub async fn run(mut self) {
        loop {
            let wake = self.step().await;
            tokio::select! {
                changed = self.network.changed() => if changed.is_err() { return },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
        }
    }

    /// Takes the steps that are due. Returns the time of the next step without a change of the network.
    async fn step(&mut self) -> Option<Instant> {
        loop {
            let view = self.network.borrow_and_update().clone()?;
            let attachment = self.dataplane.attachment();
            let needs_check = self
                .stepper
                .needs_check(&view, attachment.as_deref(), Instant::now());
            let change = if needs_check {
                let dataplane = Arc::clone(&self.dataplane);
                spawn_blocking(move || dataplane.link_change())
                    .await
                    .unwrap_or_else(|ended| resume(ended))
            } else {
                None
            };
            // The view may be older than the comparison.
            let is_missing = view.index.is_none() || change == Some(LinkChange::Gone);
            if is_missing && attachment.as_ref().is_some_and(|old| is_there(old.index)) {
                // Renamed: its ports stay open until it is removed or another interface has the name.
                return Some(Instant::now() + RECHECK);
            }
            match self
                .stepper
                .step(&view, attachment.as_deref(), change, Instant::now())
            {
                Step::Attach => self.try_attach(&view).await,
                Step::Detach => self.detach().await,
                Step::Wait(wake) => {
                    if self.stepper.is_clear() {
                        self.failure.send_replace(None);
                    }
                    return wake;
                }
            }
        }
    }

    async fn try_attach(&mut self, view: &NetworkView) {
        match self.attach().await {
            Ok(attachment) => {
                self.stepper.attached(view, Instant::now());
                self.failure.send_replace(None);
                self.emit_attached(&attachment);
            }
            Err(error) => {
                self.stepper.failed(view, Instant::now());
                self.report(&error);
            }
        }
    }

    async fn attach(&self) -> Result<Arc<Attachment>, AttachError> {
        let dataplane = Arc::clone(&self.dataplane);
        let span = tracing::info_span!(target: CONTROL_ACTION, "attach", interface = self.interface);
        let outcome = match spawn_blocking(move || span.in_scope(|| dataplane.attach())).await {
            Ok(outcome) => outcome,
            Err(ended) => resume(ended),
        };
        let index = outcome.as_ref().ok().map(|attachment| attachment.index);
        self.attached.send_replace(index);
        outcome
    }

    async fn detach(&self) {
        let dataplane = Arc::clone(&self.dataplane);
        let span = tracing::info_span!(target: CONTROL_ACTION, "detach", interface = self.interface);
        spawn_blocking(move || span.in_scope(|| dataplane.detach()))
            .await
            .unwrap_or_else(|ended| resume(ended));
        self.attached.send_replace(None);
        info!("detached from interface {}", self.interface);
    }

    /// Reports a failure, once for each reason.
    fn report(&self, error: &AttachError) {
        let reason: Arc<str> = error.to_string().into();
        let known = self.failure.borrow().as_ref() == Some(&reason);
        if known {
            debug!("{reason}; trying again");
            return;
        }
        self.failure.send_replace(Some(Arc::clone(&reason)));
        // An interface that vanished or went down meanwhile is reported by the monitor.
        if error.kind != AttachErrorKind::InterfaceAbsent {
            self.events
                .emit(Event::error(EventCode::AttachFailed, reason.to_string()));
        }
    }

    fn emit_attached(&self, attachment: &Attachment) {
        let Attachment {
            interface,
            driver,
            mode,
            zero_copy,
            reason,
            refuses,
            cores,
            fast_path,
            local_clients,
            ..
        } = attachment;
        let copy = if *zero_copy { "zero-copy" } else { "copy" };
        let why = if reason.is_empty() { "" } else { ": " };
        let text = format!(
            "mode: {} XDP, {copy}, on {interface} (driver {driver}){why}{reason}; workers on cores {cores:?}",
            mode.name(),
        );
        self.events.emit(Event::new(EventCode::Attached, text));
        if fast_path.flows > 0 {
            tracing::info!(
                "fast path: up to {} established flows stay in the kernel: {}",
                fast_path.flows,
                fast_path.reason
            );
        } else {
            tracing::info!("fast path: off: {}", fast_path.reason);
        }
        if !local_clients.is_empty() {
            tracing::warn!("no services for clients in this network namespace: {local_clients}");
        }
        if !refuses.is_empty() {
            tracing::warn!("mode {}: {refuses}", mode.name());
        }
    }
}

/// Whether an interface with this index exists, by any name.
fn is_there(index: u32) -> bool {
    socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .is_ok_and(|any| index_to_name_inlined(&any, index).is_ok())
}

/// Continues the panic of a blocking call, so that the task's supervisor reports it.
fn resume(ended: JoinError) -> ! {
    std::panic::resume_unwind(ended.into_panic())
}
