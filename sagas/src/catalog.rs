//! The list of all definitions that this build can run.
//! Who enters: the wiring, with every definition, several versions of one name included.
//! What leaves: the newest of a name for a start, the very one a row pins for a saga that lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::define::Definition;
use crate::define::step::Act;

/// All definitions of a build.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    definitions: BTreeMap<(&'static str, u32), Arc<Definition>>,
    hashes: BTreeMap<(&'static str, u32), [u8; 32]>,
}

/// Why a list of definitions is no catalog.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogRefused {
    /// Count up.
    #[error("`{name}@{version}` is defined twice; give one of them another version")]
    Twice {
        /// Which workflow.
        name: &'static str,
        /// Which version.
        version: u32,
    },
    /// Define it, or name another.
    #[error("step `{step}` of `{name}` starts `{child}`, which is not defined")]
    NoSuchChild {
        /// Which workflow.
        name: &'static str,
        /// Which step.
        step: &'static str,
        /// What it would start.
        child: &'static str,
    },
    /// A workflow that starts itself never ends.
    #[error("`{name}` starts itself, by way of its child steps")]
    Circle {
        /// Which workflow.
        name: &'static str,
    },
}

impl Catalog {
    /// Takes all definitions together.
    ///
    /// # Errors
    /// Which two clash, or which child does not exist.
    pub fn new(definitions: Vec<Definition>) -> Result<Self, CatalogRefused> {
        let mut catalog = Self::default();
        for definition in definitions {
            let (name, version) = (definition.name, definition.version);
            catalog.hashes.insert((name, version), definition.hash());
            if catalog.definitions.insert((name, version), Arc::new(definition)).is_some() {
                return Err(CatalogRefused::Twice { name, version });
            }
        }
        catalog.check_children()?;
        Ok(catalog)
    }

    /// Every definition, by name and version.
    pub fn definitions(&self) -> impl Iterator<Item = &Definition> {
        self.definitions.values().map(Arc::as_ref)
    }

    /// The newest version of a name: what a start takes.
    pub fn newest(&self, name: &str) -> Option<&Arc<Definition>> {
        self.definitions.iter().rev().find(|((own, _), _)| *own == name).map(|(_, definition)| definition)
    }

    /// The very definition that a row pins, if this build has it unchanged.
    pub(crate) fn pinned(&self, name: &str, version: u32, hash: &[u8]) -> Option<&Arc<Definition>> {
        let (key, definition) =
            self.definitions.iter().find(|((own, number), _)| *own == name && *number == version)?;
        (self.hashes.get(key).is_some_and(|own| own == hash)).then_some(definition)
    }

    pub(crate) fn hash(&self, definition: &Definition) -> [u8; 32] {
        match self.hashes.get(&(definition.name, definition.version)) {
            Some(hash) => *hash,
            None => definition.hash(),
        }
    }

    fn check_children(&self) -> Result<(), CatalogRefused> {
        for definition in self.definitions.values() {
            let name = definition.name;
            for (step, child) in children(definition) {
                if self.newest(child).is_none() {
                    return Err(CatalogRefused::NoSuchChild { name, step, child });
                }
            }
            let mut reached = Vec::new();
            let mut next: Vec<&str> = children(definition).map(|(_, child)| child).collect();
            while let Some(child) = next.pop() {
                if child == name {
                    return Err(CatalogRefused::Circle { name });
                }
                if !reached.contains(&child) {
                    reached.push(child);
                    next.extend(self.newest(child).into_iter().flat_map(|it| children(it)).map(|(_, it)| it));
                }
            }
        }
        Ok(())
    }
}

fn children(definition: &Definition) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
    definition.steps.iter().filter_map(|step| match &step.act {
        Act::Child(calls) => Some((step.name, calls.workflow)),
        _ => None,
    })
}
