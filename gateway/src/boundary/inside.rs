//! A request that belongs to a service of this process: authenticated, guarded, read, and run in the service's compartment.
//! Who enters: the gate, with a request whose service is known.
//! What leaves: the answer; a handler that panics, hangs or blocks its thread costs its own service places and, in the end, its
//! standing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use tracing::Instrument;

use super::authenticate::authenticate;
use super::body;
use super::gate::{Arrived, Gate, Label, limit_target, no_such_path, owner_of};
use super::headers::{wait_preferred, wants_text};
use super::overseer::{Overseer, Patience, attend};
use super::rate::Allowance;
use super::respond::{HttpResponse, respond};
use super::semantics;
use crate::again::{Asked, Begun};
use crate::api::{Code, Effect, Exchange, Method, Problem, Reply, Route};
use crate::compartments::{Kept, Pass};
use crate::limits::HANDLER_WAIT_FAIR;
use crate::routing::Room;
use crate::routing::tree::Found;
use crate::traces::{here, spanned};

const SHORTLY: Duration = Duration::from_secs(1);

impl Gate {
    /// Serves a request in its room.
    pub(super) async fn serve_inside(
        &self,
        arrived: &Arrived<'_>,
        body: Incoming,
        room: &Arc<Room>,
        path: &str,
    ) -> (HttpResponse, Label) {
        let (route, params) = match room.tree.find(&arrived.head.method, path) {
            Found::Route(route, params) => (route, params),
            Found::Nothing => return (respond(Err(no_such_path()), arrived, None), "none".into()),
            Found::OtherMethods(methods) if arrived.head.method == http::Method::OPTIONS => {
                let answer = respond(Ok(Reply::empty()), arrived, None);
                return (semantics::options(answer, &methods), "none".into());
            }
            Found::OtherMethods(methods) => {
                let problem =
                    Problem::new(Code::MethodNotAllowed, "the Allow header names the methods of this path");
                let answer = respond(Err(problem), arrived, None);
                return (semantics::options(answer, &methods), "none".into());
            }
        };
        let mut allowance = None;
        let outcome = self.carry_out(arrived, body, room, (route, params), &mut allowance).await;
        (respond(outcome, arrived, allowance), route.pattern.into())
    }

    async fn carry_out(
        &self,
        arrived: &Arrived<'_>,
        body: Incoming,
        room: &Arc<Room>,
        (route, params): (&Route, Vec<String>),
        allowance: &mut Option<Allowance>,
    ) -> Result<Reply, Problem> {
        let headers = &arrived.head.headers;
        limit_target(&arrived.head)?;
        let caller = authenticate(arrived.peer, headers, self.directory());
        *allowance = self.limit_workspace(caller.as_ref().ok(), arrived.begun)?;
        let passed = route.pass(caller.as_ref())?;
        let mut origin = arrived.origin(caller.as_ref().ok())?;
        let query = arrived.head.uri.query().unwrap_or_default().to_owned();
        let (until, wants_text, wait) = (origin.deadline, wants_text(headers), wait_preferred(headers));
        // What came in step, because an event or a person brought it, would end in step.
        let wait = wait.map(|wait| self.jittered(wait));
        let owner = owner_of(caller.as_ref().ok());
        let mut held = self.bodies().room(&owner);
        let bytes = match route.method {
            Method::Get => Bytes::new(),
            _ => body::read(headers, body, &mut held).await?,
        };
        let waits = route.waits && wait.is_some();
        let pass = match waits {
            true => room.compartment.enter_to_wait(&owner).await,
            false => room.compartment.enter(&owner, until).await,
        };
        let pass = pass.map_err(kept)?;
        // Who waits for people or events and is not heard says nothing of the service.
        let fair = !waits && until.saturating_duration_since(arrived.begun) >= HANDLER_WAIT_FAIR;
        let asked = Asked {
            caller: caller.as_ref().ok(),
            route,
            params: &params,
            query: &query,
            headers,
            body: &bytes,
            origin: &origin,
        };
        let turn = match self.again().begin(asked).await? {
            Begun::Answered(reply) => return Ok(reply),
            Begun::Go(turn) => turn,
        };
        origin.once = turn.once();
        let (metrics, meter) = (self.metrics().clone(), self.meter(&owner));
        let exchange = Exchange { origin, params, query, wants_text, wait, meter };
        // Parsing is a part of the handler: should it panic, that too is the service's fault and nobody else's.
        let work = async move {
            // What the body became is as long as the body was, until the request is over.
            let _held = held;
            let outcome = async {
                let parsing = Instant::now();
                let answering = passed(&bytes, exchange)?;
                metrics.spent("parse", parsing.elapsed());
                answering.await
            };
            turn.end(outcome.await).await
        };
        let outcome = self.run(room.name, work, pass, Patience { effect: route.effect, until, fair }).await;
        if route.effect == Effect::Reads {
            // Whoever lost the right to read while the answer was made or waited for does not get it.
            drop(route.pass(authenticate(arrived.peer, headers, self.directory()).as_ref())?);
        }
        outcome
    }

    /// What may change something runs to its end even if the client has gone; what only reads stops with it.
    /// A panic is this request's fault alone, and told to the compartment as it unwinds.
    async fn run(
        &self,
        service: &'static str,
        answering: impl Future<Output = Result<Reply, Problem>> + Send + 'static,
        pass: Pass,
        patience: Patience,
    ) -> Result<Reply, Problem> {
        let word = pass.word();
        // Each layer round a future keeps it twice, before it begins and while it goes on; round a box that is nothing.
        let work = attend(spanned(service, Box::pin(answering)), pass, patience);
        let here = here();
        let work = async move {
            match here {
                Some(here) => here.follow(work).await,
                None => work.await,
            }
        };
        let task = self.register().handlers().spawn(work.instrument(tracing::Span::current()));
        let abort = (patience.effect == Effect::Reads).then(|| AbortOnDrop(task.abort_handle()));
        let outcome = Overseer::over(task, word, patience).outcome().await;
        drop(abort);
        match outcome {
            Some(Ok(Some(reply))) => reply,
            Some(Err(panicked)) => Err(Problem::internal(&panicked)),
            Some(Ok(None)) | None if patience.effect == Effect::Reads => Err(too_late("ask again")),
            Some(Ok(None)) | None => {
                Err(too_late("it is still being carried out; look at the ledger before sending it again"))
            }
        }
    }
}

/// Stops a reading handler when its client has gone.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn kept(kept: Kept) -> Problem {
    match kept {
        Kept::Isolated { retry_after } => Problem::new(
            Code::ServiceIsolated,
            "it failed too often and is left alone for a while; nothing was done, try again after the time in Retry-After",
        )
        .after(retry_after),
        Kept::Full => {
            Problem::new(Code::Overloaded, "too many requests are under way; nothing was done, try again").after(SHORTLY)
        }
    }
}

fn too_late(advice: &str) -> Problem {
    Problem::new(Code::DeadlinePassed, format!("no answer in time; {advice}"))
}
