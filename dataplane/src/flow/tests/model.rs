//! The table against a model of maps and lists, through random histories of small tables.

use proptest::prelude::*;

use super::reference::Model;
use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Open {
        request: u8,
        slot: u32,
        state: usize,
        timeout: u64,
        random: u64,
        limit: u32,
    },
    Touch {
        nth: usize,
        state: usize,
        timeout: u64,
    },
    Close {
        nth: usize,
    },
    Wait {
        seconds: u64,
    },
    Sweep {
        budget: usize,
        doomed: Option<u32>,
    },
}

/// Flows that the client may have.
fn limit() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(u32::MAX), 1 => 1_u32..6]
}

fn step() -> impl Strategy<Value = Step> {
    let state = 0..State::ALL.len();
    prop_oneof![
        6 => (0_u8..60, 0_u32..4, state.clone(), 1_u64..400, any::<u64>(), limit()).prop_map(
            |(request, slot, state, timeout, random, limit)| {
                Step::Open { request, slot, state, timeout, random, limit }
            }
        ),
        4 => (any::<usize>(), state, 1_u64..400)
            .prop_map(|(nth, state, timeout)| Step::Touch { nth, state, timeout }),
        1 => any::<usize>().prop_map(|nth| Step::Close { nth }),
        1 => (0_u64..200).prop_map(|seconds| Step::Wait { seconds }),
        1 => (0_usize..40, prop::option::weighted(0.2, 0_u32..4))
            .prop_map(|(budget, doomed)| Step::Sweep { budget, doomed }),
    ]
}
proptest! {
    #[test]
    fn agrees_with_the_model(
        capacity in 1_u32..40,
        ports in 1_u16..12,
        near_wrap in any::<bool>(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let start = if near_wrap { (1 << 32) - 20_000 } else { 0 };
        let mut model = Model::new(capacity, 1000..=1000 + ports - 1, start);
        for step in &steps {
            model.step(step);
            model.check();
        }
        model.close_all();
        model.check();
        prop_assert!(model.is_pristine());
    }
}
