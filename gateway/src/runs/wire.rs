//! The JSON of workflow runs: what starts, signals and leads one, what is shown of one.
//! Who enters: request bodies and queries, parsed once.
//! What leaves: runs with their steps, in the words of the engine; what an approver must repeat.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sagas::{Filter, SagaId, Scope, State, Verb};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Shown;
use crate::api::{Code, Offer, Problem};
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::moment::Moment;
use crate::services::keys::incoming::Blob;
use crate::services::signing::approvals::{self, Ballot, Decision, Pending, Vote};

/// Which runs to list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunsQuery {
    /// Of this workflow only.
    #[serde(default)]
    pub workflow: Option<String>,
    /// In this state only: `pending`, `running`, `waiting`, `backoff`, `unwinding`, `succeeded`, `compensated`,
    /// `stuck_forward`, `stuck_undo` or `abandoned`.
    #[serde(default)]
    pub state: Option<String>,
    /// The `next` of the page before.
    #[serde(default)]
    pub after: Option<String>,
    /// Items on the page, at most 500; 100 if absent.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// A reason, for the ledger.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Because {
    /// Why.
    pub reason: String,
    /// With `supply-result`: what the step left behind.
    #[serde(default)]
    pub result: Option<Value>,
}

/// A vote. It repeats what the voter has seen, so that it cannot be taken for another.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CastVote {
    /// `approve` or `refuse`.
    #[schemars(extend("enum" = ["approve", "refuse"]))]
    pub verdict: String,
    /// The digest of the request, as shown.
    pub digest: String,
    /// The version of the policy, as shown.
    pub policy_version: i64,
}

/// A key from elsewhere, wrapped as the import key's `incoming` says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WrappedKey {
    /// The wrapped key, base64.
    pub wrapped: String,
}

/// One line of a list of runs. The form is written out here, for the value comes from the engine.
#[derive(Debug, JsonSchema)]
#[allow(dead_code, reason = "the form of an answer that another crate writes")]
pub struct Run {
    /// Whose it is: the workspace, or none for the appliance.
    workspace: Option<String>,
    /// Its id.
    id: String,
    /// The workflow's name.
    workflow: String,
    /// The version of its definition.
    version: u32,
    /// Where it stands.
    #[schemars(extend("enum" = RUN_STATES))]
    state: String,
    /// The step it stands at, if this build knows it.
    step: Option<String>,
    /// Attempts at that step.
    attempt: u32,
    /// Who started it.
    actor: String,
    /// Why it does not go on, or turned round.
    error: Option<String>,
    /// When it is due again, in microseconds since 1970.
    due_us: Option<u64>,
    /// When it was started.
    created_us: u64,
    /// When it last moved.
    updated_us: u64,
    /// Whether this build has its definition; if not, it waits untouched.
    runnable: bool,
}

const RUN_STATES: [&str; 10] = [
    "pending",
    "running",
    "waiting",
    "backoff",
    "unwinding",
    "succeeded",
    "compensated",
    "stuck_forward",
    "stuck_undo",
    "abandoned",
];

/// One step of a run.
#[derive(Debug, JsonSchema)]
#[allow(dead_code, reason = "the form of an answer that another crate writes")]
pub struct RunStep {
    /// Its name.
    name: String,
    /// `local`, `remote`, `wait`, `fan_out` or `child`.
    kind: String,
    /// Whether it is the point of no return.
    pivot: bool,
    /// `ahead`, `current`, `done`, `undone`, `skipped` or `stuck`.
    state: String,
    /// Attempts, forward.
    attempts: u32,
    /// Attempts, back.
    undo_attempts: u32,
    /// When it was first tried.
    began_us: Option<u64>,
    /// When it was done, or undone.
    ended_us: Option<u64>,
    /// The last thing that went wrong with it.
    error: Option<String>,
}

/// What only a single run shows.
#[derive(Debug, JsonSchema)]
#[allow(dead_code, reason = "the form of an answer that another crate writes")]
pub struct RunDetail {
    #[serde(flatten)]
    summary: Run,
    /// Its steps, in order.
    steps: Vec<RunStep>,
    /// Until when it must have reached its pivot.
    deadline_us: Option<u64>,
    /// Whether someone asked it to turn round.
    cancelled: bool,
    /// The request that started it.
    request: String,
    /// The trace that the start belonged to.
    traceparent: Option<String>,
    /// Whose child it is.
    parent: Option<String>,
    /// What its last step left behind, once it has succeeded and while that is kept.
    result: Option<Value>,
    /// What a person can do now, in words.
    advice: Vec<String>,
}

