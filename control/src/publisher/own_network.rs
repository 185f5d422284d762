//! The network that snapshots are made for: the last usable view, with addresses that an interruption must not end.
//!
//! A replaced interface gets its addresses back one by one, IPv6 ones after duplicate address detection, and one that
//! goes down loses its IPv6 addresses. A snapshot without an address ends its flows. So addresses that are lost with
//! the interface are kept until it has been back for a while; those removed while it is up leave at once.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::time::Instant;
use vl3lb_common::Duration;

use crate::network::NetworkView;

/// An interface that is back gets this long for its addresses: duplicate address detection takes a second or two
/// (RFC 4862 section 5.4).
pub(super) const ADDRESS_GRACE: Duration = Duration::from_secs(3);

/// Turns views of the network into those that snapshots are made for. Pure.
#[derive(Debug, Default)]
pub(super) struct OwnNetwork {
    /// The last result.
    current: Option<Arc<NetworkView>>,
    /// The view that it was made of.
    source: Option<Arc<NetworkView>>,
    interruption: Option<Interruption>,
}

/// The interface was gone, replaced or down.
#[derive(Debug)]
struct Interruption {
    /// The addresses before it.
    kept: Vec<IpAddr>,
    /// When kept addresses leave; `None` while the interface is not back.
    end: Option<Instant>,
}

impl OwnNetwork {
    /// The network for the next snapshot; `None` before the first usable view.
    pub(super) const fn current(&self) -> Option<&Arc<NetworkView>> {
        self.current.as_ref()
    }

    /// Whether the last view was usable.
    pub(super) fn is_usable(&self) -> bool {
        self.source.as_ref().is_some_and(|view| view.usable())
    }

    /// When kept addresses leave.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.interruption
            .as_ref()
            .and_then(|interruption| interruption.end)
    }

    /// Takes over the newest view. Also due at [`Self::deadline`].
    pub(super) fn update(&mut self, view: &Arc<NetworkView>, now: Instant) {
        let is_same = |last: &Arc<NetworkView>| Arc::ptr_eq(last, view);
        if self.source.as_ref().is_some_and(is_same) && self.deadline().is_none_or(|end| now < end) {
            return;
        }
        self.note_interruption(view, now);
        self.source = Some(Arc::clone(view));
        if !view.usable() {
            return;
        }
        let kept = self
            .interruption
            .iter()
            .flat_map(|interruption| &interruption.kept);
        let kept: Vec<IpAddr> = kept
            .filter(|address| !view.addresses.contains(address))
            .copied()
            .collect();
        self.current = Some(if kept.is_empty() {
            Arc::clone(view)
        } else {
            let mut extended = (**view).clone();
            extended.addresses.extend(kept);
            extended.addresses.sort_by_key(IpAddr::is_ipv6);
            Arc::new(extended)
        });
    }

    fn note_interruption(&mut self, view: &NetworkView, now: Instant) {
        let Some(current) = &self.current else { return };
        if !view.is_up() || view.index != current.index {
            let interruption = self.interruption.get_or_insert_with(|| Interruption {
                kept: current.addresses.clone(),
                end: None,
            });
            interruption.end = view.is_up().then_some(now + ADDRESS_GRACE);
        }
        let Some(interruption) = &mut self.interruption else {
            return;
        };
        if view.is_up() {
            let end = *interruption.end.get_or_insert(now + ADDRESS_GRACE);
            let is_complete = interruption
                .kept
                .iter()
                .all(|address| view.addresses.contains(address));
            if is_complete || end <= now {
                self.interruption = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::LinkState;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 1, 103));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 1, 104));
    const C: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    fn view(index: u32, state: LinkState, addresses: &[IpAddr]) -> Arc<NetworkView> {
        Arc::new(NetworkView {
            index: Some(index),
            state,
            addresses: addresses.to_vec(),
            ..NetworkView::absent()
        })
    }

    /// Seconds after the start, the view from then on, and the addresses of snapshots then.
    type Step<'a> = (u64, Arc<NetworkView>, &'a [IpAddr]);

    #[test]
    fn addresses_lost_with_the_interface_are_kept_until_it_is_back_for_a_while() {
        use LinkState::{Down, Up};
        let absent = || Arc::new(NetworkView::absent());
        let cases: [(&str, &[Step<'_>]); 7] = [
            (
                "removed live",
                &[(0, view(7, Up, &[A, C]), &[A, C]), (1, view(7, Up, &[A]), &[A])],
            ),
            (
                "added live",
                &[(0, view(7, Up, &[A]), &[A]), (1, view(7, Up, &[A, B]), &[A, B])],
            ),
            (
                "replaced, one address after the other",
                &[
                    (0, view(7, Up, &[A, C]), &[A, C]),
                    (1, absent(), &[A, C]),
                    (60, view(9, Down, &[]), &[A, C]),
                    (60, view(9, Up, &[]), &[A, C]),
                    (60, view(9, Up, &[A]), &[A, C]),
                    (62, view(9, Up, &[A, C]), &[A, C]),
                    (62, view(9, Up, &[A]), &[A]),
                ],
            ),
            (
                "replaced between two views",
                &[
                    (0, view(7, Up, &[A, C]), &[A, C]),
                    (1, view(9, Up, &[A]), &[A, C]),
                    (2, view(9, Up, &[A, C]), &[A, C]),
                ],
            ),
            (
                "back with another address",
                &[
                    (0, view(7, Up, &[A]), &[A]),
                    (1, absent(), &[A]),
                    (2, view(9, Up, &[B]), &[B, A]),
                    (4, view(9, Up, &[B]), &[B, A]),
                    (5, view(9, Up, &[B]), &[B]),
                ],
            ),
            (
                "down and up",
                &[
                    (0, view(7, Up, &[A, C]), &[A, C]),
                    (1, view(7, Down, &[A]), &[A, C]),
                    (60, view(7, Up, &[A]), &[A, C]),
                    (61, view(7, Up, &[A, C]), &[A, C]),
                ],
            ),
            (
                "gone again",
                &[
                    (0, view(7, Up, &[A]), &[A]),
                    (1, view(9, Up, &[B]), &[B, A]),
                    (2, absent(), &[B, A]),
                    (9, view(11, Up, &[B]), &[B, A]),
                    (12, view(11, Up, &[B]), &[B]),
                ],
            ),
        ];
        let start = Instant::now();
        for (what, steps) in cases {
            let mut network = OwnNetwork::default();
            for (number, (seconds, view, want)) in steps.iter().enumerate() {
                network.update(view, start + Duration::from_secs(*seconds));
                let addresses = &network.current().unwrap().addresses;
                assert_eq!(addresses, want, "{what}: step {number}");
            }
        }
    }

    #[test]
    fn the_deadline_is_that_of_kept_addresses() {
        let mut network = OwnNetwork::default();
        let now = Instant::now();
        network.update(&view(7, LinkState::Up, &[A]), now);
        assert_eq!(network.deadline(), None);
        let other = view(9, LinkState::Up, &[B]);
        network.update(&other, now);
        assert_eq!(network.deadline(), Some(now + ADDRESS_GRACE));
        network.update(&other, now + ADDRESS_GRACE);
        assert_eq!(network.deadline(), None);
        assert_eq!(network.current().unwrap().addresses, [B]);
    }
}
