//! What holds for a key: the workspace's policy and the key's own, together; limits counted in the very transaction.
//! Who enters: direct signing and signing requests, inside the transaction that authorises them.
//! What leaves: uses that are counted or reserved, or which rule says no. Nothing is remembered that could be stale.

use std::fmt;
use std::str::FromStr;

use audit::{SqlFault, Told, Tx, View};
use hsm::Scheme;
use sagas::{Later, Never, Refused, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::store::{self, RequestRow, Reservation};
use crate::api::Code;
use crate::ids::{RESERVED_NAME, SigningKeyId, WorkspaceId};
use crate::malformed::Malformed;
use crate::moment::Moment;
use crate::services::credentials::{self, now};
use crate::services::policy::{Limit, Policy};

/// What a policy is for. Written as `workspace`, or as the key's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PolicyScope {
    /// Every key of the workspace.
    Workspace,
    /// One key.
    Key(SigningKeyId),
}

impl PolicyScope {
    /// As rows, entries and answers name it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Workspace => RESERVED_NAME,
            Self::Key(key) => key.as_str(),
        }
    }

    /// Whether a policy of this scope holds for a key.
    pub fn covers(&self, key: &SigningKeyId) -> bool {
        match self {
            Self::Workspace => true,
            Self::Key(own) => own == key,
        }
    }
}

impl fmt::Display for PolicyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyScope {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text {
            RESERVED_NAME => Ok(Self::Workspace),
            key => key.parse().map(Self::Key).map_err(|_| Malformed { expected: "policy scope" }),
        }
    }
}

impl TryFrom<String> for PolicyScope {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<PolicyScope> for String {
    fn from(scope: PolicyScope) -> Self {
        scope.as_str().to_owned()
    }
}

/// Which rule says no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyRefused {
    /// Others want to see it first.
    #[error("the policy of this key takes requests only: POST /v1/keys/{{key}}/signatures")]
    NotDirect,
    /// Another scheme may do.
    #[error("the policy of this key does not allow the scheme {0}")]
    Scheme(Scheme),
    /// Another intent may do.
    #[error("the policy of this key does not allow requests for `{0}`")]
    Intent(String),
    /// The window is full.
    #[error(
        "the policy allows {uses} signatures in {per_seconds} seconds, and they are used up until {until}"
    )]
    UsedUp {
        /// So many.
        uses: u32,
        /// In one window of so many seconds.
        per_seconds: u64,
        /// When the next window begins.
        until: Moment,
    },
    /// Nobody could ever agree.
    #[error("the policy names no quorum, so no request passes; change the policy, then ask again")]
    NoQuorum,
    /// What was looked at no longer holds.
    #[error("the policy has changed since this was asked for; ask again")]
    Changed,
}

impl From<PolicyRefused> for Refused {
    fn from(refused: PolicyRefused) -> Self {
        Self::business(Code::PolicyRefused, refused.to_string())
    }
}

/// The moment of a use, for limits: windows go by proven time, so that a clock that is put forward begins none; people are told
/// of their ends by the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct LimitTime {
    /// By the wall clock.
    pub wall: Moment,
    /// By what has provably passed.
    pub proven: Moment,
}

impl LimitTime {
    /// The moment of a step.
    pub fn of(cx: &StepContext) -> Self {
        let proven = Moment::from_micros(i64::try_from(cx.proven_us).unwrap_or(i64::MAX));
        Self { wall: now(cx), proven }
    }

    fn on_the_wall(self, proven_us: i64) -> Moment {
        Moment::from_micros(self.wall.micros().saturating_add(proven_us.saturating_sub(self.proven.micros())))
    }
}

/// What holds now.
#[derive(Clone, Debug, Default)]
pub struct Effective {
    /// The newest of the policies that hold; 0 where there is none. It changes with every change of any of them.
    pub version: i64,
    /// What they allow together.
    pub policy: Policy,
    /// The limits, each with the scope whose policy sets it; each is counted on its own.
    pub limits: Vec<(PolicyScope, Limit)>,
}

/// A request as the rules see it.
pub struct Wish<'a> {
    /// The workspace.
    pub workspace: &'a WorkspaceId,
    /// The key.
    pub key: &'a SigningKeyId,
    /// The scheme.
    pub scheme: Scheme,
    /// What for.
    pub intent: &'a str,
    /// How many signatures.
    pub uses: i64,
}

/// A request that the rules take, and what they ask for before it is signed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// The policies it was made under.
    pub policy_version: i64,
    /// How many others have to agree.
    pub approvals: u32,
    /// How long they have.
    pub expires_seconds: u64,
}

impl AsRef<Self> for Asked {
    fn as_ref(&self) -> &Self {
        self
    }
}

