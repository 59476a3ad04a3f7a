//! What is wrong with a configuration: each defect with key, line, and what would be right.
//! Who enters: whatever the reading and the checks found.
//! What leaves: lines for people, and one list for programs.

use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Defect {
    /// Where: `section.key`.
    pub at: String,
    /// The line of the file, where the key or its section stands in it.
    pub line: Option<usize>,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}:{}", list(.defects))]
pub struct ConfigRefused {
    /// The file.
    pub path: PathBuf,
    /// Everything wrong with it.
    pub defects: Vec<Defect>,
}

impl ConfigRefused {
    pub(super) fn file(path: &Path, why: &std::io::Error) -> Self {
        let defect = Defect { at: "file".to_owned(), line: None, what: format!("cannot be read ({why})") };
        Self { path: path.to_owned(), defects: vec![defect] }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "`{}` {}", self.at, self.what)
    }
}

fn list(defects: &[Defect]) -> String {
    defects.iter().map(|defect| format!("\n  {defect}")).collect()
}

/// The known name that was probably meant.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR_ENOUGH: f64 = 0.7;
    let scored = known.map(|name| (strsim::jaro_winkler(unknown, name), name));
    scored.filter(|(score, _)| *score >= NEAR_ENOUGH).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// That a name is not known, with the one that was probably meant.
pub(super) fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match nearest(name, known.clone()) {
        Some(near) => format!("is unknown; did you mean `{near}`?"),
        None => format!("is unknown; known are {}", known.collect::<Vec<_>>().join(", ")),
    }
}
