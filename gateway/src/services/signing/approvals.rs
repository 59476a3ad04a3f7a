//! Approvals: a quorum of others says yes to one exact request under one exact policy, or it does not happen.
//! Who enters: the waiting steps of workflows, the votes that reach them, and the orders that rest on those votes.
//! What leaves: a quorum, a refusal, or a wait that goes on. Nobody approves what they asked for; no quorum means no; and a
//! vote counts only while its voter could still cast it.

use std::str::FromStr;
use std::time::Duration;

use audit::{Entry, SqlFault, Statement, Told, Tx, View, params};
use sagas::limits::EVENT_BYTES_MAX;
use sagas::{Never, Reason, Refused, Ruling, SagaKey, Signal, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::store::SERVICE;
use crate::api::{Actor, Code, Scope};
use crate::ids::WorkspaceId;
use crate::malformed::Malformed;
use crate::moment::Moment;
use crate::services::columns::{moment, moment_or_none, typed};
use crate::services::credentials::{self, Withdrawn};
use crate::services::subject::Subject;
use crate::topics;

pub(super) static OPEN: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO approval_requests
         (workspace, workflow, step, digest, policy_version, needs, initiator, opened_us, expires_us, document)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
);
pub(super) static REQUEST: Statement = Statement::tenant(
    SERVICE,
    "SELECT step, digest, policy_version, needs, initiator, expires_us, document FROM approval_requests
     WHERE workspace = ?1 AND workflow = ?2",
);
pub(super) static VOTE: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO approvals (workspace, workflow, approver, verdict, at_us) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
);
pub(super) static VOTES: Statement = Statement::tenant(
    SERVICE,
    "SELECT approver, verdict, at_us, lapsed_us FROM approvals WHERE workspace = ?1 AND workflow = ?2 ORDER BY at_us, approver",
);
pub(super) static LAPSE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE approvals SET lapsed_us = ?4 WHERE workspace = ?1 AND workflow = ?2 AND approver = ?3 AND lapsed_us IS NULL",
);

pub(super) static FORGET_VOTES: Statement =
    Statement::tenant(SERVICE, "DELETE FROM approvals WHERE workspace = ?1 AND workflow = ?2");
pub(super) static FORGET_REQUEST: Statement =
    Statement::tenant(SERVICE, "DELETE FROM approval_requests WHERE workspace = ?1 AND workflow = ?2");

/// The signal of a yes.
pub const APPROVE: &str = "approve";
/// The signal of a no.
pub const REFUSE: &str = "refuse";
/// What stands before the document in what the digest is over, so that the digest is of nothing else.
pub const DOMAIN: &[u8] = b"chancery.approval.v2\0";

/// Who has to agree, and until when.
#[derive(Clone, Debug)]
pub struct Quorum {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// How many others.
    pub needs: u32,
    /// The version of the policy that says so; 0 where the workflow itself says so.
    pub policy_version: i64,
    /// For how long.
    pub within: Duration,
}

/// What a voter has seen, and therefore repeats.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballot {
    /// The digest of the request, as hex.
    pub digest: String,
    /// The version of the policy.
    pub policy_version: i64,
}

/// What a voter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Approve,
    /// No.
    Refuse,
}

/// A request that waits for approval.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which step waits.
    pub step: String,
    /// What a vote must repeat.
    pub ballot: Ballot,
    /// How many others have to agree.
    pub needs: u32,
    /// Who asked.
    pub requester: Actor,
    /// Until when.
    pub expires: Moment,
    /// What the digest is over: everything an approver has to know, as canonical JSON. Empty for what was opened before there
    /// were such documents.
    pub document: String,
}

/// A vote that was counted when it came.
#[derive(Clone, Debug)]
pub struct Vote {
    /// Who.
    pub approver: Actor,
    /// What they said.
    pub decision: Decision,
    /// When.
    pub at: Moment,
    /// Since when it is known to count no longer.
    pub lapsed: Option<Moment>,
}

impl Decision {
    /// As signals, rows and answers name it.
    pub fn text(self) -> &'static str {
        match self {
            Self::Approve => APPROVE,
            Self::Refuse => REFUSE,
        }
    }
}

