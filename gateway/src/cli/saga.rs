//! Commands about workflow runs: look at them, approve, call off, and lead on what is stuck.
//! Who enters: parsed arguments.
//! What leaves: tables, pictures, sentences or JSON.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::asking::is_sure;
use super::local::Ask;
use super::{Common, Failure, code, show};
use crate::runs::shown;
use crate::services::signing::approvals;

/// What to do with workflow runs.
#[derive(Debug, Subcommand)]
pub(super) enum SagaCommand {
    /// List runs, newest first: of a workspace with --workspace, of everybody without.
    List(ListArgs),
    /// Show one run: its steps, what it waits for, why it is stuck and what can be done.
    Show {
        /// Its id.
        id: String,
    },
    /// Which workflows can be started by name, and with what.
    Offers,
    /// Start a workflow by its name.
    Start {
        /// Its name, such as key.rotate.
        workflow: String,
        /// Its input, JSON.
        input: String,
    },
    /// Call a run off: what it did is undone.
    Cancel(Because),
    /// Approve what a run waits for: it is shown first, and asked about.
    Approve(VoteArgs),
    /// Refuse what a run waits for: it is shown first, and asked about.
    Refuse(VoteArgs),
    /// Try the stuck step, or the stuck undo, again.
    Retry(Because),
    /// Say what a stuck step left behind, because it has happened.
    SupplyResult {
        #[command(flatten)]
        because: Because,
        /// What it left behind, JSON.
        #[arg(long)]
        result: String,
    },
    /// Leave the stuck undo out, and undo the others.
    SkipUndo(Because),
    /// Go forward after all, from the step whose undo is stuck.
    ResumeForward(Because),
    /// Undo what was done; before the pivot only.
    Unwind(Because),
    /// Let go: locks are released, and nothing more is done.
    Abandon(Because),
}

/// Which run, and why.
#[derive(Debug, Args)]
pub(super) struct Because {
    /// Its id.
    id: String,
    /// Why; it stands on the ledger.
    #[arg(long)]
    reason: String,
}

/// Which run, and how sure.
#[derive(Debug, Args)]
pub(super) struct VoteArgs {
    /// Its id.
    id: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Do not ask, but vote only if this is the digest of what waits.
    #[arg(long)]
    digest: Option<String>,
}

/// Which runs.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Of this workflow only.
    #[arg(long = "of")]
    workflow: Option<String>,
    /// In this state only, such as waiting or stuck_forward.
    #[arg(long)]
    state: Option<String>,
    /// Where the page before ended.
    #[arg(long)]
    after: Option<String>,
}

const COLUMNS: [&str; 7] = ["id", "workflow", "state", "step", "attempt", "actor", "error"];

pub(super) fn saga(common: &Common, command: SagaCommand) -> Result<(), Failure> {
    match command {
        SagaCommand::List(args) => list(common, args),
        SagaCommand::Show { id } => picture(common, &id),
        SagaCommand::Offers => {
            let common = &common.in_workspace()?;
            let answer = Ask::get("/v1/workflow-offers").send(common)?;
            show::table(common.json, &answer, "offers", &["workflow", "scope", "summary"]);
            Ok(())
        }
        SagaCommand::Start { workflow, input } => {
            let common = &common.in_workspace()?;
            let ask = Ask::post(format!("/v1/workflows/{workflow}"), Some(parsed("INPUT", &input)?));
            tell(common, &ask.send(common)?)
        }
        SagaCommand::Cancel(Because { id, reason }) => {
            let ask = Ask::post(format!("/v1/workflows/{id}/cancel"), Some(json!({ "reason": reason })));
            tell(common, &ask.send(common)?)
        }
        SagaCommand::Approve(args) => vote(common, &args, "approve"),
        SagaCommand::Refuse(args) => vote(common, &args, "refuse"),
        SagaCommand::Retry(because) => lead(common, "retry", &because, None),
        SagaCommand::SupplyResult { because, result } => {
            lead(common, "supply-result", &because, Some(parsed("--result", &result)?))
        }
        SagaCommand::SkipUndo(because) => lead(common, "skip-undo", &because, None),
        SagaCommand::ResumeForward(because) => lead(common, "resume-forward", &because, None),
        SagaCommand::Unwind(because) => lead(common, "unwind", &because, None),
        SagaCommand::Abandon(because) => lead(common, "abandon", &because, None),
    }
}

