//! A request that belongs to an upstream: authenticated and guarded like any other, then forwarded.
//! Who enters: the gate, with a request whose upstream is known.
//! What leaves: the upstream's answer under our request id, or a refusal.

use std::sync::Arc;

use http::Response;
use hyper::body::Incoming;

use super::authenticate::authenticate;
use super::gate::{Arrived, Gate, Label, limit_target};
use super::rate::Allowance;
use super::respond::{HttpResponse, allow, hand_on, respond};
use crate::api::{Code, Problem};
use crate::upstream::answered::AnsweredBody;
use crate::upstream::{METHODS, Passage, Upstream};

impl Gate {
    /// Forwards a request to its upstream.
    pub(super) async fn forward_outside(
        &self,
        arrived: &Arrived<'_>,
        body: Incoming,
        upstream: &Arc<Upstream>,
        path: &str,
    ) -> (HttpResponse, Label) {
        let label = Label::Owned(upstream.config().prefix.clone());
        if !METHODS.contains(&arrived.head.method.as_str()) {
            let problem = Problem::new(Code::MethodNotAllowed, "the Allow header names what is forwarded");
            return (allow(respond(Err(problem), arrived, None), METHODS.into_iter()), label);
        }
        let mut allowance = None;
        let response = match self.forward(arrived, body, upstream, path, &mut allowance).await {
            Ok(response) => hand_on(response, arrived.followed, allowance),
            Err(problem) => respond(Err(problem), arrived, allowance),
        };
        (response, label)
    }

    async fn forward(
        &self,
        arrived: &Arrived<'_>,
        body: Incoming,
        upstream: &Arc<Upstream>,
        path: &str,
        allowance: &mut Option<Allowance>,
    ) -> Result<Response<AnsweredBody>, Problem> {
        let headers = &arrived.head.headers;
        limit_target(&arrived.head)?;
        let caller = authenticate(arrived.peer, headers, self.directory());
        *allowance = self.limit_workspace(caller.as_ref().ok(), arrived.begun)?;
        let entrant = upstream.guard().check(caller.as_ref())?;
        let origin = arrived.origin(caller.as_ref().ok())?;
        let passage = Passage {
            method: arrived.head.method.clone(),
            path,
            query: arrived.head.uri.query(),
            headers,
            origin: &origin,
            unsent: arrived.unsent,
            trace_state: &|span| arrived.followed.state.with_own(span),
        };
        Ok(upstream.forward(&entrant, passage, body).await?)
    }
}
