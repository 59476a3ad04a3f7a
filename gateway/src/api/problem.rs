//! What a caller is told when something is refused: RFC 9457 problem documents with stable codes.
//! Who enters: every refusal of the boundary and the services.
//! What leaves: status, code, words that say what to do next; never a cause from inside.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

/// What becomes of an idempotency key when its request ends in a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFate {
    /// A rule was asked and said no: that is the request's answer, and whoever sends it again gets it again.
    Kept,
    /// No rule was asked, or the way was closed for the moment: the same request may be sent again under the same key.
    Freed,
    /// It is not known what happened. The claim stays: what was provided with the effect is the answer, or the claim runs out.
    Open,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal, $key:ident, $title:literal;)*) => {
        /// The stable codes; a client may match on their text for ever.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code there is, for the documentation and its test.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The text that stands in the document.
            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// What becomes of the idempotency key of a request that ends with it.
            pub fn key_fate(self) -> KeyFate {
                match self { $(Code::$name => KeyFate::$key,)* }
            }

            /// What kind of problem this is, the same words every time.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request line, headers or parameters cannot be understood.
    BadRequest = "bad_request", 400, Freed, "The request cannot be understood";
    /// The route wants an idempotency key.
    IdempotencyKeyMissing = "idempotency_key_missing", 400, Freed, "An Idempotency-Key is missing";
    /// The body is not the JSON this route takes.
    BadBody = "bad_body", 400, Freed, "The body is not what this route takes";
    /// No API key, or none that we know.
    ApiKeyUnknown = "api_key_unknown", 401, Freed, "The API key is missing or unknown";
    /// The API key's time is over.
    ApiKeyExpired = "api_key_expired", 401, Freed, "The API key has expired";
    /// The client certificate is good but not on our list.
    ClientUnknown = "client_unknown", 403, Freed, "The client certificate is not enrolled here";
    /// The client certificate's time is over. The handshake refuses it; on a connection that was open before, so does each request.
    ClientExpired = "client_expired", 403, Freed, "The client certificate has expired";
    /// The client certificate was revoked.
    ClientRevoked = "client_revoked", 403, Freed, "The client certificate has been revoked";
    /// Certificate and API key belong to different workspaces.
    WorkspaceMismatch = "workspace_mismatch", 403, Freed, "Certificate and API key belong to different workspaces";
    /// The API key lacks a scope.
    ScopeMissing = "scope_missing", 403, Freed, "The API key lacks a scope";
    /// Only an operator may do this.
    OperatorOnly = "operator_only", 403, Freed, "Only an operator may do this";
    /// The workspace is closed.
    WorkspaceClosed = "workspace_closed", 403, Freed, "The workspace is closed";
    /// There is nothing at this path.
    NotFound = "not_found", 404, Kept, "There is nothing here";
    /// The path exists, the method does not.
    MethodNotAllowed = "method_not_allowed", 405, Freed, "This path does not take this method";
    /// The body did not come in time.
    BodyTimeout = "body_timeout", 408, Freed, "The body did not arrive in time";
    /// The name is taken.
    NameTaken = "name_taken", 409, Kept, "The name is taken";
    /// The thing is not in a state for this.
    WrongState = "wrong_state", 409, Kept, "Not possible in the present state";
    /// The first request with this idempotency key is under way.
    RequestInProgress = "request_in_progress", 409, Freed, "The same request is under way";
    /// Somebody else holds the lock.
    LockHeld = "lock_held", 409, Freed, "Somebody else holds the lock";
    /// The lease is over, even if nobody else has taken it.
    LeaseExpired = "lease_expired", 410, Kept, "The lease has expired";
    /// Events that the caller has not seen are gone.
    EventsGone = "events_gone", 410, Freed, "Events before this are gone";
    /// Another workflow holds what this one needs.
    ResourceLocked = "resource_locked", 409, Freed, "Another workflow is at work on this";
    /// A workflow ended without success, and what it had done was undone.
    WorkflowFailed = "workflow_failed", 409, Kept, "The workflow ended without success";
    /// A policy says no.
    PolicyRefused = "policy_refused", 403, Kept, "The signing policy says no";
    /// The same was signed before.
    NonceUsed = "nonce_used", 409, Kept, "The same was signed under this nonce before";
    /// The vote is about another request or policy than the one that waits.
    StaleApproval = "stale_approval", 409, Kept, "The vote is about something else";
    /// Nobody approves what they asked for.
    OwnRequest = "own_request", 403, Kept, "Nobody approves what they asked for";
    /// The time to agree is over.
    ApprovalExpired = "approval_expired", 409, Kept, "The time to agree is over";
    /// Somebody who was asked said no.
    RefusedByApprover = "refused_by_approver", 409, Kept, "An approver refused it";
    /// Votes that were counted before no longer count.
    ApprovalsLapsed = "approvals_lapsed", 409, Kept, "Too few of the votes still count";
    /// Whoever asked for it could not ask for it any more.
    RequesterWithdrawn = "requester_withdrawn", 403, Kept, "Whoever asked for it may not ask for it any more";
    /// Nobody could ever agree.
    NoQuorum = "no_quorum", 409, Kept, "Nobody could agree to this";
    /// Without this CA no client could connect.
    OnlyTrustedCa = "only_trusted_ca", 409, Kept, "The only trusted CA cannot be retired";
    /// The entry is recorded but no checkpoint covers it yet.
    NotYetSealed = "not_yet_sealed", 409, Freed, "No checkpoint covers this entry yet";
    /// The body is over the limit.
    BodyTooLarge = "body_too_large", 413, Freed, "The body is too large";
    /// The target is over the limit.
    TargetTooLong = "target_too_long", 414, Freed, "The address is too long";
    /// The body's media type is not JSON.
    NotJson = "not_json", 415, Freed, "The body must be application/json";
    /// The body is coded in a way that is not taken.
    CodingUnsupported = "coding_unsupported", 415, Freed, "The body's coding is not taken";
    /// Understood, and not acceptable.
    Invalid = "invalid", 422, Kept, "The request is understood but cannot be carried out";
    /// The idempotency key belongs to another request.
    IdempotencyKeyReused = "idempotency_key_reused", 422, Freed, "The Idempotency-Key belongs to another request";
    /// The scheme does not go with the key.
    SchemeMismatch = "scheme_mismatch", 422, Kept, "This key cannot sign with this scheme";
    /// The digest has the wrong length.
    DigestLength = "digest_length", 422, Kept, "The digest has the wrong length";
    /// The key is disabled, destroyed or waiting for destruction.
    KeyUnusable = "key_unusable", 409, Kept, "The key cannot be used in its present state";
    /// Another holder of the lease, or another version of the key, has taken over since the caller looked.
    Fenced = "fenced", 412, Kept, "Another has taken over";
    /// The key was made never to leave the token.
    NotRecoverable = "not_recoverable", 409, Kept, "The key was made never to leave the token";
    /// Too many requests.
    RateLimited = "rate_limited", 429, Freed, "Too many requests";
    /// The workspace keeps as many answers under idempotency keys as it may.
    AnswersFull = "answers_full", 429, Freed, "Too many answers are kept";
    /// Headers are over the limit.
    HeadersTooLarge = "headers_too_large", 431, Freed, "The headers are too large";
    /// A fault of ours.
    Internal = "internal", 500, Open, "Something went wrong on our side";
    /// The token cannot do this.
    TokenCannot = "token_cannot", 501, Kept, "The token cannot do this";
    /// The token has no room for another key.
    TokenFull = "token_full", 503, Freed, "The token is full";
    /// The token looked at it and said no.
    TokenRefused = "token_refused", 503, Freed, "The token refused";
    /// The token holds no private key under the recorded id, and will not by itself.
    TokenKeyMissing = "token_key_missing", 503, Freed, "The token does not hold this key";
    /// Under the recorded id the token holds another key than the recorded one.
    TokenKeyMismatch = "token_key_mismatch", 503, Freed, "The token holds another key in this one's place";
    /// What was brought is not the wrapped key that was announced.
    ImportRefused = "import_refused", 422, Kept, "The wrapped key is not the one that was announced";
    /// The upstream did not answer as it should.
    UpstreamFailed = "upstream_failed", 502, Freed, "The service behind this path failed";
    /// The upstream fails too often and is left alone for a while.
    UpstreamOpen = "upstream_open", 503, Freed, "The service behind this path is isolated for a while";
    /// A service of our own fails too often and is left alone for a while.
    ServiceIsolated = "service_isolated", 503, Freed, "This part of the appliance is isolated for a while";
    /// The queue is longer than the request's patience.
    Overloaded = "overloaded", 503, Freed, "Too busy to answer in time";
    /// The token does not answer.
    TokenUnavailable = "token_unavailable", 503, Freed, "The token does not answer";
    /// The token's answer was lost: the effect may have happened.
    OutcomeUnknown = "outcome_unknown", 503, Kept, "The outcome is not known";
    /// The ledger refuses writes.
    LedgerFrozen = "ledger_frozen", 503, Freed, "The ledger refuses to write";
    /// The daemon waits for its ledger's disk or its hardware; its operators are told why.
    Starting = "starting", 503, Freed, "The daemon waits for its disk or hardware";
    /// The daemon is stopping.
    Stopping = "stopping", 503, Freed, "The daemon is stopping";
    /// The deadline of the request passed.
    DeadlinePassed = "deadline_passed", 504, Open, "The request's time ran out";
}

