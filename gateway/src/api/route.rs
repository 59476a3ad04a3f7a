//! Routes as values: pattern, guard, body, answer, words, handler. One without a guard cannot be made.
//! Who enters: `services/*/routes.rs`, at start.
//! What leaves: `Route`, erased to one callable, and its description for OpenAPI and the access matrix.
//!
//! With its guard a route is made:
//! ```
//! use gateway::api::{Open, Reply, Route};
//! let service = std::sync::Arc::new(());
//! let route = Route::get("/v1/open").guard::<Open>().to(service, |_, (), (), _| async { Ok(Reply::empty()) });
//! ```
//! The same without one has nothing to call `to` on:
//! ```compile_fail
//! use gateway::api::{Open, Reply, Route};
//! let service = std::sync::Arc::new(());
//! let route = Route::get("/v1/open").to(service, |_, (), (), _| async { Ok(Reply::empty()) });
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::caller::Caller;
use super::exchange::{Body, Exchange, Reply};
use super::guard::{Guard, GuardKind};
use super::problem::Problem;

/// The methods that routes use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// Reads.
    Get,
    /// Acts or creates.
    Post,
    /// Ends something.
    Delete,
}

impl Method {
    /// As it stands in the request line.
    pub fn text(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// Whether a client that hangs up may stop the handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Only reads: stops with its client.
    Reads,
    /// May change rows or reach a key: runs to its end whatever the client does.
    Changes,
}

/// Whether a changing route wants an idempotency key, and for how long its answer is kept under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// Without one it is refused: what it does is a workflow, or cannot be taken back. Kept for long.
    Required,
    /// It may bring one. Kept for long, because what it does cannot be taken back.
    Lasting,
    /// It may bring one. Kept for a day.
    Optional,
}

/// The answer of a handler, on its way.
pub type Answering = Pin<Box<dyn Future<Output = Result<Reply, Problem>> + Send>>;
/// A caller got past the guard; the body may now be read and the handler run.
pub type Passed = Box<dyn FnOnce(&Bytes, Exchange) -> Result<Answering, Problem> + Send>;
/// A handler of any service behind one shape.
type Handler = Arc<dyn Fn(Result<&Caller, &Problem>) -> Result<Passed, Problem> + Send + Sync>;
type SchemaOf = fn(&mut SchemaGenerator) -> Option<Schema>;

/// A finished route.
#[derive(Clone)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The pattern; `{name}` stands for one segment.
    pub pattern: &'static str,
    /// Who may use it.
    pub guard: GuardKind,
    /// What a hang-up does.
    pub effect: Effect,
    /// Whether it wants an idempotency key.
    pub key_rule: KeyRule,
    /// With `Prefer: wait` it waits for people or events, and holds no place meanwhile.
    pub waits: bool,
    /// The words of the API description.
    pub about: About,
    handler: Handler,
}

/// What the API description says of a route.
#[derive(Clone)]
pub struct About {
    /// One line.
    pub summary: &'static str,
    /// The answer's status when all goes well.
    pub status: u16,
    /// Body, query and answer schemas.
    pub body: SchemaOf,
    /// The query's schema.
    pub query: SchemaOf,
    /// The answer's schema.
    pub answer: SchemaOf,
    /// Other answers than the usual one that are no refusals: status, when, schema.
    pub also: Vec<(u16, &'static str, SchemaOf)>,
    /// Media types that it also comes in, as text.
    pub texts: &'static [&'static str],
}

/// A route that nobody may use yet: it has no guard, and can do nothing but get one.
pub struct Unguarded {
    method: Method,
    pattern: &'static str,
}

/// A route with its guard `G` and body `B`, not yet with a handler.
pub struct Guarded<G, B = ()> {
    method: Method,
    pattern: &'static str,
    key_rule: KeyRule,
    waits: bool,
    effect: Effect,
    about: About,
    kinds: std::marker::PhantomData<(G, B)>,
}

fn nothing(_: &mut SchemaGenerator) -> Option<Schema> {
    None
}

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Option<Schema> {
    Some(generator.subschema_for::<T>())
}

impl Route {
    /// A route that reads.
    pub fn get(pattern: &'static str) -> Unguarded {
        Unguarded { method: Method::Get, pattern }
    }

