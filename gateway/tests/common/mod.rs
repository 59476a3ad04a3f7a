//! What the tests of the gateway share: the tree they read, golden texts, a house over doubles.
//! Who enters: tests beside this folder.
//! What leaves: file texts, fenced blocks, verdicts on golden files.
#![allow(dead_code, unreachable_pub, reason = "each test uses the part it needs")]

pub mod house;

use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above this package").to_owned()
}

/// A file of the tree.
pub fn text(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|why| panic!("{} cannot be read: {why}", path.display()))
}

/// All files under a folder with this ending, sorted, relative to the root.
pub fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    gather(&root().join(folder), ending, &mut found);
    let mut names: Vec<_> = found
        .iter()
        .map(|path| path.strip_prefix(root()).expect("under the root").display().to_string())
        .collect();
    names.sort();
    names
}

fn gather(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            gather(&path, ending, found);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
}

/// The lines of the fenced block of this language in a document.
pub fn fenced(document: &str, language: &str) -> Vec<String> {
    let text = text(document);
    let open = format!("```{language}");
    let lines = text.lines().skip_while(|line| line.trim() != open).skip(1);
    let block: Vec<_> = lines.take_while(|line| line.trim() != "```").map(str::to_owned).collect();
    assert!(!block.is_empty(), "{document} has no block ```{language}");
    block
}

/// The cells of the table rows in a document whose first cell passes.
pub fn table_rows(document: &str, first: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let text = text(document);
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    let cells = rows.map(|row| row.split(" | ").map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells.filter(|cells| cells.first().is_some_and(|cell| first(cell))).collect()
}

/// Compares with a file of the tree; with `UPDATE=1` in the environment the file is rewritten instead.
pub fn golden(path: &str, made: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, made).unwrap_or_else(|why| panic!("{} cannot be written: {why}", file.display()));
        return;
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == made,
        "{path} is not what the code makes (UPDATE=1 rewrites it):\n{}",
        difference(&kept, made)
    );
}

fn difference(kept: &str, made: &str) -> String {
    let (kept, made): (Vec<_>, Vec<_>) = (kept.lines().collect(), made.lines().collect());
    let at = kept.iter().zip(&made).take_while(|(kept, made)| kept == made).count();
    format!("line {}:\n  kept {:?}\n  made {:?}", at + 1, kept.get(at), made.get(at))
}