impl FromStr for Decision {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        [Self::Approve, Self::Refuse]
            .into_iter()
            .find(|decision| decision.text() == text)
            .ok_or(Malformed { expected: "verdict (`approve` or `refuse`)" })
    }
}

/// The digest of a document, as hex: what a vote repeats, and what anyone can compute from the document as it is shown.
pub fn digest(document: &str) -> String {
    hex::encode(Sha256::new().chain_update(DOMAIN).chain_update(document).finalize())
}

/// Everything an approver has to know, as JSON without blanks and with its names in the order of their bytes.
fn document(cx: &StepContext, quorum: &Quorum, subject: &Subject, expires: Moment) -> String {
    json!({
        "consequence": subject.consequence,
        "expires": expires,
        "needs": quorum.needs,
        "policy_version": quorum.policy_version,
        "request": subject.request(),
        "requester": cx.origin.actor,
        "workflow": cx.workflow,
        "workflow_id": cx.saga.id.to_string(),
        "workflow_version": cx.version,
        "workspace": quorum.workspace,
    })
    .to_string()
}

/// Opens the vote. A quorum of nobody is refused, and never taken for agreement.
///
/// # Errors
/// There is no quorum to be had.
pub fn open(
    tx: &Tx<'_>,
    cx: &StepContext,
    quorum: &Quorum,
    subject: &Subject,
) -> Result<Vec<Entry>, Refused> {
    if quorum.needs == 0 {
        return Err(Refused::business(Code::NoQuorum, "no quorum is set for this; set one, then ask again"));
    }
    let workflow = cx.saga.id.to_string();
    let opened = credentials::now(cx);
    let expires = opened.plus(quorum.within);
    let document = document(cx, quorum, subject, expires);
    let digest = digest(&document);
    let params = params![
        workflow.as_str(),
        cx.step,
        digest.as_str(),
        quorum.policy_version,
        i64::from(quorum.needs),
        cx.origin.actor.as_str(),
        opened.micros(),
        expires.micros(),
        document.as_str()
    ];
    tx.within(quorum.workspace.on_ledger()).run(&OPEN, params)?;
    let facts = json!({
        "about": subject.about, "request": subject.facts, "consequence": subject.consequence, "digest": digest,
        "needs": quorum.needs, "policy_version": quorum.policy_version, "expires": expires,
    });
    cx.publish(tx, topics::APPROVAL_WANTED, &workflow, fitting(facts))?;
    let after = json!({
        "digest": digest, "needs": quorum.needs, "policy_version": quorum.policy_version, "expires": expires,
        "about": subject.about, "request": subject.facts, "consequence": subject.consequence,
    });
    Ok(vec![cx.entry_with("approval.open", object(cx), |detail| detail.after(after))])
}

/// An event has its bound, and a policy with many intents may not fit: then whoever is asked looks at the run.
fn fitting(mut facts: Value) -> Value {
    if facts.to_string().len() > EVENT_BYTES_MAX {
        facts["request"] = Value::Null;
    }
    facts
}

/// Closes the vote of a run that turns round: nobody is to agree any more. Votes that no longer counted are told.
///
/// # Errors
/// The ledger did not do it.
pub fn close(tx: &Tx<'_>, cx: &StepContext, workspace: &WorkspaceId) -> Result<Told<()>, Refused<Never>> {
    let workflow = cx.saga.id.to_string();
    if pending(tx, workspace, &workflow)?.is_none() {
        return Ok(Told::new((), cx.entry("approval.not_opened", object(cx))));
    }
    let topics = (topics::APPROVAL_NO_LONGER_WANTED, topics::APPROVAL_WANTED);
    cx.withdraw(tx, topics, &workflow, json!({}))?;
    let lapsed = count(tx, cx, workspace)?.entries;
    Ok(Told::new((), cx.entry("approval.close", object(cx))).and(lapsed))
}

