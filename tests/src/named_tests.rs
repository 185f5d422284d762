//! Pages with a table of what is required and the tests that show it: every test that such a table names exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The text of a file of this repository.
pub(crate) fn read(path: &str) -> String {
    let path = top().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A row of a table: its first cell and its last one.
struct Row<'a> {
    name: &'a str,
    shown_by: &'a str,
}

/// The rows of all tables of a page, without those of headings.
fn rows(page: &str) -> Vec<Row<'_>> {
    let lines: Vec<&str> = page.lines().collect();
    let is_rule = |line: &&str| line.starts_with("|--");
    let row = |(at, line): (usize, &&'_ str)| {
        let is_heading = lines.get(at + 1).is_some_and(is_rule);
        if !line.starts_with("| ") || is_heading {
            return None;
        }
        let cells = lines[at].trim_start_matches("| ").trim_end_matches(" |");
        let (name, rest) = cells.split_once(" | ")?;
        let (_, shown_by) = rest.rsplit_once(" | ").unwrap_or(("", rest));
        Some(Row { name, shown_by })
    };
    lines.iter().enumerate().filter_map(row).collect()
}

/// What is wrong with a cell that names tests: each file once, in backticks, with the tests in it behind it.
fn fault(cell: &str) -> Option<String> {
    let mut file: Option<(&str, String)> = None;
    let mut tests = 0;
    for (at, piece) in cell.split('`').enumerate() {
        if at % 2 == 0 {
            if !matches!(piece, "" | " " | ", ") {
                return Some(format!("{piece:?} is neither a file nor a test"));
            }
        } else if piece.contains('/') {
            let Ok(text) = std::fs::read_to_string(top().join(piece)) else {
                return Some(format!("there is no file {piece}"));
            };
            file = Some((piece, text));
        } else {
            let Some((path, text)) = &file else {
                return Some(format!("{piece} has no file"));
            };
            if !is_test(text, piece) {
                return Some(format!("{path} has no test {piece}"));
            }
            tests += 1;
        }
    }
    (tests == 0).then(|| "no test".to_owned())
}

/// Whether a function of this source is a test: by its attribute, in the four lines above, or as one of those that
/// run on each attachment.
fn is_test(source: &str, name: &str) -> bool {
    let definition = format!("fn {name}(");
    source.match_indices(&definition).any(|(at, _)| {
        let mut above = source[..at].lines().rev().take(4);
        above.any(|line| line.contains("#[test]") || line.contains("#[tokio::test"))
            || source[at + definition.len()..].starts_with("attachment: &Attachment")
    })
}

#[test]
fn each_fault_of_the_predecessor_and_each_behaviour_of_the_control_plane_has_a_test() {
    let page = read("tests/nsm/README.md");
    let rows = rows(&page);
    let names = (1..=24).map(|number| format!("P{number}"));
    for name in names.chain((1..=22).map(|number| format!("C{number}"))) {
        let row = rows.iter().find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("there is no row {name}"));
        assert_eq!(fault(row.shown_by), None, "{name}");
    }
}

#[test]
fn each_row_of_the_conformance_page_has_a_test_or_a_reason() {
    let page = read("docs/conformance.md");
    let mut names = BTreeSet::new();
    for row in rows(&page) {
        assert!(names.insert(row.name.to_owned()), "{} is there twice", row.name);
        let reason = ["Not applicable: ", "Not offered: "]
            .iter()
            .find_map(|kind| row.shown_by.strip_prefix(kind));
        match reason {
            Some(reason) => assert!(reason.len() > 10, "{}: why?", row.name),
            None => assert_eq!(fault(row.shown_by), None, "{}", row.name),
        }
    }
    let numbered = [
        ("RFC 4787 REQ-", 14),
        ("RFC 5382 REQ-", 10),
        ("RFC 5508 REQ-", 11),
        ("C", 8),
        ("H", 18),
        ("W", 22),
    ];
    for (prefix, count) in numbered {
        for number in 1..=count {
            let name = format!("{prefix}{number}");
            assert!(names.contains(&name), "there is no row {name}");
        }
    }
}

#[test]
fn a_row_that_names_no_test_is_noticed() {
    let here = "`tests/src/named_tests.rs`";
    let good = format!("{here} `a_row_that_names_no_test_is_noticed`");
    assert_eq!(fault(&good), None);
    assert_eq!(fault(&format!("{good}, {good}")), None);
    for bad in [
        "open".to_owned(),
        String::new(),
        here.to_owned(),
        format!("{good} and others"),
        format!("{here} `a_test_that_is_not_there`"),
        // A function, and no test.
        format!("{here} `fault`"),
        "`a_row_that_names_no_test_is_noticed`".to_owned(),
        "`tests/src/nowhere.rs` `a_row_that_names_no_test_is_noticed`".to_owned(),
    ] {
        assert!(fault(&bad).is_some(), "{bad:?}");
    }
}
