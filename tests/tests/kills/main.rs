//! The power goes after every commit of every workflow, on the real daemon over a real token.
//! Who enters: one story for each workflow of the build, and one for each way in which it turns round while it waits.
//! What leaves: one whole end each time, whatever the commit: done, or as if it had never begun; and a book of every cell.

mod book;
mod houses;
mod keys;
mod place;
mod rounds;
mod signing;
mod stage;
mod story;
mod world;

use std::collections::BTreeSet;

/// The list of workflows; another test holds it against the build.
const WORKFLOWS: &str = include_str!("../../../docs/workflows.md");
const SAGAS: &str = include_str!("../../../docs/sagas.md");
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
fn the_number_of_cells_that_is_told_is_the_number_in_the_book() {
    let pages = book::pages();
    let cells: usize = pages.iter().map(|(_, places)| places.len()).sum();
    let words = format!("{} stories, {cells} cells", pages.len());
    assert!(SAGAS.contains(&words), "docs/sagas.md does not say: {words}");
}
