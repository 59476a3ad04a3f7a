//! The engine of the house: built over the services whose commands its steps are, and put in its place.
//! Who enters: the wiring, once the ledger is vouched for and the services stand.
//! What leaves: a running engine, which has taken up every workflow that the last run left open.

use std::sync::Arc;

use audit::{MachineRandom, Standing};
use sagas::{Catalog, Engine, EngineParts, SagaLimits, Seal};

use super::Unbuilt;
use crate::metrics::Metrics;
use crate::services::devices::Devices;
use crate::services::ground::Ground;
use crate::traces::Traces;
use crate::workflows;
use crate::workflows::spans::Spans;
use crate::workflows::watch::Watch;

/// Starts the engine. A frozen ledger lets no workflow run.
///
/// # Errors
/// The workflows do not fit together, or the open ones could not be taken up.
pub(super) async fn run(
    ground: &Ground,
    seal: Arc<dyn Seal>,
    metrics: &Metrics,
    traces: &Traces,
    services: &workflows::Services<'_>,
    devices: &Arc<Devices>,
) -> Result<Catalog, Unbuilt> {
    let catalog = workflows::catalog(services)?;
    if ground.ledger.health().standing != Standing::Open {
        return Ok(catalog);
    }
    let engine = Engine::start(EngineParts {
        ledger: ground.ledger.clone(),
        catalog: catalog.clone(),
        seal,
        clock: Arc::clone(&ground.clock),
        random: Arc::new(MachineRandom),
        limits: SagaLimits::default(),
        observer: Arc::new(Watch::new(
            metrics.clone(),
            Spans::new(traces.clone(), Arc::clone(&ground.clock), ground.dice.clone()),
            Arc::clone(services.keys),
            Arc::clone(services.workspaces),
            Arc::clone(devices),
        )),
    });
    ground.runner.install(engine.await.map_err(Unbuilt::Engine)?);
    Ok(catalog)
}