fn list(common: &Common, args: ListArgs) -> Result<(), Failure> {
    let base = if common.workspace.is_some() { "/v1/workflows" } else { "/v1/workflows-everywhere" };
    let pairs = [("workflow", args.workflow), ("state", args.state), ("after", args.after)];
    let pairs: Vec<_> = pairs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let query = serde_html_form::to_string(pairs).unwrap_or_default();
    let answer = Ask::get(format!("{base}?{query}")).send(common)?;
    show::table(common.json, &answer, "workflows", &COLUMNS);
    Ok(())
}

fn picture(common: &Common, id: &str) -> Result<(), Failure> {
    let ask = Ask::get(format!("/v1/workflows/{id}"));
    if common.json {
        say!("{}", ask.send(common)?);
        return Ok(());
    }
    say_on!("{}", ask.into_text().send(common)?.as_str().unwrap_or_default());
    Ok(())
}

/// A vote repeats what was shown, so it is shown first: what is shown is what the digest is over, computed here and not believed.
fn vote(common: &Common, args: &VoteArgs, verdict: &str) -> Result<(), Failure> {
    let VoteArgs { id, yes, digest } = args;
    let seen = Ask::get(format!("/v1/workflows/{id}")).send(common)?;
    let approval = &seen["approval"];
    if approval.is_null() {
        return Err(Failure::new(code::REFUSED, "wrong_state", "the workflow does not wait for approval"));
    }
    let document = approval["document"].as_str().unwrap_or_default();
    let computed = approvals::digest(document);
    let Some(read) = approvals::shown(document).filter(|_| approval["digest"] == computed) else {
        let words = "what is shown is not what the digest is over; do not vote, and tell the operator";
        return Err(Failure::new(code::REFUSED, "stale_approval", words));
    };
    if digest.as_ref().is_some_and(|digest| !digest.eq_ignore_ascii_case(&computed)) {
        let words = format!("what waits has the digest {computed}; look at it again");
        return Err(Failure::new(code::REFUSED, "stale_approval", words));
    }
    if !common.json {
        say_on!(
            "{} {}{}",
            text(&seen, "workflow"),
            text(&seen, "id"),
            shown::text(&as_hashed(approval, &read))
        );
    }
    let flags = "--yes, or --digest with the digest that you have looked at";
    if !yes && digest.is_none() && !is_sure(&format!("{verdict} this?"), flags)? {
        return Err(Failure::new(code::REFUSED, "not_voted", "nothing was said to it"));
    }
    let body = json!({
        "verdict": verdict,
        "digest": computed,
        "policy_version": approval["policy_version"],
    });
    tell(common, &Ask::post(format!("/v1/workflows/{id}/approvals"), Some(body)).send(common)?)
}

/// An approval in which everything that is hashed stands as it was hashed.
fn as_hashed(approval: &Value, document: &Value) -> Value {
    let mut shown = approval.clone();
    for name in ["consequence", "expires", "needs", "policy_version", "request"] {
        shown[name] = document[name].clone();
    }
    shown["initiator"] = document["requester"].clone();
    shown
}

fn text<'v>(answer: &'v Value, name: &str) -> &'v str {
    answer[name].as_str().unwrap_or_default()
}

fn lead(common: &Common, verb: &str, because: &Because, result: Option<Value>) -> Result<(), Failure> {
    let body = json!({ "reason": because.reason, "result": result });
    tell(common, &Ask::post(format!("/v1/workflows/{}/lead/{verb}", because.id), Some(body)).send(common)?)
}

fn tell(common: &Common, answer: &Value) -> Result<(), Failure> {
    show::fields(common.json, answer, &["id", "workflow", "state", "step", "attempt", "error", "advice"]);
    Ok(())
}

/// JSON from the command line; what is wrong is said of the argument, not of a body.
fn parsed(argument: &str, text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|why| {
        let words = format!(
            "{argument}: not JSON, from character {} on; write an object such as '{{\"key\":\"release\"}}'",
            why.column().max(1)
        );
        Failure::new(code::USAGE, "usage", words)
    })
}
