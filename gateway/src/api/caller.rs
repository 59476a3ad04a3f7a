//! Who asks: a program with certificate and API key, a client still without one, or a local operator.
//! Who enters: the boundary, after it checked what the caller showed.
//! What leaves: `Caller`, which has no variant "nobody", and the scopes it carries.

use std::borrow::Cow;
use std::fmt;
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

/// Who did something, as entries name them. Written as text, and read back from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// A program: a client certificate and an API key.
    Program {
        /// The certificate's client.
        client: ClientId,
        /// The API key.
        api_key: ApiKeyId,
    },
    /// A client certificate alone.
    Client(ClientId),
    /// A local operator, by the user id that the kernel vouches for.
    Operator(u32),
    /// The appliance itself: start, rotation, scheduled work.
    Appliance,
}

const OPERATOR: &str = "operator:";
const APPLIANCE: &str = "appliance";

impl Actor {
    /// Whether both are one and the same hand: the same client certificate, the same API key, or the same user.
    pub fn is_same_hand(&self, other: &Self) -> bool {
        let shares = |one: Option<&str>, other: Option<&str>| one.is_some() && one == other;
        self == other
            || shares(self.client().map(ClientId::as_str), other.client().map(ClientId::as_str))
            || shares(self.api_key().map(ApiKeyId::as_str), other.api_key().map(ApiKeyId::as_str))
    }

    /// Whether it is a local operator.
    pub fn is_operator(&self) -> bool {
        matches!(self, Self::Operator(_))
    }

    fn client(&self) -> Option<&ClientId> {
        match self {
            Self::Program { client, .. } | Self::Client(client) => Some(client),
            Self::Operator(_) | Self::Appliance => None,
        }
    }

    fn api_key(&self) -> Option<&ApiKeyId> {
        match self {
            Self::Program { api_key, .. } => Some(api_key),
            Self::Client(_) | Self::Operator(_) | Self::Appliance => None,
        }
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { client, api_key } => write!(f, "{client}/{api_key}"),
            Self::Client(client) => write!(f, "{client}"),
            Self::Operator(uid) => write!(f, "{OPERATOR}{uid}"),
            Self::Appliance => f.write_str(APPLIANCE),
        }
    }
}

impl FromStr for Actor {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = Malformed { expected: "actor" };
        match text.split_once('/') {
            _ if text == APPLIANCE => Ok(Self::Appliance),
            Some((client, api_key)) => {
                Ok(Self::Program { client: client.parse()?, api_key: api_key.parse()? })
            }
            None => match text.strip_prefix(OPERATOR) {
                Some(uid) => uid.parse().map(Self::Operator).map_err(|_| malformed),
                None => text.parse().map(Self::Client).map_err(|_| malformed),
            },
        }
    }
}

impl From<&Caller> for Actor {
    fn from(caller: &Caller) -> Self {
        match caller {
            Caller::Program(program) => {
                Self::Program { client: program.client.id.clone(), api_key: program.api_key.clone() }
            }
            Caller::Client(client) => Self::Client(client.id.clone()),
            Caller::Operator(operator) => Self::Operator(operator.uid),
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

    fn program(client: char, api_key: char) -> Actor {
        let tail = |of: char| of.to_string().repeat(20);
        let text = format!("cl_{}/ak_{}", tail(client), tail(api_key));
        text.parse().unwrap()
    }

    #[test]
    fn the_same_certificate_or_the_same_api_key_is_the_same_hand() {
        assert!(program('a', 'b').is_same_hand(&program('a', 'c')));
        assert!(program('a', 'b').is_same_hand(&program('d', 'b')));
        assert!(!program('a', 'b').is_same_hand(&program('c', 'd')));
        let alone = Actor::Client(format!("cl_{}", "a".repeat(20)).parse().unwrap());
        assert!(program('a', 'b').is_same_hand(&alone));
        assert!(Actor::Operator(0).is_same_hand(&Actor::Operator(0)));
        assert!(!Actor::Operator(0).is_same_hand(&Actor::Operator(1)));
        assert!(!Actor::Operator(0).is_same_hand(&Actor::Appliance));
    }

    #[test]
    fn every_actor_reads_back_from_its_text_and_nothing_else_does() {
        let alone = Actor::Client(format!("cl_{}", "a".repeat(20)).parse().unwrap());
        for actor in [program('a', 'b'), alone, Actor::Operator(1000), Actor::Appliance] {
            assert_eq!(actor.to_string().parse(), Ok(actor));
        }
        for text in ["", "operator:", "operator:-1", "operator:0/ak_b", "cl_a/ak_b", "user:alice"] {
            assert!(text.parse::<Actor>().is_err(), "{text}");
        }
    }
}
