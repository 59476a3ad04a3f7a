//! Who asks: a program with certificate and API key, a client still without one, or a local operator.
//! Who enters: the boundary, after it checked what the caller showed.
//! What leaves: `Caller`, which has no variant "nobody", and the scopes it carries.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::once::Once;
use crate::ids::{ApiKeyId, ClientId, Name, RequestId, UpstreamName, WorkspaceId};
use crate::malformed::Malformed;

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One thing an API key may be allowed to do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Scope {
            $($(#[$doc])* $name,)*
            /// Send requests to the upstream of this name.
            Upstream(UpstreamName),
        }

        impl Scope {
            /// Every scope that does not name an upstream.
            pub const ALL: &'static [Scope] = &[$(Scope::$name,)*];

            /// As it is written in requests.
            pub fn text(self) -> Cow<'static, str> {
                match self {
                    $(Scope::$name => Cow::Borrowed($text),)*
                    Scope::Upstream(name) => Cow::Owned(format!("{UPSTREAM}{name}")),
                }
            }
        }
    };
}

/// What stands before an upstream's name in its scope.
const UPSTREAM: &str = "upstream:";

scopes! {
    /// Sign with keys.
    Sign = "sign";
    /// Verify signatures.
    Verify = "verify";
    /// See keys and their public halves.
    KeysRead = "keys:read";
    /// Create, rotate, disable, enable keys and schedule their destruction.
    KeysManage = "keys:manage";
    /// See the workspace's API keys and clients.
    AccessRead = "access:read";
    /// Create and revoke the workspace's API keys.
    AccessManage = "access:manage";
    /// Read the workspace's entries, receipts and proofs.
    AuditRead = "audit:read";
    /// Use the priority lane for signatures.
    Priority = "priority";
    /// See the workspace's workflows, what they wait for and why they are stuck.
    WorkflowsRead = "workflows:read";
    /// Start workflows (each needs its own scope as well) and call them off.
    WorkflowsManage = "workflows:manage";
    /// Approve or refuse what others have asked for.
    Approve = "approve";
    /// Lease locks for work of one's own.
    Locks = "locks";
}

impl FromStr for Scope {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        if let Some(name) = text.strip_prefix(UPSTREAM) {
            return name.parse().map(Self::Upstream);
        }
        let known = Self::ALL.iter().find(|scope| scope.text() == text);
        known.copied().ok_or(Malformed { expected: "scope" })
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| {
            let known: Vec<_> = Self::ALL.iter().map(|scope| scope.text()).collect();
            let known = known.join(", ");
            serde::de::Error::custom(format!("`{text}` is no scope; there are {known}, and {UPSTREAM}NAME"))
        })
    }
}

impl JsonSchema for Scope {
    fn schema_name() -> Cow<'static, str> {
        "Scope".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let known: Vec<_> = Self::ALL.iter().map(|scope| scope.text()).collect();
        let upstream = format!("^{UPSTREAM}[a-z0-9][a-z0-9-]{{0,31}}$");
        json_schema!({
            "description": "One thing an API key may be allowed to do.",
            "type": "string",
            "anyOf": [{ "enum": known }, { "pattern": upstream }],
        })
    }
}

/// What an API key may do. A new key always carries a list; only a migration makes a wildcard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scopes {
    /// Exactly these; never empty.
    Listed(Vec<Scope>),
    /// Everything: a key that a migration brought from a system without scopes.
    LegacyWildcard,
}

impl Scopes {
    /// A list for a new key: sorted, without repeats, refused when empty.
    pub fn listed(mut scopes: Vec<Scope>) -> Option<Self> {
        scopes.sort_unstable();
        scopes.dedup();
        (!scopes.is_empty()).then_some(Self::Listed(scopes))
    }

    /// May its holder do this?
    pub fn include(&self, scope: Scope) -> bool {
        match self {
            Self::Listed(scopes) => scopes.contains(&scope),
            Self::LegacyWildcard => true,
        }
    }

    /// As stored: the scopes with spaces between them, or `*` for a legacy key.
    pub fn stored(&self) -> String {
        match self {
            Self::Listed(scopes) => scopes.iter().map(|scope| scope.text()).collect::<Vec<_>>().join(" "),
            Self::LegacyWildcard => "*".to_owned(),
        }
    }

