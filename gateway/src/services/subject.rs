//! What others are asked to agree to, as they are shown it: every fact of the plan, and what comes of a yes.
//! Who enters: the services whose plans need agreement.
//! What leaves: facts and a sentence, which the approval document holds word for word.

use serde_json::{Map, Value};

/// What approvers see of a plan. All of it is in the document that the digest is over, and nothing else decides what is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What the event about it names: a key's id, a policy's scope, a workspace's id.
    pub about: String,
    /// The plan's facts, by name.
    pub facts: Map<String, Value>,
    /// Those facts that are too long for an event.
    pub long: Map<String, Value>,
    /// What happens once enough others agree, in one sentence.
    pub consequence: String,
}

impl Subject {
    /// A subject. Facts that are not an object are none.
    pub fn new(about: impl Into<String>, facts: Value, consequence: impl Into<String>) -> Self {
        Self { about: about.into(), facts: object(facts), long: Map::new(), consequence: consequence.into() }
    }

    /// The same, with facts that an event leaves out.
    #[must_use]
    pub fn and_long(self, facts: Value) -> Self {
        Self { long: object(facts), ..self }
    }

    /// Every fact.
    pub fn request(&self) -> Value {
        Value::Object(
            self.facts.iter().chain(&self.long).map(|(name, fact)| (name.clone(), fact.clone())).collect(),
        )
    }
}

fn object(facts: Value) -> Map<String, Value> {
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}
