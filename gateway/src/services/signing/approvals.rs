//! Approvals: a quorum of others says yes to one exact request under one exact policy, or it does not happen.
//! Who enters: the waiting steps of workflows, and the votes that reach them.
//! What leaves: a quorum, a refusal, or a wait that goes on. Nobody approves what they asked for; no quorum means no.

use std::time::Duration;

use audit::{Entry, SqlFault, Statement, Tx, View, params};
use sagas::{Reason, Refused, Ruling, SagaKey, Signal, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::store::SERVICE;
use crate::ids::WorkspaceId;
use crate::moment::Moment;

pub(super) static OPEN: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO approval_requests (workspace, workflow, step, digest, policy_version, needs, initiator, opened_us, expires_us)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING",
);
pub(super) static REQUEST: Statement = Statement::tenant(
    SERVICE,
    "SELECT step, digest, policy_version, needs, initiator, expires_us FROM approval_requests WHERE workspace = ?1 AND workflow = ?2",
);
pub(super) static VOTE: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO approvals (workspace, workflow, approver, verdict, at_us) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
);
pub(super) static VOTES: Statement = Statement::tenant(
    SERVICE,
    "SELECT approver, verdict, at_us FROM approvals WHERE workspace = ?1 AND workflow = ?2 ORDER BY at_us, approver",
);

pub(super) static FORGET_VOTES: Statement =
    Statement::tenant(SERVICE, "DELETE FROM approvals WHERE workspace = ?1 AND workflow = ?2");
pub(super) static FORGET_REQUEST: Statement =
    Statement::tenant(SERVICE, "DELETE FROM approval_requests WHERE workspace = ?1 AND workflow = ?2");

/// The signal of a yes.
pub const APPROVE: &str = "approve";
/// The signal of a no.
pub const REFUSE: &str = "refuse";

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

/// A request that waits for approval.
#[derive(Clone, Debug)]
pub struct Pending {
    /// Which step waits.
    pub step: String,
    /// What a vote must repeat.
    pub ballot: Ballot,
    /// How many others have to agree.
    pub needs: i64,
    /// Who asked.
    pub initiator: String,
    /// Until when.
    pub expires: Moment,
}

/// A vote that counts.
#[derive(Clone, Debug)]
pub struct Vote {
    /// Who.
    pub approver: String,
    /// `approve` or `refuse`.
    pub verdict: String,
    /// When.
    pub at: Moment,
}