/// Hears a vote.
///
/// # Errors
/// The ledger did not do it.
pub fn hear<A>(
    tx: &Tx<'_>,
    cx: &StepContext,
    quorum: &Quorum,
    signal: &Signal,
    after: A,
) -> Result<Ruling<A>, Refused> {
    let workspace = &quorum.workspace;
    let Some(pending) = pending(tx, workspace, &cx.saga.id.to_string())? else {
        return Err(Refused::Bug("a vote on what was never opened".to_owned()));
    };
    let decision: Decision =
        signal.name.parse().map_err(|why| Refused::Bug(format!("`{}` is no vote: {why}", signal.name)))?;
    let voter = credentials::actor(&signal.actor)?;
    if let Err(Refused::Business(reason)) = credentials::confirm_requester(tx, cx, workspace) {
        return Ok(Ruling::Refused(
            reason,
            vec![told(cx, signal, "not counted: whoever asked may not ask for it any more")],
        ));
    }
    if let Some(why) = uncounted(tx, cx, workspace, (&pending, signal), (&voter, decision))? {
        return Ok(Ruling::StillWaiting(vec![told(cx, signal, &format!("not counted: {why}"))]));
    }
    cast(tx, cx, workspace, (&voter, decision), signal)?;
    if decision == Decision::Refuse {
        let reason = Reason::new(Code::RefusedByApprover, format!("{voter} refused it"));
        return Ok(Ruling::Refused(reason, vec![told(cx, signal, "counted")]));
    }
    let counted = count(tx, cx, workspace)?;
    let enough = counted.is_enough(pending.needs);
    let mut entries = vec![told(cx, signal, if enough { "counted, and enough" } else { "counted" })];
    entries.extend(counted.entries);
    Ok(if enough { Ruling::Passed(after, entries) } else { Ruling::StillWaiting(entries) })
}

/// Why a vote counts for nothing.
fn uncounted(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    (pending, signal): (&Pending, &Signal),
    (voter, decision): (&Actor, Decision),
) -> Result<Option<String>, SqlFault> {
    let ballot: Option<Ballot> = signal.payload().ok();
    if ballot.as_ref() != Some(&pending.ballot) {
        return Ok(Some("it is about another request or policy".to_owned()));
    }
    if voter.is_same_hand(&pending.requester) {
        return Ok(Some("nobody approves what they asked for".to_owned()));
    }
    // A no is heard as long as there is something to stop: in a time lock or a grace, that is after the time to agree.
    let at = Moment::from_micros(i64::try_from(signal.at_us).unwrap_or(i64::MAX));
    if decision == Decision::Approve && at >= pending.expires {
        return Ok(Some(format!("it came too late; the time to agree ended {}", pending.expires)));
    }
    let withdrawn = credentials::withdrawn(tx, workspace, voter, Some(Scope::Approve), credentials::now(cx))?;
    Ok(withdrawn.map(|why| format!("the voter {}", why.words())))
}

/// What a run rests on still holds, in the transaction that makes it come true: whoever asked could still ask, and enough of
/// those who agreed could still agree. The votes that no longer count are told.
///
/// # Errors
/// It does not hold: the run turns round.
pub fn confirm(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    needs: u32,
) -> Result<Vec<Entry>, Refused> {
    credentials::confirm_requester(tx, cx, workspace)?;
    if needs == 0 {
        return Ok(Vec::new());
    }
    let counted = count(tx, cx, workspace)?;
    if counted.is_enough(needs) {
        return Ok(counted.entries);
    }
    let lapsed = match counted.lapsed.is_empty() {
        true => String::new(),
        false => format!(": {}", counted.lapsed.join("; ")),
    };
    let words = format!("{} of {needs} approvals still count{lapsed}; ask again", counted.hands);
    Err(Refused::business(Code::ApprovalsLapsed, words))
}

/// Whether enough hands that may still vote have said yes, and nobody no. What was never opened has no quorum.
///
/// # Errors
/// The ledger did not do it.
pub fn agreed(tx: &Tx<'_>, cx: &StepContext, workspace: &WorkspaceId) -> Result<bool, SqlFault> {
    let Some(pending) = pending(tx, workspace, &cx.saga.id.to_string())? else { return Ok(false) };
    let now = credentials::now(cx);
    let votes = standing(tx, workspace, &cx.saga.id.to_string(), now)?;
    let hands = hands(votes.iter().filter(|(_, lapsed)| lapsed.is_none()).map(|(vote, _)| vote));
    let refused = votes.iter().any(|(vote, _)| vote.decision == Decision::Refuse);
    Ok(!refused && is_enough(hands, pending.needs))
}

