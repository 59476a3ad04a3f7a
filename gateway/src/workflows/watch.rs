//! Who hears what workflows do: the figures, the traces, and what services remember of rows that a workflow changed.
//! Who enters: the engine, after each durable commit and around each call.
//! What leaves: counters for Prometheus; spans; memories forgotten before anybody is told of an end.

use std::sync::Arc;
use std::time::Duration;

use sagas::{Deed, Observer, Past, SagaKey, State, StepContext, Watched};

use crate::ids::WorkspaceId;
use crate::metrics::Metrics;
use crate::services::devices::Devices;
use crate::services::keys::Keys;
use crate::services::workspaces::Workspaces;
use crate::workflows::spans::Spans;

/// Hears and counts.
pub struct Watch {
    metrics: Metrics,
    spans: Spans,
    keys: Arc<Keys>,
    workspaces: Arc<Workspaces>,
    devices: Arc<Devices>,
}

impl Watch {
    /// Over the figures, the traces and the services that remember.
    pub fn new(
        metrics: Metrics,
        spans: Spans,
        keys: Arc<Keys>,
        workspaces: Arc<Workspaces>,
        devices: Arc<Devices>,
    ) -> Self {
        Self { metrics, spans, keys, workspaces, devices }
    }

    /// The roster follows the rows, also when whoever asked has gone. A workspace that is closed for good was off the roster
    /// before, so nobody acts in it in between.
    fn follow(&self, workspace: WorkspaceId) {
        let (workspaces, devices) = (self.workspaces.clone(), self.devices.clone());
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(why) = workspaces.refresh(&workspace).await {
                tracing::warn!(%why, %workspace, "the roster is behind; the next start reads it anew");
            }
            if let Err(why) = devices.refresh(&workspace).await {
                tracing::warn!(%why, %workspace, "the roster is behind; the next start reads it anew");
            }
        });
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
        let workspace = saga.scope.workspace().map(|workspace| workspace.as_str().parse::<WorkspaceId>());
        let Some(Ok(workspace)) = workspace else { return };
        if workflow.starts_with("key.") {
            self.keys.forget(&workspace);
        }
        if workflow.starts_with("workspace.") {
            self.follow(workspace);
        }
    }

    fn called(&self, _workflow: &str, _step: &str, took: Duration) {
        self.metrics.spent("workflow_call", took);
    }

    fn watch(&self, deed: Deed, at: &StepContext, work: Watched) -> Watched {
        self.spans.watch(deed, at, work)
    }

    fn taken(&self, deed: Deed, at: &StepContext, past: &Past) {
        self.spans.taken(deed, at, past);
    }

    fn parked(&self, saga: &SagaKey, workflow: &str, version: u32) {
        tracing::error!(saga = %saga.id, workflow, version, "this build lacks the definition of a workflow that lives; it waits");
    }
}
