//! The list of the forty-two workflows, held against the build; and the definitions, held against their pins.
//! Who enters: docs/workflows.md, the catalog of a house, the pinned file.
//! What leaves: nothing, or the row or definition that says otherwise.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeSet;

use common::house::house;

const FORTY_TWO: usize = 42;

fn rows() -> Vec<Vec<String>> {
    let text = common::text("docs/workflows.md");
    let cells =
        |line: &str| line.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned()).collect();
    text.lines()
        .filter(|line| line.starts_with("| ") && line[2..].starts_with(|c: char| c.is_ascii_digit()))
        .map(cells)
        .collect()
}

#[test]
fn the_list_has_forty_two_rows_each_with_its_number_name_and_state() {
    let rows = rows();
    assert_eq!(rows.len(), FORTY_TWO);
    let names: BTreeSet<_> = rows.iter().map(|row| row[1].clone()).collect();
    assert_eq!(names.len(), FORTY_TWO, "a name stands twice");
    for (at, row) in rows.iter().enumerate() {
        assert_eq!(row[0], (at + 1).to_string());
        match row[2].as_str() {
            "runs" => assert!(row[3].is_empty(), "{row:?} runs and waits"),
            "not yet" => assert!(!row[3].is_empty(), "{row:?} does not say what it waits for"),
            other => panic!("{other} is no state"),
        }
    }
}

#[tokio::test]
async fn what_the_list_says_runs_is_what_the_build_defines() {
    let standing = house().await;
    let defined: BTreeSet<String> =
        standing.house.workflows.definitions().map(|definition| definition.name().to_owned()).collect();
    let told: BTreeSet<String> =
        rows().into_iter().filter(|row| row[2] == "runs").map(|row| row[1].clone()).collect();
    assert_eq!(told, defined);
}

/// What the pins stand for, to be read; other tests take from it what a workflow must have undone.
#[tokio::test]
async fn each_definition_is_written_out_step_by_step() {
    let standing = house().await;
    let written = standing.house.workflows.definitions().map(|definition| definition.canonical());
    common::golden("gateway/tests/golden/workflow-steps.txt", &written.collect::<String>());
}

/// Adds lines for what is new. A line that stands is never rewritten: that is what it stands for.
fn add_missing(file: &str, lines: &str) {
    let mut kept = common::text(file);
    for line in lines.lines() {
        let name = line.split(' ').next().unwrap_or_default();
        if !kept.lines().any(|own| own.starts_with(&format!("{name} "))) {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    std::fs::write(common::root().join(file), kept).unwrap();
}

#[tokio::test]
async fn an_edited_definition_needs_a_new_version() {
    let standing = house().await;
    let (catalog, file) = (&standing.house.workflows, "gateway/src/workflows/pinned.txt");
    if std::env::var_os("UPDATE").is_some() {
        add_missing(file, &sagas::pinned::lines(catalog));
    }
    assert_eq!(sagas::pinned::check(catalog, &common::text(file)), Ok(()));
}
