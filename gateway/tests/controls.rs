//! The table of controls is held against the tree: each claim names files that exist and tests that exist.
//! Who enters: docs/controls.md.
//! What leaves: the first id, file or test that is missing, doubled or unknown.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeSet;

const DOCUMENT: &str = "docs/controls.md";
/// What is claimed and kept.
const KEPT: &str = "K1-8 K10 K12 L1-9 L11 B1-10 B12 I9 S2-6 T1-3 O1-3 O6 P3";
/// What is claimed for later.
const LATER: &str = "K9 K11 L10 I1-8 F1-4 S1 G1-6 W1-5 X1-3 P1-2 O4-5";

fn ids(ranges: &str) -> BTreeSet<String> {
    let each = ranges.split(' ').flat_map(|range| {
        let (group, numbers) = range.split_at(1);
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let numbers = first.parse::<u32>().expect("a number")..=last.parse().expect("a number");
        numbers.map(move |number| format!("{group}{number}"))
    });
    each.collect()
}

fn is_id(cell: &str) -> bool {
    cell.len() <= 3 && cell.starts_with(|c: char| c.is_ascii_uppercase()) && cell[1..].parse::<u32>().is_ok()
}

fn rows(columns: usize) -> Vec<Vec<String>> {
    let rows = common::table_rows(DOCUMENT, is_id);
    rows.into_iter().filter(|row| row.len() == columns).collect()
}

fn assert_ids(rows: &[Vec<String>], expected: &BTreeSet<String>) {
    let found: Vec<_> = rows.iter().map(|row| row[0].clone()).collect();
    let once: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(once.len(), found.len(), "an id stands twice");
    assert_eq!(&once, expected);
}

/// The names between commas, each either a path or `path::test`.
fn names(cell: &str) -> Vec<&str> {
    cell.split(", ").map(|name| name.trim_matches('`')).collect()
}

#[test]
fn every_id_stands_once_and_in_its_table() {
    assert_ids(&rows(4), &ids(KEPT));
    assert_ids(&rows(3), &ids(LATER));
    let all = common::table_rows(DOCUMENT, is_id).len();
    assert_eq!(all, ids(KEPT).len() + ids(LATER).len(), "a row has the wrong number of cells");
}

#[test]
fn every_enforcing_file_exists() {
    for row in rows(4) {
        for file in names(&row[2]) {
            assert!(common::root().join(file).is_file(), "{}: there is no file {file}", row[0]);
        }
    }
}

#[test]
fn every_test_named_exists_and_is_a_test() {
    for row in rows(4) {
        for name in names(&row[3]) {
            let (file, test) =
                name.split_once("::").unwrap_or_else(|| panic!("{}: {name} names no test", row[0]));
            assert!(common::root().join(file).is_file(), "{}: there is no file {file}", row[0]);
            assert!(is_test(file, &common::text(file), test), "{}: {file} has no test {test}", row[0]);
        }
    }
}

/// A test is a function with the attribute right above it; the conformance suite makes tests of all its cases.
fn is_test(file: &str, text: &str, name: &str) -> bool {
    if name == "compile_fail" {
        return text.contains("```compile_fail");
    }
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let Some(at) = lines.iter().position(|line| line.contains(&head)) else { return false };
    let attributes =
        lines[..at].iter().rev().take_while(|line| line.starts_with('#') || line.starts_with("//"));
    let marked =
        attributes.clone().any(|line| line.starts_with("#[test") || line.starts_with("#[tokio::test"));
    let ignored = attributes.clone().any(|line| line.starts_with("#[ignore"));
    let case = file.starts_with("hsm/tests/conformance/") && lines[at].starts_with("pub async fn");
    // A case is a test once the suite lists it.
    let listed =
        || common::text("hsm/tests/conformance/mod.rs").lines().any(|line| line.trim() == format!("{name},"));
    (marked && !ignored) || (case && listed())
}
