//! The index alone, under hashes that real keys would hardly have.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use crate::flow::index::{Bucket, Hash, Index, Kind};
use crate::flow::mapping::{Mapping, span};

fn index(buckets: usize) -> Index {
    Index::new(Mapping::new(span::<Bucket>(buckets), 0).unwrap().carve(buckets))
}

/// A hash that starts at bucket `bucket` of `buckets`.
fn hash(bucket: u64, buckets: usize, tag: u64) -> Hash {
    let middle = ((bucket << 32) + (1 << 31)) / buckets as u64;
    Hash(middle << 32 | tag)
}

/// Which key of which flow: the index knows each only once.
type Key = (u32, bool);

const fn kind(reply: bool) -> Kind {
    if reply { Kind::Reply } else { Kind::Request }
}

/// What a search looks at on its way, if nothing is the right one.
fn candidates(index: &Index, reply: bool, hash: Hash) -> HashSet<u32> {
    let mut seen = HashSet::new();
    let found = index.find(kind(reply), hash, |flow| {
        seen.insert(flow);
        false
    });
    assert_eq!(found, None);
    seen
}

proptest! {
    /// Up to the last free slot, with few buckets and fewer tags, so that chains are long, wrap
    /// around and are full of false hits: every key is found, no removed one is, no trace is left.
    #[test]
    fn agrees_with_a_map(
        buckets in 1_usize..5,
        steps in prop::collection::vec((0_u64..5, 0_u64..3, 0_u32..30, any::<bool>()), 0..200),
    ) {
        let mut index = index(buckets);
        let mut keys: HashMap<Key, (u64, u64)> = HashMap::new();
        for (bucket, tag, flow, reply) in steps {
            let home = bucket % buckets as u64;
            if let Some((home, tag)) = keys.remove(&(flow, reply)) {
                index.remove(kind(reply), hash(home, buckets, tag), flow);
            } else if keys.len() < 10 * buckets {
                keys.insert((flow, reply), (home, tag));
                index.insert(kind(reply), hash(home, buckets, tag), flow);
            }
            for (&(flow, reply), &(home, tag)) in &keys {
                let seen = candidates(&index, reply, hash(home, buckets, tag));
                prop_assert!(seen.contains(&flow), "flow {} from bucket {}", flow, home);
                prop_assert!(seen.iter().all(|&other| keys.contains_key(&(other, reply))));
            }
        }
        for ((flow, reply), (home, tag)) in keys {
            index.remove(kind(reply), hash(home, buckets, tag), flow);
        }
        prop_assert!(index.is_pristine());
    }
}

#[test]
fn a_search_for_an_unknown_key_ends_at_the_first_bucket_without_passed_keys() {
    let mut index = index(3);
    for flow in 0..11 {
        index.insert(Kind::Request, hash(2, 3, 7), flow);
    }
    let mut looked_at = Vec::new();
    index.find(Kind::Request, hash(2, 3, 7), |flow| {
        looked_at.push(flow);
        false
    });
    assert_eq!(
        looked_at.len(),
        11,
        "the eleventh is in bucket 0, behind the last"
    );
    looked_at.clear();
    index.find(Kind::Request, hash(1, 3, 7), |flow| {
        looked_at.push(flow);
        false
    });
    assert!(looked_at.is_empty(), "{looked_at:?}");
}

#[test]
fn a_flow_is_not_found_by_its_other_key() {
    let mut index = index(1);
    index.insert(Kind::Reply, hash(0, 1, 7), 5);
    assert_eq!(index.find(Kind::Request, hash(0, 1, 7), |_| true), None);
    assert_eq!(index.find(Kind::Reply, hash(0, 1, 7), |_| true), Some(5));
}