/// A step of a workflow refuses with the same codes as a route, so that none is misspelt.
impl From<Code> for Cow<'static, str> {
    fn from(code: Code) -> Self {
        Cow::Borrowed(code.text())
    }
}

/// One refusal, ready to be written out.
#[derive(Debug, Clone)]
pub struct Problem {
    /// The stable code; it decides status and title.
    pub code: Code,
    /// What happened here and what to do next.
    pub detail: String,
    /// When it makes sense to ask again.
    pub retry_after: Option<Duration>,
    /// The field or item the problem is about, as a JSON pointer (RFC 6901).
    pub pointer: Option<String>,
}

/// The document as it goes out (RFC 9457 section 3).
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Problem")]
pub struct Document {
    /// A link to the code's description.
    pub r#type: String,
    /// The code's fixed title.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// What happened and what to do next.
    pub detail: String,
    /// The id of the request, for the operator.
    pub request_id: String,
    /// Seconds after which a retry makes sense.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The field or item concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

impl Problem {
    /// A refusal with its words.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, pointer: None }
    }

    /// Says when to come back.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Says which field or item it is about.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// A fault of ours: the cause goes to the log, the caller learns the request id only.
    pub fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal fault");
        Self::new(
            Code::Internal,
            "nothing is known to have changed; give the request id to the operator of this appliance",
        )
    }

    /// What becomes of the idempotency key of the request that this ends: whoever is told when to ask again may ask again.
    pub fn key_fate(&self) -> KeyFate {
        match (self.code.key_fate(), self.retry_after) {
            (KeyFate::Kept, Some(_)) => KeyFate::Freed,
            (fate, _) => fate,
        }
    }

    /// The document for the answer to `request_id`.
    pub fn document(self, request_id: &str) -> Document {
        Document {
            r#type: format!("/problems#{}", self.code.text()),
            title: self.code.title(),
            status: self.code.status(),
            code: self.code.text(),
            detail: self.detail,
            request_id: request_id.to_owned(),
            retry_after: self.retry_after.map(whole_seconds),
            pointer: self.pointer,
        }
    }
}

/// Retry-After counts whole seconds (RFC 9110 section 10.2.3); never zero, or clients spin.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_their_status_is_an_error() {
        let mut texts: Vec<_> = Code::ALL.iter().map(|code| code.text()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (400..600).contains(&code.status())));
    }

    #[test]
    fn a_wait_below_a_second_is_told_as_one() {
        assert_eq!(whole_seconds(Duration::from_millis(3)), 1);
        assert_eq!(whole_seconds(Duration::from_millis(1001)), 2);
    }
}