/// The policies that hold for a key, or for the workspace as a whole.
///
/// # Errors
/// The ledger cannot be read, or a policy does not read: then nothing is allowed.
pub fn effective(
    view: &View<'_>,
    workspace: &WorkspaceId,
    scope: &PolicyScope,
) -> Result<Effective, SqlFault> {
    let mut all = Effective::default();
    for (at, row) in store::active(view, workspace, scope)?.into_iter().enumerate() {
        all.limits.extend(row.policy.limit.map(|limit| (row.scope, limit)));
        all.policy = if at == 0 { row.policy } else { all.policy.and(&row.policy) };
        all.version = all.version.max(row.version);
    }
    Ok(all)
}

/// Takes a direct signature, and counts it.
///
/// # Errors
/// Which rule says no.
pub fn admit_direct<E>(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    scheme: Scheme,
    now: LimitTime,
) -> Result<(), E>
where
    E: From<PolicyRefused> + From<SqlFault>,
{
    let effective = effective(tx, workspace, &PolicyScope::Key(key.clone()))?;
    if !effective.policy.direct {
        return Err(PolicyRefused::NotDirect.into());
    }
    if !effective.policy.has_scheme(scheme) {
        return Err(PolicyRefused::Scheme(scheme).into());
    }
    effective.count::<E>(tx, workspace, 1, now).map(drop)
}

impl Effective {
    /// Counts uses of every limit.
    fn count<E>(
        &self,
        tx: &Tx<'_>,
        workspace: &WorkspaceId,
        uses: i64,
        now: LimitTime,
    ) -> Result<Vec<Reservation>, E>
    where
        E: From<PolicyRefused> + From<SqlFault>,
    {
        let mut held = Vec::with_capacity(self.limits.len());
        for (scope, limit) in &self.limits {
            held.push(count_one::<E>(tx, workspace, (scope, limit), uses, now)?);
        }
        Ok(held)
    }
}

/// Counts uses of one limit, in the window of now.
fn count_one<E>(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    (scope, limit): (&PolicyScope, &Limit),
    uses: i64,
    now: LimitTime,
) -> Result<Reservation, E>
where
    E: From<PolicyRefused> + From<SqlFault>,
{
    let (used, window_us) = store::count(tx, workspace, scope, limit.window_us(now.proven), uses)?;
    if used > i64::from(limit.uses) {
        let until = now.on_the_wall(window_us.saturating_add(limit.length_us()));
        let Limit { uses, per_seconds } = *limit;
        return Err(PolicyRefused::UsedUp { uses, per_seconds, until }.into());
    }
    Ok(Reservation { scope: scope.clone(), window_us, uses })
}