/// The digest of one exact request: this workflow, this run, this input.
pub fn digest(cx: &StepContext, input: &impl Serialize) -> Result<String, Refused> {
    let input = serde_json::to_vec(input).map_err(|why| Refused::Bug(why.to_string()))?;
    let mut hash = Sha256::new();
    hash.update(b"chancery.approval.v1\0");
    for part in [cx.workflow.as_bytes(), &cx.version.to_be_bytes(), cx.saga.id.bytes(), &input] {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    Ok(hex::encode(hash.finalize()))
}

/// Opens the vote. A quorum of nobody is refused, and never taken for agreement.
///
/// # Errors
/// There is no quorum to be had.
pub fn open(
    tx: &Tx<'_>,
    cx: &StepContext,
    quorum: &Quorum,
    input: &impl Serialize,
) -> Result<Vec<Entry>, Refused> {
    if quorum.needs == 0 {
        return Err(Refused::business("no_quorum", "no quorum is set for this; set one, then ask again"));
    }
    let (workflow, digest) = (cx.saga.id.to_string(), digest(cx, input)?);
    let opened = Moment::from_micros(i64::try_from(cx.now_us).unwrap_or(i64::MAX));
    let expires = opened.plus(quorum.within);
    let params = params![
        workflow.as_str(),
        cx.step,
        digest.as_str(),
        quorum.policy_version,
        i64::from(quorum.needs),
        cx.origin.actor.as_str(),
        opened.micros(),
        expires.micros()
    ];
    tx.within(quorum.workspace.on_ledger()).run(&OPEN, params)?;
    let after = json!({ "digest": digest, "needs": quorum.needs, "policy_version": quorum.policy_version, "expires": expires });
    let object = format!("workflow/{workflow}");
    Ok(vec![cx.entry_with("approval.open", object, |detail| detail.after(after))])
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
    let workflow = cx.saga.id.to_string();
    let entry = |outcome: &str| {
        let facts = json!({ "vote": signal.name, "outcome": outcome });
        let entry =
            cx.entry_with("approval.vote", format!("workflow/{workflow}"), |detail| detail.after(facts));
        vec![entry.actor(signal.actor.clone())]
    };
    let Some(pending) = pending(tx, &quorum.workspace, &workflow)? else {
        return Err(Refused::Bug("a vote on what was never opened".to_owned()));
    };
    let ballot: Option<Ballot> = signal.payload().ok();
    if ballot.as_ref() != Some(&pending.ballot) {
        return Ok(Ruling::StillWaiting(entry("not counted: it is about another request or policy")));
    }
    if same_hand(&signal.actor, &pending.initiator) {
        return Ok(Ruling::StillWaiting(entry("not counted: nobody approves what they asked for")));
    }
    cast(tx, &quorum.workspace, &workflow, signal)?;
    if signal.name == REFUSE {
        let reason = Reason::new("refused_by_approver", format!("{} refused it", signal.actor));
        return Ok(Ruling::Refused(reason, entry("counted")));
    }
    let votes = votes(tx, &quorum.workspace, &workflow)?;
    let given = hands(votes.iter().filter(|vote| vote.verdict == APPROVE));
    match pending.needs > 0 && given >= usize::try_from(pending.needs).unwrap_or(usize::MAX) {
        true => Ok(Ruling::Passed(after, entry("counted, and enough"))),
        false => Ok(Ruling::StillWaiting(entry("counted"))),
    }
}

/// Whether enough hands have said yes, and nobody no. What was never opened has no quorum.
///
/// # Errors
/// The ledger cannot be read.
pub fn agreed(view: &View<'_>, workspace: &WorkspaceId, workflow: &str) -> Result<bool, SqlFault> {
    let Some(pending) = pending(view, workspace, workflow)? else { return Ok(false) };
    let votes = votes(view, workspace, workflow)?;
    let given = hands(votes.iter().filter(|vote| vote.verdict == APPROVE));
    let refused = votes.iter().any(|vote| vote.verdict == REFUSE);
    Ok(!refused && pending.needs > 0 && given >= usize::try_from(pending.needs).unwrap_or(usize::MAX))
}

/// Two names of the same hand: the same client certificate, or the same API key.
pub fn same_hand(one: &str, other: &str) -> bool {
    one == other || one.split('/').any(|part| other.split('/').any(|other| part == other))
}

/// How many different hands these votes are of.
fn hands<'v>(votes: impl Iterator<Item = &'v Vote>) -> usize {
    let mut counted: Vec<&str> = Vec::new();
    for vote in votes {
        if !counted.iter().any(|other| same_hand(other, &vote.approver)) {
            counted.push(&vote.approver);
        }
    }
    counted.len()
}

fn cast(tx: &Tx<'_>, workspace: &WorkspaceId, workflow: &str, signal: &Signal) -> Result<(), SqlFault> {
    let at = i64::try_from(signal.at_us).unwrap_or(i64::MAX);
    let params = params![workflow, signal.actor.as_str(), signal.name.as_str(), at];
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
            needs: row.integer(3)?,
            initiator: row.text(4)?,
            expires: Moment::from_micros(row.integer(5)?),
        })
    })
}

/// The votes that counted.
///
/// # Errors
/// The ledger cannot be read.
pub fn votes(view: &View<'_>, workspace: &WorkspaceId, workflow: &str) -> Result<Vec<Vote>, SqlFault> {
    view.within(workspace.on_ledger()).all(&VOTES, params![workflow], |row| {
        Ok(Vote { approver: row.text(0)?, verdict: row.text(1)?, at: Moment::from_micros(row.integer(2)?) })
    })
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

    #[test]
    fn the_same_certificate_or_the_same_api_key_is_the_same_hand() {
        assert!(same_hand("cl_a/ak_b", "cl_a/ak_c"));
        assert!(same_hand("cl_a/ak_b", "cl_d/ak_b"));
        assert!(same_hand("operator:0", "operator:0"));
        assert!(!same_hand("cl_a/ak_b", "cl_c/ak_d"));
    }

    #[test]
    fn two_keys_behind_one_certificate_are_one_approver() {
        let vote = |approver: &str| Vote {
            approver: approver.to_owned(),
            verdict: APPROVE.to_owned(),
            at: Moment::from_micros(0),
        };
        let votes = [vote("cl_a/ak_b"), vote("cl_a/ak_c"), vote("cl_d/ak_e")];
        assert_eq!(hands(votes.iter()), 2);
    }
}
