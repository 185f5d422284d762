//! Decides when to attach and detach. Pure: the inputs are network view, attachment and time, the output is one step.

use tokio::time::Instant;
use vl3lb_common::Duration;
use vl3lb_common::dataplane::{Attachment, LinkChange};
use vl3lb_common::next_hop::Link;

use super::RECHECK;
use crate::network::{LinkState, NetworkView};

/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Attach, also in place of an attachment that is out of date.
    Attach,
    Detach,
    /// Wait until this time or the next change of the network.
    Wait(Option<Instant>),
}

/// The part of a view whose change makes another attempt worthwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LinkFacts {
    index: Option<u32>,
    state: LinkState,
    mtu: u16,
    link: Link,
}

impl LinkFacts {
    const fn of(view: &NetworkView) -> Self {
        Self {
            index: view.index,
            state: view.state,
            mtu: view.mtu,
            link: view.next_hops.link,
        }
    }
}

/// The results of earlier steps.
#[derive(Debug, Default)]
pub(super) struct Stepper {
    failed: Option<Failed>,
    checked: Option<Checked>,
}

/// The last attempt failed.
#[derive(Debug, Clone, Copy)]
struct Failed {
    on: LinkFacts,
    pause: Duration,
    retry: Instant,
}

/// The attachment was compared with the interface.
#[derive(Debug, Clone, Copy)]
struct Checked {
    on: LinkFacts,
    next: Instant,
}

impl Stepper {
    /// Whether the attachment must be compared with the interface: the link has changed, or it is time.
    pub(super) fn needs_check(
        &self,
        view: &NetworkView,
        attachment: Option<&Attachment>,
        now: Instant,
    ) -> bool {
        let on = LinkFacts::of(view);
        let is_fresh = |checked: Checked| checked.on == on && now < checked.next;
        on.index.is_some() && attachment.is_some() && !self.checked.is_some_and(is_fresh)
    }

    /// The next step. `change` is the result of a comparison, if [`Self::needs_check`] requested one.
    pub(super) fn step(
        &mut self,
        view: &NetworkView,
        attachment: Option<&Attachment>,
        change: Option<LinkChange>,
        now: Instant,
    ) -> Step {
        let on = LinkFacts::of(view);
        let detach = match attachment {
            Some(_) => Step::Detach,
            None => Step::Wait(None),
        };
        let Some(index) = on.index else {
            (self.failed, self.checked) = (None, None);
            return detach;
        };
        if let Some(attachment) = attachment {
            match change {
                None => {
                    if self.needs_check(view, Some(attachment), now) {
                        // One that is down cannot be compared.
                        if on.state == LinkState::Down && attachment.index != index {
                            return Step::Detach;
                        }
                        let next = now + RECHECK;
                        self.checked = Some(Checked { on, next });
                    }
                    return Step::Wait(self.checked.map(|checked| checked.next));
                }
                Some(LinkChange::Gone) => return Step::Detach,
                Some(LinkChange::Replaced | LinkChange::Queues) => {}
            }
        }
        // Attaching needs an interface that is up, with or without a carrier.
        if on.state == LinkState::Down {
            self.failed = None;
            return detach;
        }
        match self.failed {
            Some(failed) if failed.on == on && now < failed.retry => match attachment {
                // The old ports do not serve a new interface.
                Some(_) => Step::Detach,
                None => Step::Wait(Some(failed.retry)),
            },
            _ => Step::Attach,
        }
    }

    /// An attempt succeeded.
    pub(super) fn attached(&mut self, view: &NetworkView, now: Instant) {
        let (on, next) = (LinkFacts::of(view), now + RECHECK);
        self.failed = None;
        self.checked = Some(Checked { on, next });
    }

    /// An attempt failed: the next one is due after a pause, or when the link changes.
    pub(super) fn failed(&mut self, view: &NetworkView, now: Instant) {
        let on = LinkFacts::of(view);
        let pause = self
            .failed
            .filter(|last| last.on == on)
            .map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        self.failed = Some(Failed {
            on,
            pause,
            retry: now + pause,
        });
    }

    /// Whether no attempt has failed since the interface came.
    pub(super) const fn is_clear(&self) -> bool {
        self.failed.is_none()
    }
}
