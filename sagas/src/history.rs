//! What workflows did for one request, line by line: the story as it stands on disk, whatever memory has forgotten.
//! Who enters: operators who follow a request.
//! What leaves: the lines of the workflows' logs, with the names of their steps; nothing of what is sealed in them.

use audit::{ReadRefused, SqlFault};

use crate::engine::Engine;
use crate::ids::SagaKey;
use crate::limits::PAGE_ROWS_MAX;
use crate::store::{self, LogRow};

/// One line of one workflow's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// Which workflow run.
    pub saga: SagaKey,
    /// Its workflow's name.
    pub workflow: String,
    /// The step's name, if this build knows it.
    pub step: Option<&'static str>,
    /// What was done there, and when.
    pub line: LogRow,
}

impl Engine {
    /// What was done by the workflows that a request started, and by their children; of each at most a page.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn history(&self, request: &str) -> Result<Vec<HistoryLine>, ReadRefused<SqlFault>> {
        let (request, catalog) = (request.to_owned(), self.inner().parts.catalog.clone());
        let read = move |view: &audit::View<'_>| {
            let mut history = Vec::new();
            for saga in store::of_request(view, &request, PAGE_ROWS_MAX)? {
                let def = catalog.pinned(&saga.workflow, saga.version, &saga.def_hash);
                for line in store::log_page(view, &saga.key, 0, PAGE_ROWS_MAX)? {
                    let step = def.and_then(|def| def.steps.get(line.step)).map(|step| step.name);
                    let (saga, workflow) = (saga.key.clone(), saga.workflow.clone());
                    history.push(HistoryLine { saga, workflow, step, line });
                }
            }
            Ok(history)
        };
        self.inner().parts.ledger.read(read).await
    }
}
