//! Requests that are sent twice: the first is carried out, and every later one gets its very answer.
//! Who enters: changing requests with an `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header), once guard and body are known.
//! What leaves: a turn to carry the request out, or the answer that was given before, byte for byte.

mod line;
mod replays;

use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{Ledger, ReadRefused, WriteRefused};
use bytes::Bytes;
use http::HeaderMap;
use sagas::idempotency::{
    Claim, ClaimRefused, Fingerprint, Idempotency, Keep, Key, RequestParts, Standing, Whose,
};
use sagas::{SagaKey, Scope};

use self::line::{Line, Place};
use self::replays::Replayed;
use crate::api::kept::{Kept, given_again};
use crate::api::{Caller, Code, KeyFate, KeyRule, Method, Once, Origin, Problem, Reply, Route};
use crate::ids::{RequestId, WorkspaceId};
use crate::limits::{ANSWERS_KEPT, ANSWERS_KEPT_LONG, SAME_REQUEST_WAIT_MAX};

/// The header.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
const LOOK_AGAIN: Duration = Duration::from_millis(25);
const SHORTLY: Duration = Duration::from_secs(1);

/// Where answers are kept; cheap to clone.
#[derive(Clone)]
pub struct Again {
    ledger: Ledger,
    idempotency: Idempotency,
    line: Line,
    answer_bytes_max: u64,
}

/// A request, as far as it matters whether another one is the same.
pub struct Asked<'a> {
    /// Who asks.
    pub caller: Option<&'a Caller>,
    /// What is asked.
    pub route: &'a Route,
    /// The path's parameters.
    pub params: &'a [String],
    /// The query, still encoded.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The body as it arrived.
    pub body: &'a Bytes,
    /// Where it came from.
    pub origin: &'a Origin,
}

/// Whether a request has to be carried out.
pub enum Begun {
    /// Yes.
    Go(Turn),
    /// No: this is its answer.
    Answered(Reply),
}

/// The turn of one request. Its end is kept for those that come after it.
pub struct Turn {
    keyed: Option<Keyed>,
}

struct Keyed {
    ledger: Ledger,
    once: Arc<Once>,
    request: RequestId,
    /// Nobody else works on the key until this is over.
    _place: Place,
}

impl Again {
    /// Over the ledger's file and the seal of what is kept: so many bytes of answers for each workspace.
    pub fn new(ledger: Ledger, idempotency: Idempotency, answer_bytes_max: u64) -> Self {
        Self { ledger, idempotency, line: Line::default(), answer_bytes_max }
    }

