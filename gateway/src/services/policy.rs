//! Policies in words: what may be signed, how often, and who has to agree.
//! Who enters: JSON from members and from rows.
//! What leaves: policies within their bounds, and what several of them allow together: never more than the strictest.

use std::time::Duration;

use hsm::Scheme;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::{Code, Problem};
use crate::limits::{
    POLICY_APPROVALS_MAX, POLICY_EXPIRES_MAX, POLICY_EXPIRES_MIN, POLICY_INTENT_BYTES_MAX,
    POLICY_INTENTS_MAX, POLICY_TIMELOCK_MAX, POLICY_WINDOW_MAX,
};
use crate::moment::Moment;

/// What a policy says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many others have to agree to a request. 0 says that nobody has to; absent means that no request passes.
    #[serde(default)]
    pub approvals: Option<u32>,
    /// Whether the direct routes may sign, without a request that others can look at.
    pub direct: bool,
    /// How many signatures there may be in how many seconds; absent means any number.
    #[serde(default)]
    pub limit: Option<Limit>,
    /// The schemes that may be used; absent means all that the key has.
    #[serde(default)]
    #[schemars(with = "Option<Vec<String>>")]
    pub schemes: Option<Vec<Scheme>>,
    /// What requests may be for; absent means anything.
    #[serde(default)]
    pub intents: Option<Vec<String>>,
    /// Seconds after which a request that nobody agreed to is over; a day if absent.
    #[serde(default = "a_day")]
    pub expires_seconds: u64,
    /// Seconds between the agreement to a change of this policy and the change, in which it can be vetoed.
    #[serde(default)]
    pub timelock_seconds: u64,
}

/// So many signatures in such a window. Windows are laid end to end from 1970 on, and do not slide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Signatures.
    pub uses: u32,
    /// In one window of so many seconds.
    pub per_seconds: u64,
}

impl Limit {
    /// How long a window is, in microseconds.
    pub fn length_us(self) -> i64 {
        i64::try_from(self.per_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000).max(1)
    }

    /// When the window of a moment began, in microseconds since 1970.
    pub fn window_us(self, now: Moment) -> i64 {
        now.micros() - now.micros().rem_euclid(self.length_us())
    }
}

fn a_day() -> u64 {
    24 * 3600
}

impl Default for Policy {
    /// What holds where nobody has said anything: direct signing, without limit and without approvals.
    fn default() -> Self {
        Self {
            approvals: Some(0),
            direct: true,
            limit: None,
            schemes: None,
            intents: None,
            expires_seconds: a_day(),
            timelock_seconds: 0,
        }
    }
}

impl Policy {
    /// The policy, within its bounds.
    ///
    /// # Errors
    /// Which field is out of bounds.
    pub fn checked(self) -> Result<Self, Problem> {
        let wrong = |field: &str, words: String| {
            Err(Problem::new(Code::Invalid, words).at(format!("/policy/{field}")))
        };
        if self.approvals.is_some_and(|needs| needs > POLICY_APPROVALS_MAX) {
            return wrong("approvals", format!("at most {POLICY_APPROVALS_MAX} approvals"));
        }
        if let Some(Limit { uses, per_seconds }) = self.limit
            && (uses == 0 || per_seconds == 0 || per_seconds > POLICY_WINDOW_MAX.as_secs())
        {
            return wrong(
                "limit",
                format!("at least one use in 1 to {} seconds", POLICY_WINDOW_MAX.as_secs()),
            );
        }
        if !(POLICY_EXPIRES_MIN..=POLICY_EXPIRES_MAX).contains(&self.expires()) {
            let (least, most) = (POLICY_EXPIRES_MIN.as_secs(), POLICY_EXPIRES_MAX.as_secs());
            return wrong("expires_seconds", format!("{least} to {most} seconds"));
        }
        if self.timelock() > POLICY_TIMELOCK_MAX {
            return wrong("timelock_seconds", format!("at most {} seconds", POLICY_TIMELOCK_MAX.as_secs()));
        }
        let intents = self.intents.as_deref().unwrap_or_default();
        if intents.len() > POLICY_INTENTS_MAX || intents.iter().any(|it| it.len() > POLICY_INTENT_BYTES_MAX) {
            let words = format!("at most {POLICY_INTENTS_MAX} intents of {POLICY_INTENT_BYTES_MAX} bytes");
            return wrong("intents", words);
        }
        Ok(self)
    }

    /// How long a request waits for agreement.
    pub fn expires(&self) -> Duration {
        Duration::from_secs(self.expires_seconds)
    }

    /// How long a change waits after its agreement.
    pub fn timelock(&self) -> Duration {
        Duration::from_secs(self.timelock_seconds)
    }

    /// Whether this scheme may be used.
    pub fn has_scheme(&self, scheme: Scheme) -> bool {
        self.schemes.as_ref().is_none_or(|schemes| schemes.contains(&scheme))
    }

    /// Whether requests may be for this.
    pub fn has_intent(&self, intent: &str) -> bool {
        self.intents.as_ref().is_none_or(|intents| intents.iter().any(|it| it == intent))
    }