/// Moves what a request has reserved into the window in which it is signed: a limit bounds signatures, not wishes. A window
/// that is full is waited for; what was reserved stays reserved meanwhile.
///
/// # Errors
/// Not in this window.
pub(super) fn move_reservation(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<(), Refused> {
    let (workflow, now) = (cx.saga.id.to_string(), LimitTime::of(cx));
    let limits = effective(tx, workspace, &PolicyScope::Key(key.clone()))?.limits;
    for held in store::reserved(tx, workspace, &workflow)? {
        let Some(limit) = limits.iter().find(|(scope, _)| *scope == held.scope) else { continue };
        if limit.1.window_us(now.proven) <= held.window_us {
            continue;
        }
        let moved = count_one::<Moved>(tx, workspace, (&limit.0, &limit.1), held.uses, now);
        let moved = moved.map_err(|not| not.into_refused(now.wall))?;
        store::give_back(tx, workspace, &held, held.uses)?;
        store::move_reservation(tx, workspace, &workflow, &moved)?;
    }
    Ok(())
}

/// Why a reservation was not moved.
enum Moved {
    /// The rule that says no.
    Policy(PolicyRefused),
    /// The database.
    Sql(SqlFault),
}

impl From<PolicyRefused> for Moved {
    fn from(refused: PolicyRefused) -> Self {
        Self::Policy(refused)
    }
}

impl From<SqlFault> for Moved {
    fn from(fault: SqlFault) -> Self {
        Self::Sql(fault)
    }
}

impl Moved {
    fn into_refused(self, now: Moment) -> Refused {
        match self {
            // The next window begins when this one ends.
            Self::Policy(PolicyRefused::UsedUp { until, .. }) => {
                let at = u64::try_from(until.max(now).micros()).unwrap_or_default();
                Refused::Later(Later::at(format!("the limit is used up until {until}"), at))
            }
            Self::Policy(refused) => refused.into(),
            Self::Sql(fault) => Refused::Sql(fault),
        }
    }
}

/// Gives back one direct use that was counted at a moment and certainly not made.
pub(super) fn give_back_direct(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    counted: LimitTime,
) -> Result<(), SqlFault> {
    for (scope, limit) in effective(tx, workspace, &PolicyScope::Key(key.clone()))?.limits {
        let held = Reservation { scope, window_us: limit.window_us(counted.proven), uses: 1 };
        store::give_back(tx, workspace, &held, 1)?;
    }
    Ok(())
}

/// Judges a request and reserves its uses, so that those who agree do not agree to what can no longer be had.
///
/// # Errors
/// Which rule says no.
pub fn reserve(tx: &Tx<'_>, cx: &StepContext, wish: &Wish<'_>, what: Value) -> Result<Told<Asked>, Refused> {
    let effective = effective(tx, wish.workspace, &PolicyScope::Key(wish.key.clone()))?;
    let policy = &effective.policy;
    let approvals = policy.approvals.ok_or(PolicyRefused::NoQuorum)?;
    if !policy.has_scheme(wish.scheme) {
        return Err(PolicyRefused::Scheme(wish.scheme).into());
    }
    if !policy.has_intent(wish.intent) {
        return Err(PolicyRefused::Intent(wish.intent.to_owned()).into());
    }
    let workflow = cx.saga.id.to_string();
    for held in effective.count::<Refused>(tx, wish.workspace, wish.uses, LimitTime::of(cx))? {
        store::reserve(tx, wish.workspace, &workflow, &held)?;
    }
    let request =
        RequestRow { workflow: cx.saga.id, key: wish.key.clone(), policy_version: effective.version };
    store::open_request(tx, wish.workspace, &request)?;
    let asked =
        Asked { policy_version: effective.version, approvals, expires_seconds: policy.expires_seconds };
    let after = json!({
        "request": what, "scheme": wish.scheme.name(), "intent": wish.intent, "uses": wish.uses,
        "policy_version": asked.policy_version, "approvals": asked.approvals,
    });
    let entry = cx.entry_with("signing.evaluate", wish.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(asked, entry))
}

/// Gives back what a request had reserved.
///
/// # Errors
/// The ledger did not do it.
pub fn release(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Told<()>, Refused<Never>> {
    let given_back = settle(tx, cx, workspace, None)?;
    let before = json!({ "reserved": given_back });
    Ok(Told::new((), cx.entry_with("signing.release", key.as_str(), |detail| detail.before(before))))
}

/// A request is over: so many of its reserved uses, or all of them, were not made. How many were given back.
pub(super) fn settle(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    unused: Option<i64>,
) -> Result<i64, SqlFault> {
    let workflow = cx.saga.id.to_string();
    let mut given_back = 0;
    for held in store::reserved(tx, workspace, &workflow)? {
        given_back = unused.unwrap_or(held.uses);
        store::give_back(tx, workspace, &held, given_back)?;
    }
    store::close_request(tx, workspace, &workflow)?;
    Ok(given_back)
}

/// What was agreed to still holds.
///
/// # Errors
/// The policy has changed.
pub(super) fn confirm(
    view: &View<'_>,
    workspace: &WorkspaceId,
    scope: &PolicyScope,
    asked: &Asked,
) -> Result<(), Refused> {
    match effective(view, workspace, scope)?.version == asked.policy_version {
        true => Ok(()),
        false => Err(PolicyRefused::Changed.into()),
    }
}

/// A policy comes with a key that is being made: it is there before the key signs for the first time.
///
/// # Errors
/// The ledger did not do it.
pub fn attach<A>(
    tx: &Tx<'_>,
    cx: &StepContext,
    (workspace, key): (&WorkspaceId, &SigningKeyId),
    policy: Option<&Policy>,
    then: A,
) -> Result<Told<A>, Refused> {
    let Some(policy) = policy else { return Ok(Told::new(then, cx.entry("policy.none", key.as_str()))) };
    let (id, scope) = (cx.saga.id.to_string(), PolicyScope::Key(key.clone()));
    store::stage(tx, workspace, (&id, &scope), policy, (&credentials::actor(&cx.origin.actor)?, now(cx)))?;
    let version = store::activate(tx, workspace, &id, &scope)?;
    let version = version.ok_or_else(|| Refused::Bug("the policy to attach is not staged".to_owned()))?;
    let after = json!({ "version": version, "policy": policy });
    Ok(Told::new(then, cx.entry_with("policy.attach", key.as_str(), |detail| detail.after(after))))
}

/// Takes the policy away again, with the key that never came to be.
///
/// # Errors
/// The ledger did not do it.
pub fn detach(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Told<()>, Refused<Never>> {
    let was_there = store::drop_policy(tx, workspace, &cx.saga.id.to_string())?;
    let before = json!({ "attached": was_there });
    Ok(Told::new((), cx.entry_with("policy.detach", key.as_str(), |detail| detail.before(before))))
}