    /// Begins a request: at once where it has no key, else when nobody else is at work on the key. The claim itself is taken
    /// by the first transaction of the request.
    ///
    /// # Errors
    /// The key is missing or malformed, belongs to another request, its first request is still under way, or the workspace keeps
    /// as many answers as it may.
    pub async fn begin(&self, asked: Asked<'_>) -> Result<Begun, Problem> {
        let Some(key) = key_of(&asked)? else { return Ok(Begun::Go(Turn { keyed: None })) };
        let long = match asked.route.key_rule {
            KeyRule::Optional => ANSWERS_KEPT,
            KeyRule::Lasting | KeyRule::Required => ANSWERS_KEPT_LONG,
        };
        // A workspace that has filled its share does not keep its operators out.
        let is_operator = matches!(asked.caller, Some(Caller::Operator(_)));
        let kept = Keep { long, bytes_max: (!is_operator).then_some(self.answer_bytes_max) };
        let claim = self.idempotency.claim(whose(asked.caller), key, fingerprint(&asked), kept).await;
        let claim = claim.map_err(|why| {
            tracing::warn!(%why, "what is kept of requests cannot be opened");
            Problem::new(Code::Overloaded, "nothing was done, send it again").after(SHORTLY)
        })?;
        let patience = Instant::now() + SAME_REQUEST_WAIT_MAX;
        loop {
            let place = self.line.enter(&claim);
            match (self.look(&claim).await?, place) {
                (Some(Standing::Finished(replay)), _) => {
                    Replayed::of(&claim, &asked, &replay).count(&self.ledger).await;
                    return given_again(replay).map(Begun::Answered).ok_or_else(too_long);
                }
                (Some(Standing::Attached(workflow)), _) => return going_on(&workflow).map(Begun::Answered),
                (Some(Standing::OtherRequest), _) => return Err(reused()),
                // What was begun and left nothing behind is begun anew.
                (None | Some(Standing::Fresh(_) | Standing::Resume(_)), Some(place)) => {
                    return Ok(self.go(claim, place, &asked));
                }
                _ if Instant::now() >= patience => return Err(in_progress()),
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Lets go of the claims of requests that died with the process before this one, so that whoever sends them again does
    /// not wait for a clock. Before the doors open.
    pub async fn release(&self) {
        match self.idempotency.release(&self.ledger).await {
            Ok(0) => {}
            Ok(claims) => {
                tracing::info!(claims, "requests that the last run left unanswered may be sent again")
            }
            Err(why) => tracing::warn!(%why, "claims of the last run end by the clock"),
        }
    }

    /// Forgets answers that nobody may ask for any more.
    ///
    /// # Errors
    /// The ledger did not take it; the next round tries again.
    pub async fn sweep(&self) -> Result<usize, WriteRefused<audit::SqlFault>> {
        self.idempotency.sweep(&self.ledger).await
    }

    async fn look(&self, claim: &Claim) -> Result<Option<Standing>, Problem> {
        let claim = claim.clone();
        let seen = self.ledger.read(move |view| match claim.find(view)? {
            None => claim.check_room(view).map(|()| None),
            found => Ok(found),
        });
        seen.await.map_err(|refused| match refused {
            ReadRefused::Rejected(refused @ ClaimRefused::Full) => refused.into(),
            ReadRefused::Rejected(why) => Problem::internal(&why),
            ReadRefused::Failed(fault) => Problem::internal(&fault),
            ReadRefused::Closed => {
                Problem::new(Code::Stopping, "try another appliance, or again in a moment").after(SHORTLY)
            }
            ReadRefused::Overloaded | ReadRefused::Panicked => {
                Problem::new(Code::Overloaded, "nothing was done, send it again").after(SHORTLY)
            }
        })
    }

    fn go(&self, claim: Claim, place: Place, asked: &Asked<'_>) -> Begun {
        let (ledger, request) = (self.ledger.clone(), asked.origin.request.clone());
        let keyed = Keyed { ledger, once: Arc::new(Once::new(claim)), request, _place: place };
        Begun::Go(Turn { keyed: Some(keyed) })
    }
}

impl Turn {
    /// The claim, for commands that take it and end it in transactions of their own.
    pub fn once(&self) -> Option<Arc<Once>> {
        self.keyed.as_ref().map(|keyed| Arc::clone(&keyed.once))
    }

    /// Keeps the outcome for those that send the request again, and gives it back. If we stop before it is kept, the
    /// next request with the key finds what came with the effect, an answer or a workflow; or there was none, and it goes on.
    pub async fn end(self, outcome: Result<Reply, Problem>) -> Result<Reply, Problem> {
        let Some(keyed) = self.keyed.filter(|keyed| !keyed.once.is_kept()) else { return outcome };
        let ending = match &outcome {
            Ok(reply) => Some(Ending::Keep(Kept::of(reply))),
            Err(problem) => ending_of(problem, &keyed.request),
        };
        match ending {
            None => {}
            Some(Ending::LetGo) if keyed.once.is_free() => {}
            Some(ending) => keyed.settle(ending).await,
        }
        outcome
    }
}

impl Keyed {
    async fn settle(&self, ending: Ending) {
        let once = Arc::clone(&self.once);
        let write =
            self.ledger.write_unaudited("the answer to a request that may be sent again", move |tx| {
                once.hold(tx)?;
                match &ending {
                    Ending::Keep(kept) => once.keep(tx, kept),
                    Ending::LetGo => once.let_go(tx),
                }
            });
        match write.await {
            Ok(()) => {}
            // Another request has gone on with it; that one answers.
            Err(WriteRefused::Rejected(ClaimRefused::Superseded)) => {}
            Err(why) => tracing::warn!(%why, "an answer was not kept; the same request finds out by itself"),
        }
    }
}

/// What becomes of the claim.
enum Ending {
    Keep(Kept),
    LetGo,
}

fn ending_of(problem: &Problem, request: &RequestId) -> Option<Ending> {
    match problem.key_fate() {
        KeyFate::Kept => Some(Ending::Keep(Kept::of_refusal(problem, request.as_str()))),
        KeyFate::Freed => Some(Ending::LetGo),
        KeyFate::Open => None,
    }
}

fn key_of(asked: &Asked<'_>) -> Result<Option<Key>, Problem> {
    if asked.route.method == Method::Get {
        return Ok(None);
    }
    let mut values = asked.headers.get_all(IDEMPOTENCY_KEY).iter();
    let malformed = |why: &str| Problem::new(Code::BadRequest, format!("Idempotency-Key: {why}"));
    match (values.next(), values.next()) {
        (None, _) if asked.route.key_rule == KeyRule::Required => Err(Problem::new(
            Code::IdempotencyKeyMissing,
            "send an Idempotency-Key, such as a UUID, and the same one when you send this request again",
        )),
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(malformed("one line, not several")),
        (Some(value), None) => {
            Key::parse(value.as_bytes()).map(Some).map_err(|why| malformed(&why.to_string()))
        }
    }
}

fn whose(caller: Option<&Caller>) -> Whose {
    let principal = match caller {
        Some(Caller::Program(program)) => program.api_key.as_str().to_owned(),
        Some(Caller::Client(client)) => client.id.to_string(),
        Some(Caller::Operator(operator)) => format!("operator:{}", operator.uid),
        None => String::new(),
    };
    let scope =
        caller.and_then(workspace_of).map_or(Scope::Appliance, |it| Scope::Workspace(it.on_ledger().clone()));
    Whose { scope, principal }
}

/// The workspace that a caller acts in.
fn workspace_of(caller: &Caller) -> Option<&WorkspaceId> {
    match caller {
        Caller::Program(program) => Some(&program.client.workspace),
        Caller::Client(client) => Some(&client.workspace),
        Caller::Operator(operator) => operator.acting_in.as_ref(),
    }
}

fn fingerprint(asked: &Asked<'_>) -> Fingerprint {
    let params: Vec<_> = asked.params.iter().map(|param| ("", param.as_str())).collect();
    let query: Vec<_> =
        asked.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect();
    let content_type = asked.headers.get(http::header::CONTENT_TYPE).map(|value| value.as_bytes());
    Fingerprint::of(&RequestParts {
        method: asked.route.method.text(),
        route: asked.route.pattern,
        params: &params,
        query: &query,
        content_type: content_type.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default(),
        api_version: "v1",
        body: asked.body,
    })
}

/// The workflow that the first request started is what the second one gets.
fn going_on(workflow: &SagaKey) -> Result<Reply, Problem> {
    let body = serde_json::json!({ "workflow": workflow.id.to_string() });
    Ok(Reply::json(202, &body)?.at(format!("/v1/workflows/{}", workflow.id)).replayed())
}

fn reused() -> Problem {
    Problem::new(Code::IdempotencyKeyReused, "this key belongs to another request; choose a fresh one")
}

fn in_progress() -> Problem {
    Problem::new(Code::RequestInProgress, "the first request with this key is under way; ask again")
        .after(SHORTLY)
}

fn too_long() -> Problem {
    Problem::new(
        Code::OutcomeUnknown,
        "the request was carried out; its answer was too long to keep, and the ledger shows what was done",
    )
}