    /// What both allow together. Limits are not here: each is counted on its own.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            // A policy without quorum lets no request pass, whatever the other says.
            approvals: self.approvals.zip(other.approvals).map(|(one, other)| one.max(other)),
            direct: self.direct && other.direct,
            limit: None,
            schemes: both(&self.schemes, &other.schemes),
            intents: both(&self.intents, &other.intents),
            expires_seconds: self.expires_seconds.min(other.expires_seconds),
            timelock_seconds: self.timelock_seconds.max(other.timelock_seconds),
        }
    }

    /// Names its exact content, as hex.
    pub fn digest(&self) -> String {
        // Fields are written in the order of the type, so the same policy has the same bytes.
        let body = serde_json::to_vec(self).unwrap_or_default();
        hex::encode(Sha256::new().chain_update(b"chancery.policy.v1\0").chain_update(body).finalize())
    }
}

fn both<T: Clone + PartialEq>(one: &Option<Vec<T>>, other: &Option<Vec<T>>) -> Option<Vec<T>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.iter().filter(|it| other.contains(it)).cloned().collect()),
        (list, None) | (None, list) => list.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_policies_together_allow_no_more_than_the_strictest() {
        let loose =
            Policy { approvals: Some(1), schemes: Some(vec![Scheme::EcdsaSha256]), ..Policy::default() };
        let strict = Policy { approvals: Some(3), direct: false, timelock_seconds: 9, ..Policy::default() };
        let both = loose.and(&strict);
        assert_eq!((both.approvals, both.direct, both.timelock_seconds), (Some(3), false, 9));
        assert!(both.has_scheme(Scheme::EcdsaSha256) && !both.has_scheme(Scheme::Ed25519));
        let none = Policy { approvals: None, ..Policy::default() };
        assert_eq!(strict.and(&none).approvals, None, "no quorum stays no quorum");
    }

    /// The field that is refused, if one is.
    fn refused(policy: Policy) -> Option<String> {
        policy.checked().err().and_then(|problem| problem.pointer)
    }

    #[test]
    fn each_bound_is_allowed_and_one_more_is_refused_by_its_field() {
        let plain = Policy::default;
        let limit = |uses, per_seconds| Policy { limit: Some(Limit { uses, per_seconds }), ..plain() };
        let intents = |count, bytes| Policy { intents: Some(vec!["x".repeat(bytes); count]), ..plain() };
        let approvals = |needs| Policy { approvals: Some(needs), ..plain() };
        let expires = |expires_seconds| Policy { expires_seconds, ..plain() };
        let timelock = |timelock_seconds| Policy { timelock_seconds, ..plain() };
        let window = POLICY_WINDOW_MAX.as_secs();
        let (least, most) = (POLICY_EXPIRES_MIN.as_secs(), POLICY_EXPIRES_MAX.as_secs());
        let lock = POLICY_TIMELOCK_MAX.as_secs();
        for good in [
            plain(),
            approvals(POLICY_APPROVALS_MAX),
            limit(1, 1),
            limit(1, window),
            expires(least),
            expires(most),
            timelock(lock),
            intents(POLICY_INTENTS_MAX, POLICY_INTENT_BYTES_MAX),
        ] {
            assert_eq!(refused(good.clone()), None, "{good:?}");
        }
        for (bad, field) in [
            (approvals(POLICY_APPROVALS_MAX + 1), "approvals"),
            (limit(0, 1), "limit"),
            (limit(1, 0), "limit"),
            (limit(1, window + 1), "limit"),
            (expires(least - 1), "expires_seconds"),
            (expires(most + 1), "expires_seconds"),
            (timelock(lock + 1), "timelock_seconds"),
            (intents(POLICY_INTENTS_MAX + 1, 1), "intents"),
            (intents(1, POLICY_INTENT_BYTES_MAX + 1), "intents"),
        ] {
            assert_eq!(refused(bad.clone()), Some(format!("/policy/{field}")), "{bad:?}");
        }
    }

    #[test]
    fn windows_are_laid_end_to_end_from_1970_on() {
        let minute = Limit { uses: 1, per_seconds: 60 };
        let second = 1_000_000;
        let began = |at: i64| minute.window_us(Moment::from_micros(at));
        assert_eq!(minute.length_us(), 60 * second);
        assert_eq!(began(0), 0);
        assert_eq!(began(60 * second - 1), 0);
        assert_eq!(began(60 * second), 60 * second);
        assert_eq!(began(150 * second), 120 * second);
        assert_eq!(began(-second), -60 * second);
    }

    #[test]
    fn where_nothing_is_said_a_request_waits_for_a_day_and_a_change_for_nothing() {
        let policy = Policy::default();
        assert_eq!((policy.expires(), policy.timelock()), (Duration::from_secs(86_400), Duration::ZERO));
        let locked = Policy { timelock_seconds: 7, ..Policy::default() };
        assert_eq!(locked.timelock(), Duration::from_secs(7));
    }

    #[test]
    fn a_policy_is_named_by_its_exact_content() {
        let strict = || Policy { direct: false, ..Policy::default() };
        assert_eq!(strict().digest(), strict().digest());
        assert_ne!(strict().digest(), Policy::default().digest());
        assert_eq!(strict().digest().len(), 64);
    }

    #[test]
    fn an_intent_is_allowed_where_it_is_listed_or_none_is() {
        let listed = Policy { intents: Some(vec!["release".to_owned()]), ..Policy::default() };
        assert!(listed.has_intent("release") && !listed.has_intent("other"));
        assert!(Policy::default().has_intent("other"));
    }
}
