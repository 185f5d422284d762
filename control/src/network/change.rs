//! Events about changes of the interface.

use vl3lb_common::next_hop::Link;

use crate::api::EventCode;

use super::view::NetworkView;
use crate::observe::events::Event;

/// The events for the step from one view of `interface` to the next.
pub(super) fn events(interface: &str, old: &NetworkView, new: &NetworkView) -> Vec<Event> {
    let turned = |event: Event| event.transition(old.state.name(), new.state.name());
    match (old.index, new.index) {
        (None, None) => {
            let text = format!("interface {interface} does not exist; waiting for it");
            vec![turned(Event::warn(EventCode::InterfaceLost, text))]
        }
        (Some(_), None) => {
            let text = format!("interface {interface} is gone");
            vec![turned(Event::warn(EventCode::InterfaceLost, text))]
        }
        (last, Some(index)) if last != Some(index) => {
            let text = format!(
                "interface {interface} (index {index}): {}, mtu {}, addresses {:?}",
                new.state.name(),
                new.mtu,
                new.addresses
            );
            vec![turned(present(new, text))]
        }
        _ => {
            let mut events = Vec::new();
            let mut changed = |text| events.push(Event::new(EventCode::InterfaceChanged, text));
            if old.addresses != new.addresses {
                let (old, new) = (&old.addresses, &new.addresses);
                changed(format!("interface {interface}: addresses {old:?} -> {new:?}"));
            }
            if old.mtu != new.mtu {
                changed(format!("interface {interface}: mtu {} -> {}", old.mtu, new.mtu));
            }
            if old.next_hops.link != new.next_hops.link {
                let (old, new) = (mac(old), mac(new));
                changed(format!("interface {interface}: MAC address {old} -> {new}"));
            }
            if old.state != new.state {
                let text = format!(
                    "interface {interface}: {} -> {}",
                    old.state.name(),
                    new.state.name()
                );
                events.push(turned(present(new, text)));
            }
            events
        }
    }
}

/// The event for an interface that exists.
fn present(view: &NetworkView, text: String) -> Event {
    if view.is_up() {
        Event::new(EventCode::InterfaceBack, text)
    } else {
        Event::warn(EventCode::InterfaceLost, text)
    }
}

fn mac(view: &NetworkView) -> String {
    match view.next_hops.link {
        Link::Ethernet(mac) => mac.to_string(),
        Link::RawIp => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use vl3lb_common::MacAddr;
    use vl3lb_common::next_hop::NextHops;

    use super::*;
    use crate::network::LinkState;

    fn view(index: u32, state: LinkState, mtu: u16) -> NetworkView {
        NetworkView {
            index: Some(index),
            state,
            mtu,
            ..NetworkView::absent()
        }
    }

    #[test]
    fn changes_of_the_interface_are_events() {
        use EventCode::{InterfaceBack, InterfaceChanged, InterfaceLost};
        use LinkState::{Down, NoCarrier, Up};
        let absent = NetworkView::absent;
        let up = || view(7, Up, 1500);
        let other_mac = || NetworkView {
            next_hops: NextHops::new(Link::Ethernet(MacAddr([2; 6])), 0, Vec::new(), HashMap::new()),
            ..up()
        };
        for (old, new, want) in [
            (absent(), absent(), vec![(InterfaceLost, "absent")]),
            (absent(), up(), vec![(InterfaceBack, "up")]),
            (up(), absent(), vec![(InterfaceLost, "absent")]),
            (up(), view(9, Up, 1500), vec![(InterfaceBack, "up")]),
            (up(), view(7, Down, 1500), vec![(InterfaceLost, "down")]),
            (
                up(),
                view(7, NoCarrier, 1500),
                vec![(InterfaceLost, "no carrier")],
            ),
            (view(7, NoCarrier, 1500), up(), vec![(InterfaceBack, "up")]),
            (up(), view(7, Up, 9000), vec![(InterfaceChanged, "")]),
            (up(), other_mac(), vec![(InterfaceChanged, "")]),
            (
                up(),
                view(7, Down, 9000),
                vec![(InterfaceChanged, ""), (InterfaceLost, "down")],
            ),
            (up(), up(), vec![]),
        ] {
            let emitted: Vec<_> = events("nsm-1", &old, &new)
                .into_iter()
                .map(|event| (event.code, event.to.unwrap_or_default()))
                .collect();
            let want: Vec<_> = want.into_iter().map(|(code, to)| (code, to.to_owned())).collect();
            assert_eq!(emitted, want, "{old:?} {new:?}");
        }
    }
}