/// A run with its steps.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunAnswer {
    /// The run as the engine tells it: state, steps, attempts, why it is stuck, what can be done.
    #[serde(flatten)]
    #[schemars(with = "RunDetail")]
    pub run: Value,
    /// What waits for approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalAnswer>,
}

/// What an approver needs to know. All of it stands in `document`, and the digest is over nothing else: SHA-256 over the text
/// `chancery.approval.v2`, a zero byte and the document's bytes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ApprovalAnswer {
    /// What happens once enough others agree.
    pub consequence: String,
    /// What exactly it is about: the key with its version and fingerprint, the content's digest, intent and context, or
    /// whatever else the workflow asks for.
    pub request: Value,
    /// The document, as JSON in canonical form: no blanks, names in the order of their bytes.
    pub document: String,
    /// Which step waits.
    pub step: String,
    /// What a vote repeats: the digest of the exact request.
    pub digest: String,
    /// And the version of the policy.
    pub policy_version: i64,
    /// How many others have to agree.
    pub needs: u32,
    /// Who asked, and therefore has no vote.
    pub initiator: String,
    /// Why whoever asked may not ask any more, if it is so: then nothing will be done, whatever others say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdrawn: Option<String>,
    /// Until when.
    pub expires: Moment,
    /// The votes.
    pub votes: Vec<VoteAnswer>,
}

/// A vote that was counted when it came.
#[derive(Debug, Serialize, JsonSchema)]
pub struct VoteAnswer {
    /// Who.
    pub approver: String,
    /// `approve` or `refuse`.
    pub verdict: &'static str,
    /// When.
    pub at: Moment,
    /// Whether it counts now.
    pub counts: bool,
    /// Why it counts no longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lapsed: Option<String>,
}

/// A page of runs.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RunList {
    /// The runs, newest first.
    #[schemars(with = "Vec<Run>")]
    pub workflows: Vec<Value>,
    /// The `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What can be started by name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OfferList {
    /// The workflows.
    pub offers: Vec<OfferAnswer>,
}

/// A workflow that can be started by name.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OfferAnswer {
    /// Its name.
    pub workflow: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// The scope it needs besides `workflows:manage`.
    pub scope: String,
    /// The JSON Schema of its input.
    pub input: Value,
}

impl RunsQuery {
    /// As the engine filters.
    ///
    /// # Errors
    /// A state or id that cannot be.
    pub fn filter(self, scope: Option<Scope>) -> Result<Filter, Problem> {
        let bad = |what: &str| Problem::new(Code::BadRequest, what.to_owned());
        let state =
            self.state.map(|word| State::from_word(&word).ok_or_else(|| bad("there is no such state")));
        let after = self.after.map(|id| id.parse::<SagaId>().map_err(|why| bad(&why.to_string())));
        let rows_max = match self.limit.unwrap_or(PAGE_ITEMS_DEFAULT) {
            limit @ 1..=PAGE_ITEMS_MAX => limit,
            _ => return Err(bad(&format!("limit is 1 to {PAGE_ITEMS_MAX}"))),
        };
        Ok(Filter {
            scope,
            workflow: self.workflow,
            state: state.transpose()?,
            after: after.transpose()?,
            rows_max,
        })
    }
}

impl CastVote {
    /// The vote's parts: what was seen, and what is said to it.
    ///
    /// # Errors
    /// The verdict is neither yes nor no.
    pub fn parts(self) -> Result<(Ballot, Decision), Problem> {
        let no_verdict = |_| Problem::new(Code::Invalid, "a verdict is `approve` or `refuse`").at("/verdict");
        let decision = self.verdict.parse().map_err(no_verdict)?;
        Ok((Ballot { digest: self.digest, policy_version: self.policy_version }, decision))
    }
}

/// The modulus of the wrapping key, and at least two blocks of eight bytes behind it; the longest is RSA-4096 in PKCS#8.
fn fits(bytes: usize) -> bool {
    bytes.is_multiple_of(8) && (256 + 24..=8 << 10).contains(&bytes)
}

