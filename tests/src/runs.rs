//! Workflow runs as tests follow them.
//! Who enters: members and operators, with a run's id.
//! What leaves: the run, once it has come as far as the test waits for.

use std::time::Duration;

use serde_json::{Value, json};

use crate::people::{Member, Operator};
use crate::wait::eventually;
use crate::wire::{get, post};

/// The run, once it waits for approval.
pub async fn waiting_for_approval(operator: &Operator, id: &str) -> Value {
    until(operator, id, "a run that waits for approval", |run| !run["approval"].is_null()).await
}

/// The run, once it is in this state.
pub async fn in_state(operator: &Operator, id: &str, state: &str) -> Value {
    until(operator, id, &format!("a run that is {state}"), |run| run["state"] == state).await
}

/// The run, once it is as wanted.
pub async fn until(operator: &Operator, id: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = || async {
        let run = operator.ask(get(format!("/v1/workflows/{id}"))).await.expect(200).json();
        wanted(&run).then_some(run)
    };
    eventually(what, Duration::from_secs(20), look).await.0
}

/// Votes on a run as it stands.
pub async fn vote(member: &Member, run: &Value, verdict: &str) -> crate::Answer {
    let (id, approval) = (run["id"].as_str().unwrap(), &run["approval"]);
    let body = json!({
        "verdict": verdict,
        "digest": approval["digest"],
        "policy_version": approval["policy_version"],
    });
    member.ask(post(format!("/v1/workflows/{id}/approvals"), body)).await
}