/// The votes on a run, and what came of counting them now.
struct Counted {
    hands: usize,
    lapsed: Vec<String>,
    entries: Vec<Entry>,
}

impl Counted {
    fn is_enough(&self, needs: u32) -> bool {
        is_enough(self.hands, needs)
    }
}

fn is_enough(hands: usize, needs: u32) -> bool {
    needs > 0 && hands >= usize::try_from(needs).unwrap_or(usize::MAX)
}

/// Counts the yes of those who may still vote. A vote that lapsed is told once, and never counts again.
fn count(tx: &Tx<'_>, cx: &StepContext, workspace: &WorkspaceId) -> Result<Counted, SqlFault> {
    let (workflow, now) = (cx.saga.id.to_string(), credentials::now(cx));
    let (mut good, mut lapsed, mut entries) = (Vec::new(), Vec::new(), Vec::new());
    for (vote, why) in standing(tx, workspace, &workflow, now)? {
        let Some(why) = why else {
            good.push(vote);
            continue;
        };
        let approver = vote.approver.to_string();
        if vote.lapsed.is_none() {
            let params = params![workflow.as_str(), approver.as_str(), now.micros()];
            tx.within(workspace.on_ledger()).run(&LAPSE, params)?;
            let before = json!({ "approver": approver, "vote": vote.decision.text(), "at": vote.at });
            let after = json!({ "counts": false, "why": format!("the voter {why}") });
            let entry =
                cx.entry_with("approval.lapse", object(cx), |detail| detail.before(before).after(after));
            entries.push(entry.actor(Actor::Appliance.to_string()));
        }
        lapsed.push(format!("{approver} {why}"));
    }
    Ok(Counted { hands: hands(good.iter()), lapsed, entries })
}

/// Every vote on a run, and of those that do not count now, why.
///
/// # Errors
/// The ledger cannot be read.
pub fn standing(
    view: &View<'_>,
    workspace: &WorkspaceId,
    workflow: &str,
    now: Moment,
) -> Result<Vec<(Vote, Option<String>)>, SqlFault> {
    let mut all = Vec::new();
    for vote in votes(view, workspace, workflow)? {
        let withdrawn = credentials::withdrawn(view, workspace, &vote.approver, Some(Scope::Approve), now)?
            .map(Withdrawn::words);
        let before = vote.lapsed.map(|at| format!("could not vote any more at {at}"));
        all.push((vote, withdrawn.or(before)));
    }
    Ok(all)
}

/// How many different hands have said yes. Whoever shares a certificate with one and an API key with another makes one hand of
/// all three.
fn hands<'v>(votes: impl Iterator<Item = &'v Vote>) -> usize {
    let mut groups: Vec<Vec<&Actor>> = Vec::new();
    for vote in votes.filter(|vote| vote.decision == Decision::Approve) {
        let own = |group: &mut Vec<&Actor>| group.iter().any(|other| other.is_same_hand(&vote.approver));
        let mut joined: Vec<&Actor> = groups.extract_if(.., own).flatten().collect();
        joined.push(&vote.approver);
        groups.push(joined);
    }
    groups.len()
}

fn told(cx: &StepContext, signal: &Signal, outcome: &str) -> Entry {
    let facts = json!({ "vote": signal.name, "outcome": outcome });
    let entry = cx.entry_with("approval.vote", object(cx), |detail| detail.after(facts));
    entry.actor(signal.actor.clone())
}

fn object(cx: &StepContext) -> String {
    format!("workflow/{}", cx.saga.id)
}

fn cast(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    (voter, decision): (&Actor, Decision),
    signal: &Signal,
) -> Result<(), SqlFault> {
    let at = i64::try_from(signal.at_us).unwrap_or(i64::MAX);
    let (workflow, voter) = (cx.saga.id.to_string(), voter.to_string());
    let params = params![workflow.as_str(), voter.as_str(), decision.text(), at];
    tx.within(workspace.on_ledger()).run(&VOTE, params).map(drop)
}

