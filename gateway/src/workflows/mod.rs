//! The workflows: every definition of this build, and what their steps share.
//! Who enters: the wiring, with the services.
//! What leaves: a catalog for the engine.

pub mod audit;
pub mod custody_of_keys;
pub mod keys;
pub mod seal;
pub mod signing;
pub mod spans;
pub mod watch;
pub mod workspaces;

use std::sync::Arc;
use std::time::Duration;

use sagas::{Catalog, CatalogRefused, Definition, DefinitionRefused, Probe, RemoteFault};

use crate::services::audit::Audit;
use crate::services::keys::Keys;
use crate::services::signing::Signing;
use crate::services::workspaces::Workspaces;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3600);

/// Why there is no catalog: a fault of ours, found at start.
#[derive(Debug, thiserror::Error)]
pub enum Undefined {
    /// A definition is none.
    #[error("a workflow is not well defined")]
    Definition(#[from] DefinitionRefused),
    /// Definitions clash.
    #[error("the workflows do not fit together")]
    Catalog(#[from] CatalogRefused),
}

/// The services whose commands the steps are.
pub struct Services<'a> {
    /// Keys.
    pub keys: &'a Arc<Keys>,
    /// Signing.
    pub signing: &'a Arc<Signing>,
    /// Workspaces.
    pub workspaces: &'a Arc<Workspaces>,
    /// The ledger as its readers see it.
    pub audit: &'a Arc<Audit>,
}

/// Every workflow of this build.
///
/// # Errors
/// One of them is not well defined.
pub fn catalog(services: &Services<'_>) -> Result<Catalog, Undefined> {
    let Services { keys, signing, workspaces, audit } = services;
    let definitions: Vec<Definition> = vec![
        keys::generate(keys)?,
        keys::rotate(keys)?,
        keys::destroy(keys)?,
        signing::request(signing)?,
        signing::batch(signing)?,
        signing::policy_change(signing)?,
        custody_of_keys::import(keys)?,
        custody_of_keys::backup(keys)?,
        custody_of_keys::restore(keys)?,
        workspaces::create(workspaces)?,
        workspaces::close(workspaces, audit)?,
        audit::seal_export(audit)?,
    ];
    Ok(Catalog::new(definitions)?)
}

/// What was found, in the shape that the step leaves behind.
fn found<T, U>(probe: Probe<T>, shape: impl FnOnce(T) -> U) -> Probe<U> {
    match probe {
        Probe::Applied(value) => Probe::Applied(shape(value)),
        Probe::NotApplied => Probe::NotApplied,
        Probe::Unknown(why) => Probe::Unknown(why),
    }
}

/// The probe of a call that changes nothing: asking once more tells all there is.
async fn asked_again<T, B>(ask: impl Future<Output = Result<T, RemoteFault<B>>>) -> Probe<T> {
    match ask.await {
        Ok(value) => Probe::Applied(value),
        // It has no effect, so it certainly did not take any.
        Err(_) => Probe::NotApplied,
    }
}

/// The probe of a call that has no effect, or one that the next call makes anew: it is simply made again.
async fn made_again<T>() -> Probe<T> {
    Probe::NotApplied
}