/// A wrapped key that comes too early would be made for nothing: it is refused before anybody takes it.
///
/// # Errors
/// The run is no import, or does not wait for a key now.
pub fn awaits_blob(shown: &Shown) -> Result<(), Problem> {
    let refuse = |words: &str| Err(Problem::new(Code::WrongState, words.to_owned()));
    let summary = &shown.detail.summary;
    match (summary.workflow.as_str(), summary.state) {
        ("key.import", "waiting") => Ok(()),
        ("key.import", "pending" | "running" | "backoff") => refuse(
            "the token is still making the wrapping key; ask for the key until it shows `incoming`, wrap for that, and send it then",
        ),
        ("key.import", _) => refuse("the import is over; begin a new one"),
        _ => refuse("this workflow waits for no key"),
    }
}

impl WrappedKey {
    /// What the import hears.
    ///
    /// # Errors
    /// It is not base64, or empty.
    pub fn checked(self) -> Result<Blob, Problem> {
        match STANDARD.decode(&self.wrapped) {
            Ok(bytes) if fits(bytes.len()) => Ok(Blob { wrapped: self.wrapped }),
            Ok(bytes) => {
                let words = format!(
                    "{} bytes are no key that was wrapped as `incoming` says: an AES key under RSA-OAEP, then the key under AES key wrap with padding (RFC 5649)",
                    bytes.len()
                );
                Err(Problem::new(Code::Invalid, words).at("/wrapped"))
            }
            _ => Err(Problem::new(Code::Invalid, "the wrapped key is base64, and not empty").at("/wrapped")),
        }
    }
}

impl Because {
    /// The verb of this name.
    ///
    /// # Errors
    /// There is none, or `supply-result` has no result.
    pub fn verb(&self, name: &str) -> Result<Verb, Problem> {
        Ok(match (name, &self.result) {
            ("retry", _) => Verb::Retry,
            ("supply-result", Some(result)) => Verb::SupplyResult(result.clone()),
            ("supply-result", None) => {
                return Err(
                    Problem::new(Code::Invalid, "say with `result` what the step left behind").at("/result")
                );
            }
            ("skip-undo", _) => Verb::SkipUndo,
            ("resume-forward", _) => Verb::ResumeForward,
            ("unwind", _) => Verb::Unwind,
            ("abandon", _) => Verb::Abandon,
            _ => {
                let known = "retry, supply-result, skip-undo, resume-forward, unwind, abandon";
                return Err(Problem::new(Code::NotFound, format!("the verbs are {known}")));
            }
        })
    }
}

impl TryFrom<Shown> for RunAnswer {
    type Error = Problem;

    fn try_from(shown: Shown) -> Result<Self, Problem> {
        let run = serde_json::to_value(&shown.detail).map_err(|why| Problem::internal(&why))?;
        let votes: Vec<_> = shown.votes.into_iter().map(VoteAnswer::from).collect();
        Ok(Self {
            run,
            approval: shown.pending.map(|pending| ApprovalAnswer::new(pending, votes, shown.withdrawn)),
        })
    }
}

impl ApprovalAnswer {
    fn new(pending: Pending, votes: Vec<VoteAnswer>, withdrawn: Option<String>) -> Self {
        let shown = approvals::shown(&pending.document).unwrap_or_default();
        Self {
            consequence: shown["consequence"].as_str().unwrap_or_default().to_owned(),
            request: shown["request"].clone(),
            document: pending.document,
            step: pending.step,
            digest: pending.ballot.digest,
            policy_version: pending.ballot.policy_version,
            needs: pending.needs,
            initiator: pending.requester.to_string(),
            withdrawn,
            expires: pending.expires,
            votes,
        }
    }
}

impl From<(Vote, Option<String>)> for VoteAnswer {
    fn from((vote, lapsed): (Vote, Option<String>)) -> Self {
        Self {
            approver: vote.approver.to_string(),
            verdict: vote.decision.text(),
            at: vote.at,
            counts: lapsed.is_none(),
            lapsed,
        }
    }
}

impl From<&Offer> for OfferAnswer {
    fn from(offer: &Offer) -> Self {
        Self {
            workflow: offer.workflow,
            summary: offer.summary,
            scope: offer.scope.text().into_owned(),
            input: offer.form.clone(),
        }
    }
}
