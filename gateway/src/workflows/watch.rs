//! Who hears what workflows do: the figures, and what services remember of rows that a workflow changed.
//! Who enters: the engine, after each durable commit.
//! What leaves: counters for Prometheus; memories forgotten before anybody is told of an end.

use std::sync::Arc;
use std::time::Duration;

use sagas::{Observer, SagaKey, State};

use crate::ids::WorkspaceId;
use crate::metrics::Metrics;
use crate::services::keys::Keys;

/// Hears and counts.
pub struct Watch {
    metrics: Metrics,
    keys: Arc<Keys>,
}

impl Watch {
    /// Over the figures and the services that remember.
    pub fn new(metrics: Metrics, keys: Arc<Keys>) -> Self {
        Self { metrics, keys }
    }
}

impl Observer for Watch {
    fn started(&self, workflow: &str) {
        self.metrics.workflow(workflow, "started");
    }

    fn ended(&self, workflow: &str, state: State, after: Duration) {
        self.metrics.workflow(workflow, state.as_str());
        tracing::info!(workflow, state = state.as_str(), seconds = after.as_secs_f64(), "a workflow ended");
    }

    fn stuck(&self, workflow: &str, stuck: bool) {
        self.metrics.workflow_stuck(workflow, stuck);
        if stuck {
            tracing::error!(workflow, "a workflow is stuck and needs a person: `chancery saga list`");
        }
    }

    fn committed(&self, saga: &SagaKey, workflow: &str, took: Duration) {
        self.metrics.spent("workflow_commit", took);
        if !workflow.starts_with("key.") {
            return;
        }
        let workspace = saga.scope.workspace().map(|workspace| workspace.as_str().parse::<WorkspaceId>());
        if let Some(Ok(workspace)) = workspace {
            self.keys.forget(&workspace);
        }
    }

    fn called(&self, _workflow: &str, _step: &str, took: Duration) {
        self.metrics.spent("workflow_call", took);
    }

    fn parked(&self, saga: &SagaKey, workflow: &str, version: u32) {
        tracing::error!(saga = %saga.id, workflow, version, "this build lacks the definition of a workflow that lives; it waits");
    }
}
