//! What people should know when the interface changes.

use crate::api::EventCode;

use super::view::NetworkView;
use crate::observe::events::Event;

/// The difference between two views of `interface`, in words.
pub(super) fn events(interface: &str, old: &NetworkView, new: &NetworkView) -> Vec<Event> {
    let turned = |event: Event| event.transition(word(old), word(new));
    match (old.index, new.index) {
        (None, None) => {
            let text = format!("interface {interface} does not exist yet");
            vec![turned(Event::warn(EventCode::InterfaceLost, text))]
        }
        (Some(_), None) => {
            let text = format!("interface {interface} is gone");
            vec![turned(Event::warn(EventCode::InterfaceLost, text))]
        }
        (last, Some(index)) if last != Some(index) => {
            let text = format!(
                "interface {interface} (index {index}): {}, mtu {}, addresses {:?}",
                word(new),
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
            if old.up != new.up {
                let text = format!("interface {interface}: {} -> {}", word(old), word(new));
                events.push(turned(present(new, text)));
            }
            events
        }
    }
}

/// Of an interface that is there.
fn present(view: &NetworkView, text: String) -> Event {
    if view.up {
        Event::new(EventCode::InterfaceBack, text)
    } else {
        Event::warn(EventCode::InterfaceLost, text)
    }
}

const fn word(view: &NetworkView) -> &'static str {
    match (view.index, view.up) {
        (None, _) => "absent",
        (Some(_), false) => "down",
        (Some(_), true) => "up",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(index: Option<u32>, up: bool, mtu: u16) -> NetworkView {
        NetworkView {
            index,
            up,
            mtu,
            ..NetworkView::absent()
        }
    }

    #[test]
    fn what_counts_of_an_interface_is_told() {
        use EventCode::{InterfaceBack, InterfaceChanged, InterfaceLost};
        let up = || view(Some(7), true, 1500);
        for (old, new, want) in [
            (
                view(None, false, 0),
                view(None, false, 0),
                vec![(InterfaceLost, "absent")],
            ),
            (view(None, false, 0), up(), vec![(InterfaceBack, "up")]),
            (up(), view(None, false, 0), vec![(InterfaceLost, "absent")]),
            (up(), view(Some(9), true, 1500), vec![(InterfaceBack, "up")]),
            (up(), view(Some(7), false, 1500), vec![(InterfaceLost, "down")]),
            (view(Some(7), false, 1500), up(), vec![(InterfaceBack, "up")]),
            (up(), view(Some(7), true, 9000), vec![(InterfaceChanged, "")]),
            (
                up(),
                view(Some(7), false, 9000),
                vec![(InterfaceChanged, ""), (InterfaceLost, "down")],
            ),
            (up(), up(), vec![]),
        ] {
            let told: Vec<_> = events("nsm-1", &old, &new)
                .into_iter()
                .map(|event| (event.code, event.to.unwrap_or_default()))
                .collect();
            let want: Vec<_> = want.into_iter().map(|(code, to)| (code, to.to_owned())).collect();
            assert_eq!(told, want, "{old:?} {new:?}");
        }
    }
}
