//! What members may start by name: each workflow with the scope it needs and the reading of its input.
//! Who enters: services, with what they offer; requests, with an input in JSON.
//! What leaves: the plan that the workflow is started with.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::caller::Scope;
use super::objects;
use super::problem::Problem;
use crate::ids::WorkspaceId;

type Planning = Pin<Box<dyn Future<Output = Result<Value, Problem>> + Send>>;

/// A workflow that members may start by name.
pub struct Offer {
    /// Its name.
    pub workflow: &'static str,
    /// The scope that whoever starts it must have, besides that of starting workflows at all.
    pub scope: Scope,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The form of its input.
    pub form: Value,
    plan: Arc<dyn Fn(WorkspaceId, Value) -> Planning + Send + Sync>,
}

impl Offer {
    /// Offers a workflow: `plan` turns its input `F` into what the workflow is started with.
    pub fn new<F, P, Fut>(
        workflow: &'static str,
        scope: Scope,
        summary: &'static str,
        plan: impl Fn(WorkspaceId, F) -> Fut + Send + Sync + 'static,
    ) -> Self
    where
        F: DeserializeOwned + JsonSchema,
        P: Serialize,
        Fut: Future<Output = Result<P, Problem>> + Send + 'static,
    {
        let plan = move |workspace, input: Value| -> Planning {
            let form = objects::from_value::<F>(input);
            match form.map(|form| plan(workspace, form)) {
                Ok(planning) => Box::pin(async move {
                    serde_json::to_value(planning.await?).map_err(|why| Problem::internal(&why))
                }),
                Err(why) => Box::pin(async move { Err(why) }),
            }
        };
        let form = schemars::schema_for!(F).to_value();
        Self { workflow, scope, summary, form, plan: Arc::new(plan) }
    }

    /// The plan for an input.
    ///
    /// # Errors
    /// The input is not of its form, or names what is not there.
    pub async fn prepare(&self, workspace: WorkspaceId, input: Value) -> Result<Value, Problem> {
        (self.plan)(workspace, input).await
    }
}
