//! The power goes after every commit of every workflow, on the real daemon over a real token.
//! Who enters: one story for each workflow of the build, and one for each way in which it turns round while it waits.
//! What leaves: one whole end each time, whatever the commit: done, or as if it had never begun; and a book of every cell.

mod book;
mod erasure;
mod houses;
mod keys;
mod place;
mod rounds;
mod signing;
mod stage;
mod story;
mod trouble;
mod world;

use std::collections::BTreeSet;

/// The list of workflows; another test holds it against the build.
const WORKFLOWS: &str = include_str!("../../../docs/workflows.md");
const SAGAS: &str = include_str!("../../../docs/sagas.md");
/// Their steps, as the build defines them; another test holds that too.
const STEPS: &str = include_str!("../../../gateway/tests/golden/workflow-steps.txt");
const STORIES: [&str; 3] = [include_str!("houses.rs"), include_str!("keys.rs"), include_str!("signing.rs")];

#[test]
fn every_workflow_that_runs_has_its_page_in_the_book_from_start_to_end() {
    let cells =
        |line: &'static str| line.split('|').map(|cell| cell.trim().trim_matches('`')).collect::<Vec<_>>();
    let runs: BTreeSet<&str> =
        WORKFLOWS.lines().map(cells).filter(|row| row.get(3) == Some(&"runs")).map(|row| row[2]).collect();
    assert!(runs.len() >= 12, "{runs:?}");
    let pages = book::pages();
    for workflow in runs {
        let page = pages.iter().find(|(name, _)| name == workflow);
        let (_, places) = page.unwrap_or_else(|| panic!("{workflow} has no story"));
        assert!(places.last().is_some_and(|place| place.starts_with("succeeded")), "{workflow}: {places:?}");
    }
    for (name, places) in &pages {
        let told = STORIES.iter().filter(|stories| stories.contains(&format!("\"{name}\""))).count();
        assert_eq!(told, 1, "no story has the page `{name}`");
        assert!(places.len() > 2, "{name}: {places:?}");
    }
}

#[test]
fn every_undo_of_every_workflow_is_met_in_a_story() {
    let mut unmet = Vec::new();
    for (workflow, steps) in defined() {
        for (place, (name, undo)) in steps.iter().enumerate() {
            // A run of the appliance itself shows its steps by number.
            let said = [format!("undo done {name}"), format!("undo done step {}", place + 1)];
            let of_workflow = |(story, _): &&(String, Vec<String>)| {
                story.strip_prefix(workflow).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            };
            let pages = book::pages();
            let mut places = pages.iter().filter(of_workflow).flat_map(|(_, places)| places);
            let met = places.any(|place| said.iter().any(|said| place.ends_with(said.as_str())));
            if *undo && !met {
                unmet.push((workflow, *name));
            }
        }
    }
    assert_eq!(unmet, [], "not undone in any story");
}

/// Each workflow, and of each step its name and whether it has an undo.
fn defined() -> Vec<(&'static str, Vec<(&'static str, bool)>)> {
    let mut workflows = Vec::<(_, Vec<_>)>::new();
    for line in STEPS.lines() {
        match (line.split_once('@'), line.split(' ').collect::<Vec<_>>().as_slice(), workflows.last_mut()) {
            (Some((name, _)), ..) => workflows.push((name, Vec::new())),
            (None, [_, _, name, how, ..], Some((_, steps))) => {
                steps.push((*name, ["undo=local", "undo=remote"].iter().any(|undo| how.starts_with(undo))));
            }
            _ => panic!("this line defines nothing: {line}"),
        }
    }
    workflows
}

#[test]
fn the_number_of_cells_that_is_told_is_the_number_in_the_book() {
    let pages = book::pages();
    let cells: usize = pages.iter().map(|(_, places)| places.len()).sum();
    let words = format!("{} stories, {cells} cells", pages.len());
    assert!(SAGAS.contains(&words), "docs/sagas.md does not say: {words}");
}