/// The request of a workflow that waits for approval.
///
/// # Errors
/// The ledger cannot be read.
pub fn pending(
    view: &View<'_>,
    workspace: &WorkspaceId,
    workflow: &str,
) -> Result<Option<Pending>, SqlFault> {
    view.within(workspace.on_ledger()).one(&REQUEST, params![workflow], |row| {
        Ok(Pending {
            step: row.text(0)?,
            ballot: Ballot { digest: row.text(1)?, policy_version: row.integer(2)? },
            needs: u32::try_from(row.integer(3)?).map_err(|_| SqlFault::Malformed { column: 3 })?,
            requester: typed(row, 4)?,
            expires: moment(row, 5)?,
            document: row.text(6)?,
        })
    })
}

/// The votes that were counted when they came.
fn votes(view: &View<'_>, workspace: &WorkspaceId, workflow: &str) -> Result<Vec<Vote>, SqlFault> {
    view.within(workspace.on_ledger()).all(&VOTES, params![workflow], |row| {
        Ok(Vote {
            approver: typed(row, 0)?,
            decision: typed(row, 1)?,
            at: moment(row, 2)?,
            lapsed: moment_or_none(row, 3)?,
        })
    })
}

/// The facts of a document, to be shown beside it.
pub fn shown(document: &str) -> Option<Value> {
    serde_json::from_str(document).ok()
}

/// Forgets the request and the votes of a run that is over, when its time is over; each vote was told when it was heard.
///
/// # Errors
/// The ledger did not do it.
pub fn forget(tx: &mut Tx<'_>, run: &SagaKey) -> Result<(), SqlFault> {
    let Some(workspace) = run.scope.workspace() else { return Ok(()) };
    let within = tx.within(workspace);
    within.run(&FORGET_VOTES, params![run.id.to_string()])?;
    within.run(&FORGET_REQUEST, params![run.id.to_string()]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(client: char, api_key: char) -> Vote {
        let tail = |of: char| of.to_string().repeat(20);
        let approver = format!("cl_{}/ak_{}", tail(client), tail(api_key)).parse().unwrap();
        Vote { approver, decision: Decision::Approve, at: Moment::from_micros(0), lapsed: None }
    }

    #[test]
    fn two_keys_behind_one_certificate_are_one_approver() {
        assert_eq!(hands([vote('a', 'b'), vote('a', 'c'), vote('d', 'e')].iter()), 2);
    }

    #[test]
    fn whoever_links_two_approvers_makes_them_one() {
        assert_eq!(hands([vote('a', 'b'), vote('c', 'd'), vote('a', 'd')].iter()), 1);
    }

    #[test]
    fn a_refusal_is_no_hand() {
        let refusal = Vote { decision: Decision::Refuse, ..vote('a', 'b') };
        assert_eq!(hands([refusal, vote('c', 'd')].iter()), 1);
    }

    #[test]
    fn nobody_is_never_enough() {
        assert_eq!(
            (is_enough(0, 0), is_enough(1, 2), is_enough(2, 2), is_enough(3, 2)),
            (false, false, true, true)
        );
    }

    #[test]
    fn what_fits_into_an_event_stays_whole_and_what_does_not_loses_its_request() {
        let facts = |text: usize| json!({ "about": "key/k", "request": "x".repeat(text) });
        let room = EVENT_BYTES_MAX - facts(0).to_string().len();
        assert_eq!(fitting(facts(room)), facts(room));
        assert_eq!(fitting(facts(room + 1)), json!({ "about": "key/k", "request": null }));
    }

    /// Hashes the vector of the paper as the paper says, and as we do.
    #[test]
    fn the_digest_of_the_published_vector_is_the_published_one() {
        let paper = include_str!("../../../../docs/approvals.md");
        let fenced =
            |kind: &str| paper.split(kind).nth(1).and_then(|rest| rest.split("\n```").next()).unwrap();
        let document = fenced("```json\n");
        let published =
            paper.rsplit("```text\n").find(|block| block.len() > 64 && !block.contains("SHA")).unwrap();
        assert_eq!(digest(document), published[..64]);
        assert_eq!(shown(document).unwrap().to_string(), document, "the document is in canonical form");
    }
}
