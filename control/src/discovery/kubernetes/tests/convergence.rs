//! Whatever was heard before, after a complete list only the list counts.

use std::collections::BTreeMap;

use kube::core::Status;
use kube::runtime::watcher::{self, Event};
use proptest::prelude::*;

use super::super::objects::{Entry, Heard, Watch};
use super::*;

/// Something that a watch may hear, of pods by number and version.
#[derive(Debug, Clone)]
enum Step {
    Apply(u8, u8),
    Delete(u8, u8),
    Listed(u8, u8),
    ListDone,
    Gone,
}

fn step() -> impl Strategy<Value = Step> {
    let pod = || (0_u8..6, 0_u8..4);
    prop_oneof![
        3 => pod().prop_map(|(pod, version)| Step::Apply(pod, version)),
        2 => pod().prop_map(|(pod, version)| Step::Delete(pod, version)),
        2 => pod().prop_map(|(pod, version)| Step::Listed(pod, version)),
        1 => Just(Step::ListDone),
        1 => Just(Step::Gone),
    ]
}

/// Versions differ in readiness, and every second one is another pod of that name.
fn pod(number: u8, version: u8) -> Pod {
    let pod = ready(&format!("pod-{number}"), &format!("10.0.0.{}", number + 1));
    let pod = with(pod, "/metadata/uid", json!(format!("{number}-{}", version / 2)));
    let pod = if version.is_multiple_of(2) {
        pod
    } else {
        unready(pod)
    };
    serde_json::from_value(pod).unwrap()
}

fn event(step: &Step) -> watcher::Result<Event<Entry<Member>>> {
    let pod = |number, version| Entry::read(&pod(number, version), &reading(AddressFrom::PodIp));
    Ok(match *step {
        Step::Apply(number, version) => Event::Apply(pod(number, version)),
        Step::Delete(number, version) => Event::Delete(pod(number, version)),
        Step::Listed(number, version) => Event::InitApply(pod(number, version)),
        Step::ListDone => Event::InitDone,
        Step::Gone => {
            let gone = Status::failure("too old resource version", "Expired").with_code(410);
            return Err(watcher::Error::WatchError(gone.boxed()));
        }
    })
}

fn known(watch: &Watch<Member>) -> BTreeMap<String, Member> {
    watch
        .known()
        .map(|pod| (pod.name.clone(), (*pod).clone()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_past_ends_with_a_complete_list(
        past in prop::collection::vec(step(), 0..40),
        (list, twice) in prop::collection::vec(0_u8..4, 0..6)
            .prop_map(|versions| (0_u8..).zip(versions).collect::<Vec<_>>())
            .prop_flat_map(|list| (Just(list.clone()).prop_shuffle(), prop::sample::subsequence(list.clone(), 0..=list.len()))),
    ) {
        let mut watch = Watch::new("namespace web".to_owned());
        let mut heard = Heard::default();
        for step in &past {
            watch.hear(event(step), &mut heard);
        }
        watch.hear(event(&Step::Gone), &mut heard);
        for &(number, version) in list.iter().chain(&twice) {
            watch.hear(event(&Step::Listed(number, version)), &mut heard);
        }
        prop_assert!(watch.hear(event(&Step::ListDone), &mut heard));
        let expected: BTreeMap<_, _> = list
            .iter()
            .map(|&(number, version)| Member::read(&pod(number, version), &reading(AddressFrom::PodIp)))
            .map(|pod| (pod.name.clone(), pod))
            .collect();
        prop_assert_eq!(known(&watch), expected.clone());

        // Changes that are told again, and deletions of those before, change nothing.
        for &(number, version) in &list {
            prop_assert!(!watch.hear(event(&Step::Apply(number, version)), &mut heard));
            prop_assert!(!watch.hear(event(&Step::Delete(number, (version + 2) % 4)), &mut heard));
        }
        prop_assert_eq!(known(&watch), expected);
    }

    #[test]
    fn an_incomplete_list_changes_nothing(
        list in prop::collection::vec((0_u8..6, 0_u8..4), 0..6),
        broken in prop::collection::vec((0_u8..6, 0_u8..4), 0..6),
    ) {
        let mut watch = Watch::new("namespace web".to_owned());
        let mut heard = Heard::default();
        for &(number, version) in &list {
            watch.hear(event(&Step::Listed(number, version)), &mut heard);
        }
        prop_assert!(known(&watch).is_empty());
        watch.hear(event(&Step::ListDone), &mut heard);
        let before = known(&watch);
        for &(number, version) in &broken {
            prop_assert!(!watch.hear(event(&Step::Listed(number, version)), &mut heard));
        }
        watch.hear(event(&Step::Gone), &mut heard);
        prop_assert_eq!(known(&watch), before);
    }
}
