//! The book of cells: for each story a page with every place in which the daemon was killed right after a commit.
//! Who enters: the rounds of a story, with the places they met.
//! What leaves: nothing, or the cell that was not met. `CHANCERY_TORTURE=all` meets them all, `UPDATE=1` writes the page anew.

use std::collections::BTreeSet;
use std::path::PathBuf;

/// The places that were met, each with the number of the commit at which that happened first.
#[derive(Default)]
pub(crate) struct Met {
    places: Vec<(usize, String)>,
    kills: usize,
}

/// One page.
pub(crate) struct Book {
    name: &'static str,
    page: Vec<String>,
    scope: Scope,
}

/// The stories of which a sample is met each time: forward and back, with and without approvals. The others take too long.
const SAMPLE: [&str; 5] =
    ["key.generate", "key.rotate", "key.rotate called off", "signing.request", "workspace.create"];

/// How much of it is met this time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Sample,
    All,
    Anew,
}

/// Where the run stood when it was struck before anything of it was on record.
pub(crate) const BEFORE: &str = "before the start";
/// What stands behind the place where it did not die at the commit, but when it was about to write the next one.
pub(crate) const GOING_ON: &str = ", and on until the next commit";
/// How a step that cannot be undone is marked.
pub(crate) const PIVOT: &str = " (pivot)";

/// Whether a story is told this time.
pub(crate) fn is_told(story: &str) -> bool {
    Scope::asked_for() != Scope::Sample || SAMPLE.contains(&story)
}

impl Scope {
    fn asked_for() -> Self {
        match (std::env::var("UPDATE"), std::env::var("CHANCERY_TORTURE").as_deref()) {
            (Ok(_), _) => Self::Anew,
            (_, Ok("all")) => Self::All,
            _ => Self::Sample,
        }
    }
}

impl Met {
    pub(crate) fn add(&mut self, number: usize, place: String) {
        self.kills += 1;
        // What is written after the end is not the run's.
        let beyond = is_end(&place) && place.ends_with(GOING_ON);
        if !beyond && !self.has(&place) {
            self.places.push((number, place));
        }
    }

    /// In the order in which a run comes by them.
    fn page(mut self) -> Vec<String> {
        self.places.sort_by_key(|(number, place)| (is_end(place), *number));
        self.places.into_iter().map(|(_, place)| place).collect()
    }

    fn has(&self, place: &str) -> bool {
        self.places.iter().any(|(_, met)| met == place)
    }

    /// What the log tells and no kill followed; and places that were met at one of the two moments only.
    fn lacks(&self, log: &[String]) -> Vec<String> {
        let untold = |said: &&String| !self.places.iter().any(|(_, place)| place.ends_with(*said));
        let other = |(_, place): &(usize, String)| match place.strip_suffix(GOING_ON) {
            Some(place) => place.to_owned(),
            None => format!("{place}{GOING_ON}"),
        };
        let open = self.places.iter().filter(|(_, place)| !is_end(place));
        let others = open.map(other).filter(|other| !self.has(other));
        log.iter().filter(untold).cloned().chain(others).collect()
    }
}

/// Behind the last commit there is no next one.
fn is_end(place: &str) -> bool {
    place.starts_with("succeeded") || place.starts_with("compensated")
}

impl Book {
    /// The page of a story.
    pub(crate) fn open(name: &'static str) -> Self {
        let text = std::fs::read_to_string(page_of(name)).unwrap_or_default();
        Self { name, page: text.lines().map(str::to_owned).collect(), scope: Scope::asked_for() }
    }

    /// After which commits to kill, in order: all there can be; or, as a sample, the first of the run, the one before its pivot
    /// or in its middle, and the last.
    pub(crate) fn numbers(&self, most: usize) -> Vec<usize> {
        if self.scope != Scope::Sample {
            return (1..=most).collect();
        }
        let page: Vec<_> = self.page.iter().filter(|place| !place.ends_with(GOING_ON)).collect();
        let pivot = page.iter().position(|place| place.contains(PIVOT));
        // The answer to the request that starts a run may be kept in a commit of its own, which is no place.
        let middle = pivot.unwrap_or(page.len() / 2).max(1);
        BTreeSet::from([1, middle, page.len(), page.len() + 1]).into_iter().collect()
    }

    /// Whether nothing is left to meet.
    pub(crate) fn is_full(&self, met: &Met, log: &[String]) -> bool {
        match self.scope {
            Scope::Sample => true,
            Scope::All => met.lacks(log).is_empty() && self.page.iter().all(|place| met.has(place)),
            Scope::Anew => met.lacks(log).is_empty(),
        }
    }

    /// Holds what was met against the page, and against what the log of an undisturbed run tells.
    pub(crate) fn close(self, met: Met, log: &[String]) {
        let name = self.name;
        println!("{name}: {} places met in {} kills", met.places.len(), met.kills);
        assert!(met.kills > 0, "{name}: no commit was met, and a test without a crash proves nothing");
        if self.scope != Scope::Sample {
            assert!(met.lacks(log).is_empty(), "{name}: not met: {:#?}\n{:#?}", met.lacks(log), met.places);
        }
        let places = met.page();
        if self.scope == Scope::Anew {
            return std::fs::write(page_of(name), places.join("\n") + "\n").expect("write the page");
        }
        let beyond = |one: &[String], other: &[String]| {
            one.iter().filter(|place| !other.contains(place)).cloned().collect::<Vec<_>>()
        };
        let (new, unmet) = (beyond(&places, &self.page), beyond(&self.page, &places));
        assert!(new.is_empty(), "{name}: not in the book: {new:#?}; UPDATE=1 writes it anew");
        assert!(
            self.scope == Scope::Sample || unmet.is_empty(),
            "{name}: in the book, and not met: {unmet:#?}"
        );
    }
}

/// Every page of the book: a story's name, and its places.
pub(crate) fn pages() -> Vec<(String, Vec<String>)> {
    let files = std::fs::read_dir(folder()).expect("the book").flatten();
    let page = |file: std::fs::DirEntry| {
        let name = file.path().file_stem().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file.path()).expect("a page");
        (name, text.lines().map(str::to_owned).collect())
    };
    files.map(page).collect()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/kills/book")
}

fn page_of(name: &str) -> PathBuf {
    folder().join(format!("{name}.txt"))
}