    /// Reads the stored form. `*` counts only on a row that a migration marked as legacy;
    /// an empty or unknown list gives nobody anything.
    pub fn from_stored(text: &str, legacy: bool) -> Option<Self> {
        if text == "*" {
            return legacy.then_some(Self::LegacyWildcard);
        }
        let scopes = text.split(' ').map(Scope::from_str).collect::<Result<Vec<_>, _>>().ok()?;
        Self::listed(scopes)
    }
}

/// Where a request came from and how it is followed: part of every ledger entry.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Our name for the request.
    pub request: RequestId,
    /// The caller's address; none on the local socket.
    pub ip: Option<IpAddr>,
    /// What the caller calls itself, cut to a bound.
    pub user_agent: String,
    /// When the answer must be out.
    pub deadline: Instant,
    /// Asks for the priority lane.
    pub urgent: bool,
    /// Leases that must be the latest of their names when it is carried out.
    pub fences: Vec<Fence>,
    /// The claim on its idempotency key, where it brought one.
    pub once: Option<Arc<Once>>,
}

/// A lease as its holder carries it: the number that only grows with each holder of the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The lease's name.
    pub name: Name,
    /// Its fence.
    pub fence: i64,
}

/// A machine with an enrolled, unrevoked certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The client.
    pub id: ClientId,
    /// The workspace the certificate was issued for.
    pub workspace: WorkspaceId,
}

/// A client that also showed an API key of its own workspace.
#[derive(Clone, Debug)]
pub struct Program {
    /// The machine.
    pub client: Client,
    /// The API key.
    pub api_key: ApiKeyId,
    /// What the API key allows.
    pub scopes: Scopes,
}

/// A person or script at the local socket, known by peer credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The user id that the kernel vouches for (`SO_PEERCRED`).
    pub uid: u32,
    /// The workspace the operator acts in, where the command concerns one.
    pub acting_in: Option<WorkspaceId>,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Caller {
    /// Client certificate and API key, both good.
    Program(Program),
    /// Client certificate without an API key.
    Client(Client),
    /// A local operator.
    Operator(Operator),
}

/// How an entry names who did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// As it stands in the ledger.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The appliance itself: start, rotation, scheduled work.
    pub fn appliance() -> Self {
        Self("appliance".to_owned())
    }
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::Program(program) => Self(format!("{}/{}", program.client.id, program.api_key)),
            Caller::Client(client) => Self(client.id.to_string()),
            Caller::Operator(operator) => Self(format!("operator:{}", operator.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listed_key_does_exactly_what_its_list_says() {
        let scopes = Scopes::listed(vec![Scope::Sign, Scope::KeysRead]).unwrap();
        assert!(scopes.include(Scope::Sign));
        assert!(!scopes.include(Scope::KeysManage));
    }

    #[test]
    fn an_empty_list_is_refused_for_a_new_key() {
        assert_eq!(Scopes::listed(vec![]), None);
    }

    #[test]
    fn a_wildcard_counts_only_on_a_row_marked_as_legacy() {
        assert_eq!(Scopes::from_stored("*", true), Some(Scopes::LegacyWildcard));
        assert_eq!(Scopes::from_stored("*", false), None);
        assert_eq!(Scopes::from_stored("", true), None);
        assert_eq!(Scopes::from_stored("sign everything", false), None);
    }

    #[test]
    fn the_scope_of_an_upstream_opens_that_one_and_no_other() {
        let scope = |text: &str| text.parse::<Scope>().unwrap();
        let scopes = Scopes::listed(vec![scope("upstream:ledger")]).unwrap();
        assert!(scopes.include(scope("upstream:ledger")));
        assert!(!scopes.include(scope("upstream:ledger2")) && !scopes.include(Scope::Sign));
        assert!("upstream:".parse::<Scope>().is_err() && "upstream:*".parse::<Scope>().is_err());
    }

    #[test]
    fn the_stored_form_reads_back() {
        let mut all = Scope::ALL.to_vec();
        all.push("upstream:ledger".parse().unwrap());
        let scopes = Scopes::listed(all).unwrap();
        assert_eq!(Scopes::from_stored(&scopes.stored(), false), Some(scopes));
    }
}
