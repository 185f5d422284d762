//! The table of datagrams: bounds, and who gives way.

use vl3lb_common::{DropReason, Duration, Timestamp};

use super::table::{
    DATAGRAMS, DATAGRAMS_OF_SOURCE, FragmentTable, Key, LIFETIME, Piece, Tracked, WAITING, WAITING_OF_SOURCE,
};
use crate::packet::TcpFlags;

const START: Timestamp = Timestamp(1);

fn key(source: u16, id: u32) -> Key {
    let [a, b] = source.to_be_bytes();
    let mut address = [7; 16];
    (address[14], address[15]) = (a, b);
    Key {
        source: address,
        local: 0,
        protocol: 17,
        id,
        away: false,
    }
}

const FIRST: Piece = Piece {
    from: 0,
    to: 1_480,
    more: true,
    ports: Some((40_000, 53)),
    flags: TcpFlags(0),
};

const LATER: Piece = Piece {
    from: 1_480,
    to: 2_960,
    more: true,
    ports: None,
    flags: TcpFlags(0),
};

fn first(table: &mut FragmentTable, key: Key, now: Timestamp) -> Result<Tracked, DropReason> {
    table.track(key, FIRST, true, now)
}

/// Whether the datagram's ports are known.
fn knows(table: &mut FragmentTable, key: Key, now: Timestamp) -> bool {
    matches!(table.track(key, LATER, false, now), Ok(Tracked::Known { .. }))
}

#[test]
fn a_datagram_is_known_until_its_time_is_over() {
    for (after, known) in [
        (Duration::ZERO, true),
        (Duration::from_millis(2_999), true),
        (LIFETIME, false),
    ] {
        let mut table = FragmentTable::default();
        assert!(!knows(&mut table, key(1, 1), START));
        assert!(first(&mut table, key(1, 1), START).is_ok());
        assert!(!knows(&mut table, key(1, 2), START));
        assert_eq!(knows(&mut table, key(1, 1), START + after), known, "{after:?}");
    }
}

#[test]
fn a_complete_datagram_is_forgotten() {
    let mut table = FragmentTable::default();
    let last = Piece { more: false, ..LATER };
    assert!(table.track(key(1, 1), last, true, START).is_ok());
    assert!(first(&mut table, key(1, 1), START).is_ok());
    assert!(!table.is_empty(), "one of its fragments is yet to be forwarded");
    assert!(
        table
            .next_release()
            .is_some_and(|release| release.outcome == Ok(()))
    );
    assert!(table.resume(key(1, 1), START).is_ok());
    assert!(table.is_empty());
}

#[test]
fn a_source_has_a_share_and_its_oldest_datagram_gives_way() {
    let mut table = FragmentTable::default();
    assert!(first(&mut table, key(2, 0), START).is_ok());
    for id in 0..u32::from(DATAGRAMS_OF_SOURCE) + 10 {
        assert!(first(&mut table, key(1, id), START).is_ok());
    }
    assert!(knows(&mut table, key(2, 0), START));
    assert!(!knows(&mut table, key(1, 9), START));
    assert!(knows(&mut table, key(1, 10), START));
}

#[test]
fn in_a_full_table_the_oldest_datagram_of_the_heaviest_source_gives_way() {
    let mut table = FragmentTable::default();
    for id in 0..100 {
        assert!(first(&mut table, key(1, id), START).is_ok());
    }
    for source in 0..DATAGRAMS - 100 {
        assert!(first(&mut table, key(1_000 + source, 0), START).is_ok());
    }
    for id in 0..50 {
        assert!(first(&mut table, key(9, 0), START).is_ok() || id > 0);
        assert!(first(&mut table, key(10_000 + id, 0), START).is_ok());
    }
    assert!(!knows(&mut table, key(1, 50), START), "51 had to give way");
    assert!(knows(&mut table, key(1, 51), START));
    for source in 0..DATAGRAMS - 100 {
        assert!(knows(&mut table, key(1_000 + source, 0), START), "{source}");
    }
}

#[test]
fn waiting_fragments_have_bounds_of_their_own() {
    let wait = |table: &mut FragmentTable, key, index: u16| {
        let piece = Piece {
            from: 1_480 + index * 16,
            to: 1_488 + index * 16,
            ..LATER
        };
        table.track(key, piece, true, START)
    };
    let mut table = FragmentTable::default();
    // One source: its oldest datagram gives way.
    for index in 0..16 {
        assert!(wait(&mut table, key(1, 1), index).is_ok());
    }
    for id in 0..u32::from(WAITING_OF_SOURCE) - 16 {
        assert!(wait(&mut table, key(1, 2 + id), 0).is_ok());
    }
    assert_eq!(table.next_release(), None);
    assert!(wait(&mut table, key(1, 1_000), 0).is_ok());
    let release = table.next_release().unwrap();
    assert_eq!(release.outcome, Err(DropReason::FragmentTableFull));
    assert_eq!(table.waiting(), WAITING_OF_SOURCE - 15);
    // Many sources: the heaviest's.
    for source in 0..WAITING {
        assert!(wait(&mut table, key(10 + source, 0), 0).is_ok());
    }
    assert_eq!(table.waiting(), WAITING);
    for source in 0..WAITING {
        assert!(first(&mut table, key(10 + source, 0), START).is_ok(), "{source}");
    }
}

/// A datagram whose own fragments are the source's share does not push itself out.
#[test]
fn a_datagram_with_too_many_waiting_fragments_keeps_those_that_it_has() {
    let mut table = FragmentTable::default();
    let piece = |index: u16| Piece {
        from: 1_480 + index * 8,
        to: 1_488 + index * 8,
        ..LATER
    };
    for index in 0..WAITING_OF_SOURCE {
        assert!(table.track(key(1, 1), piece(index), true, START).is_ok());
    }
    let refused = table.track(key(1, 1), piece(WAITING_OF_SOURCE), true, START);
    assert_eq!(refused, Err(DropReason::FragmentTableFull));
    assert!(first(&mut table, key(1, 1), START).is_ok());
    assert!(
        table
            .next_release()
            .is_some_and(|release| release.outcome == Ok(()))
    );
}