    /// A route that acts.
    pub fn post(pattern: &'static str) -> Unguarded {
        Unguarded { method: Method::Post, pattern }
    }

    /// A route that ends something.
    pub fn delete(pattern: &'static str) -> Unguarded {
        Unguarded { method: Method::Delete, pattern }
    }

    /// Checks the guard, before a byte of the body is read.
    ///
    /// # Errors
    /// The guard's refusal.
    pub fn pass(&self, caller: Result<&Caller, &Problem>) -> Result<Passed, Problem> {
        (self.handler)(caller)
    }
}

impl Unguarded {
    /// Puts the guard in place.
    pub fn guard<G: Guard>(self) -> Guarded<G> {
        let about = About {
            summary: "",
            status: 200,
            body: nothing,
            query: nothing,
            answer: nothing,
            also: Vec::new(),
            texts: &[],
        };
        let key_rule = KeyRule::Optional;
        let effect = if self.method == Method::Get { Effect::Reads } else { Effect::Changes };
        Guarded {
            method: self.method,
            pattern: self.pattern,
            key_rule,
            waits: false,
            effect,
            about,
            kinds: std::marker::PhantomData,
        }
    }
}

impl<G: Guard, B: Body> Guarded<G, B> {
    /// Names the body it takes.
    pub fn takes<T: Body>(self) -> Guarded<G, T> {
        let about = About { body: T::schema, ..self.about };
        Guarded {
            method: self.method,
            pattern: self.pattern,
            key_rule: self.key_rule,
            waits: self.waits,
            effect: self.effect,
            about,
            kinds: std::marker::PhantomData,
        }
    }

    /// Says what it makes of idempotency keys.
    #[must_use]
    pub fn keyed(mut self, rule: KeyRule) -> Self {
        self.key_rule = rule;
        self
    }

    /// Says that it waits for people or events where the caller prefers to (RFC 7240 section 4.3).
    #[must_use]
    pub fn waits(mut self) -> Self {
        self.waits = true;
        self
    }

    /// Says that it only reads, though it takes a body that is too long for an address.
    #[must_use]
    pub fn reads(mut self) -> Self {
        self.effect = Effect::Reads;
        self
    }

    /// Names the query it understands.
    #[must_use]
    pub fn asks<T: JsonSchema>(mut self) -> Self {
        self.about.query = schema_of::<T>;
        self
    }

    /// Names its answer.
    #[must_use]
    pub fn gives<T: JsonSchema>(mut self, status: u16) -> Self {
        self.about.status = status;
        self.about.answer = schema_of::<T>;
        self
    }

    /// Names another answer that is no refusal.
    #[must_use]
    pub fn or_gives<T: JsonSchema>(mut self, status: u16, when: &'static str) -> Self {
        self.about.also.push((status, when, schema_of::<T>));
        self
    }

    /// Names the media types in which the answer comes as text, instead of JSON or beside it.
    #[must_use]
    pub fn gives_text(mut self, media_types: &'static [&'static str]) -> Self {
        self.about.texts = media_types;
        self
    }

    /// Names the status of an answer that has no JSON body.
    #[must_use]
    pub fn gives_status(mut self, status: u16) -> Self {
        self.about.status = status;
        self
    }

    /// Says in one line what it does.
    #[must_use]
    pub fn says(mut self, summary: &'static str) -> Self {
        self.about.summary = summary;
        self
    }

    /// Names the handler, which gets the service, the guard's evidence, the body and the rest.
    pub fn to<S, F, A>(self, service: Arc<S>, handler: F) -> Route
    where
        S: Send + Sync + 'static,
        F: Fn(Arc<S>, G::Evidence, B, Exchange) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Reply, Problem>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let erased: Handler = Arc::new(move |caller| {
            let evidence = G::check(caller)?;
            let (service, handler) = (Arc::clone(&service), Arc::clone(&handler));
            let passed: Passed = Box::new(move |body, exchange| {
                let answering: Answering = Box::pin(handler(service, evidence, B::read(body)?, exchange));
                Ok(answering)
            });
            Ok(passed)
        });
        Route {
            method: self.method,
            pattern: self.pattern,
            guard: G::KIND,
            effect: self.effect,
            key_rule: self.key_rule,
            waits: self.waits,
            about: self.about,
            handler: erased,
        }
    }
}
