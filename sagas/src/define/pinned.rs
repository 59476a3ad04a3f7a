//! The pinned file: every definition that was ever released, with its hash. It may grow and never change.
//! Who enters: a catalog and the text of the file.
//! What leaves: nothing, or which definition was edited without a new version, or is missing from the file.

use crate::catalog::Catalog;

/// How catalog and file disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PinRefused {
    /// Give the edited definition a new version, and keep the old one beside it while sagas of it live.
    #[error("`{name}@{version}` was edited: the file pins {pinned}, the definition hashes to {found}")]
    Edited {
        /// Which workflow.
        name: String,
        /// Which version.
        version: u32,
        /// What the file says.
        pinned: String,
        /// What the definition is.
        found: String,
    },
    /// Add the line to the file.
    #[error("the file does not pin `{line}`; add this line")]
    Missing {
        /// The line.
        line: String,
    },
    /// One line is `name@version hash`.
    #[error("this line of the file pins nothing: `{line}`")]
    NotALine {
        /// The line.
        line: String,
    },
}

/// Holds a catalog against the file: one line `name@version hash` for each definition, `#` before a comment. A line
/// whose definition the catalog no longer has is history, and stays.
///
/// # Errors
/// The first definition that is not what the file says.
pub fn check(catalog: &Catalog, file: &str) -> Result<(), PinRefused> {
    let lines = file.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let pins = lines
        .map(|line| line.split_once(' ').ok_or_else(|| PinRefused::NotALine { line: line.to_owned() }))
        .collect::<Result<Vec<_>, _>>()?;
    for definition in catalog.definitions() {
        let named = format!("{}@{}", definition.name(), definition.version());
        let found = hex(&definition.hash());
        match pins.iter().find(|(name, _)| *name == named) {
            Some((_, pinned)) if pinned.trim() == found => {}
            Some((_, pinned)) => {
                return Err(PinRefused::Edited {
                    name: definition.name().to_owned(),
                    version: definition.version(),
                    pinned: pinned.trim().to_owned(),
                    found,
                });
            }
            None => return Err(PinRefused::Missing { line: format!("{named} {found}") }),
        }
    }
    Ok(())
}

/// The lines for a catalog, for the first version of the file.
pub fn lines(catalog: &Catalog) -> String {
    catalog.definitions().map(|it| format!("{}@{} {}\n", it.name(), it.version(), hex(&it.hash()))).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
