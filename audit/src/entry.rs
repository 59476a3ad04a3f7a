//! The room where an act is put into words: who did what to which thing, and how it ended.
//! Who enters: a service, filling the form for the change it makes.
//! What leaves: an `Entry`, whose short fields stand open in the leaf and whose detail is committed to with a salt.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

/// A workspace, by its id. Never empty: an entry without a workspace concerns the appliance itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Workspace(Arc<str>);

/// A workspace id is between 1 and 128 bytes long, without control characters.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a workspace id has 1 to 128 bytes and no control characters")]
pub struct NotAWorkspace;

impl Workspace {
    /// Takes an id as the boundary parsed it.
    pub fn new(id: impl AsRef<str>) -> Result<Self, NotAWorkspace> {
        let id = id.as_ref();
        if id.is_empty() || id.len() > 128 || id.chars().any(char::is_control) {
            return Err(NotAWorkspace);
        }
        Ok(Self(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Workspace {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Workspace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// How the act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// It took effect.
    #[default]
    Done,
    /// It was not permitted.
    Denied,
    /// It was permitted and did not work.
    Failed,
}

impl Outcome {
    /// The word in the leaf.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }
}

/// What is written down about one act.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub(crate) action: Cow<'static, str>,
    pub(crate) workspace: Option<Workspace>,
    pub(crate) actor: Cow<'static, str>,
    pub(crate) object: String,
    pub(crate) outcome: Outcome,
    pub(crate) request_id: String,
    pub(crate) detail: Detail,
}

impl Entry {
    /// An act by its name, such as `key.create`.
    pub fn new(action: impl Into<Cow<'static, str>>) -> Self {
        Self {
            action: action.into(),
            workspace: None,
            actor: Cow::Borrowed(""),
            object: String::new(),
            outcome: Outcome::Done,
            request_id: String::new(),
            detail: Detail::default(),
        }
    }

    /// In which workspace; without one the act concerns the appliance.
    pub fn workspace(mut self, workspace: &Workspace) -> Self {
        self.workspace = Some(workspace.clone());
        self
    }

    /// Who did it, such as `user:alice` or `system:seal`.
    pub fn actor(mut self, actor: impl Into<Cow<'static, str>>) -> Self {
        self.actor = actor.into();
        self
    }

    /// To what, such as `key/42`.
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.object = object.into();
        self
    }

    /// How it ended; `Done` when nothing is said.
    pub fn outcome(mut self, outcome: Outcome) -> Self {
        self.outcome = outcome;
        self
    }

    /// The request that caused it.
    pub fn request(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = request_id.into();
        self
    }

    /// What else is worth keeping. Never a secret.
    pub fn detail(mut self, detail: Detail) -> Self {
        self.detail = detail;
        self
    }
}

/// The payload of an entry: origin of the request, state before and after, and whatever else explains it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Detail {
    ip: Option<String>,
    user_agent: Option<String>,
    before: Option<Json>,
    after: Option<Json>,
    more: Map<String, Json>,
}

impl Detail {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The address the request came from.
    pub fn ip(mut self, ip: impl ToString) -> Self {
        self.ip = Some(ip.to_string());
        self
    }

    /// The program that says it sent the request.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// The state before the act.
    pub fn before(mut self, before: Json) -> Self {
        self.before = Some(before);
        self
    }

    /// The state after the act.
    pub fn after(mut self, after: Json) -> Self {
        self.after = Some(after);
        self
    }

    /// One more fact.
    pub fn with(mut self, name: impl Into<String>, fact: impl Into<Json>) -> Self {
        self.more.insert(name.into(), fact.into());
        self
    }

    /// The bytes that are kept and committed to: one JSON object, without spaces. They are stored as they
    /// were hashed, so nobody ever has to produce them a second time.
    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let texts = [("ip", &self.ip), ("user_agent", &self.user_agent)];
        let states = [("before", &self.before), ("after", &self.after)];
        let mut object = self.more.clone();
        object.extend(
            texts.into_iter().filter_map(|(name, it)| Some((name.to_owned(), Json::from(it.clone()?)))),
        );
        object.extend(states.into_iter().filter_map(|(name, it)| Some((name.to_owned(), it.clone()?))));
        Json::Object(object).to_string().into_bytes()
    }
}
