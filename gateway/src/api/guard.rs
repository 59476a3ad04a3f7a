//! Guards: what a caller must be before a route's handler runs, as types.
//! Who enters: a `Caller`, at the boundary, once per request.
//! What leaves: evidence (a `Permit`, an `OperatorPermit`) that only a guard can make and every command demands.

use std::marker::PhantomData;

use super::caller::{Actor, Caller, Client, Scope, Scopes};
use super::problem::{Code, Problem};
use crate::ids::{ApiKeyId, ClientId, UpstreamName, WorkspaceId};

/// How a guard shows in the API description and in the access matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuardKind {
    /// Anyone who reached the listener.
    Open,
    /// An enrolled client, with or without an API key.
    Connected,
    /// A program whose API key has the scope, or an operator acting in a workspace.
    Scope(Scope),
    /// A local operator.
    Operator,
}

/// A check with its evidence. Implemented here and nowhere else.
pub trait Guard: sealed::Sealed + Send + Sync + 'static {
    /// What a passed check hands to the handler.
    type Evidence: Send + 'static;
    /// For descriptions and the access matrix.
    const KIND: GuardKind;
    /// Checks the caller; `None` is somebody who showed nothing that we know.
    fn check(caller: Result<&Caller, &Problem>) -> Result<Self::Evidence, Problem>;
}

mod sealed {
    pub trait Sealed {}
}

/// Anyone who reached the listener may use it: health and the API description.
pub struct Open;

impl sealed::Sealed for Open {}
impl Guard for Open {
    type Evidence = ();
    const KIND: GuardKind = GuardKind::Open;

    fn check(_: Result<&Caller, &Problem>) -> Result<(), Problem> {
        Ok(())
    }
}

/// Any caller that we know, with or without an API key.
pub struct Connected;

impl sealed::Sealed for Connected {}
impl Guard for Connected {
    type Evidence = Caller;
    const KIND: GuardKind = GuardKind::Connected;

    fn check(caller: Result<&Caller, &Problem>) -> Result<Caller, Problem> {
        caller.cloned().map_err(Clone::clone)
    }
}

/// An authority that a command can ask for; one type for each scope.
pub trait Authority: Send + Sync + 'static {
    /// The scope that grants it.
    const SCOPE: Scope;
}

/// The authorities, so that a command's signature names the one it needs.
pub mod may {
    use super::{Authority, Scope};

    macro_rules! authorities {
        ($($name:ident),*) => {
            $(
                #[doc = concat!("The authority that the scope `", stringify!($name), "` grants.")]
                #[derive(Debug)]
                pub struct $name;
                impl Authority for $name { const SCOPE: Scope = Scope::$name; }
            )*
        };
    }
    authorities!(
        Sign,
        Verify,
        KeysRead,
        KeysManage,
        AccessRead,
        AccessManage,
        AuditRead,
        WorkflowsRead,
        WorkflowsManage,
        Approve,
        Locks
    );
}

/// Proof that its holder may do `A` in one workspace. Only the guard makes one.
///
/// ```compile_fail
/// use gateway::api::guard::{may, Permit};
/// // Every field is private, so not even one permit can be copied into another.
/// fn forge(seen: Permit<may::Sign>) -> Permit<may::Sign> { Permit { ..seen } }
/// ```
#[derive(Debug)]
pub struct Permit<A> {
    workspace: WorkspaceId,
    actor: Actor,
    standing: Standing,
    scopes: Option<Scopes>,
    authority: PhantomData<A>,
}

/// What the permit rests on, so that a transaction can check that it still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A client certificate and an API key, either of which may be revoked at any moment.
    Program {
        /// The certificate's client.
        client: ClientId,
        /// The API key.
        api_key: ApiKeyId,
    },
    /// A local operator: the kernel vouches for the peer as long as the connection lives.
    Operator,
}

impl<A> Permit<A> {
    /// The workspace it is good for.
    pub fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    /// Who holds it, as entries name them.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// What it rests on.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Whether its holder has one more scope. An operator has all.
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.include(scope))
    }

    /// Which of these its holder does not have, and so cannot pass on. An operator has all.
    pub fn lacks(&self, wanted: &Scopes) -> Vec<Scope> {
        let wanted = match wanted {
            Scopes::Listed(scopes) => scopes.as_slice(),
            Scopes::LegacyWildcard => Scope::ALL,
        };
        wanted.iter().filter(|scope| !self.has(**scope)).copied().collect()
    }
}

/// A program in its workspace, or an operator acting in one, with authority `A`.
pub struct InWorkspace<A>(PhantomData<A>);

/// The evidence of [`InWorkspace`].
pub type Member<A> = Permit<A>;

impl<A> sealed::Sealed for InWorkspace<A> {}
impl<A: Authority> Guard for InWorkspace<A> {
    type Evidence = Permit<A>;
    const KIND: GuardKind = GuardKind::Scope(A::SCOPE);

    fn check(caller: Result<&Caller, &Problem>) -> Result<Permit<A>, Problem> {
        let caller = caller.map_err(Clone::clone)?;
        let (workspace, standing, scopes) = with_scope(caller, A::SCOPE)?;
        Ok(Permit { workspace, actor: Actor::from(caller), standing, scopes, authority: PhantomData })
    }
}

/// A program whose API key has the scope, or an operator acting in a workspace.
fn with_scope(caller: &Caller, scope: Scope) -> Result<(WorkspaceId, Standing, Option<Scopes>), Problem> {
    match caller {
        Caller::Program(program) if program.scopes.include(scope) => Ok((
            program.client.workspace.clone(),
            Standing::Program { client: program.client.id.clone(), api_key: program.api_key.clone() },
            Some(program.scopes.clone()),
        )),
        Caller::Program(_) => Err(scope_missing(scope)),
        Caller::Client(client) => Err(api_key_missing(client)),
        Caller::Operator(operator) => match &operator.acting_in {
            Some(workspace) => Ok((workspace.clone(), Standing::Operator, None)),
            None => Err(workspace_unnamed()),
        },
    }
}

/// The guard before one upstream: a member of a workspace with the scope `upstream:<name>`. Which upstreams there are is
/// known only when the configuration is read, so this guard is a value; its evidence is as hard to come by as any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToUpstream(UpstreamName);

/// Proof that its holder may send requests to one upstream. Only that upstream's guard makes one.
///
/// ```compile_fail
/// use gateway::api::guard::Entrant;
/// // Every field is private, so not even one proof can be copied into another.
/// fn forge(seen: Entrant) -> Entrant { Entrant { ..seen } }
/// ```
#[derive(Debug)]
pub struct Entrant {
    upstream: UpstreamName,
    workspace: WorkspaceId,
    actor: Actor,
    standing: Standing,
}

impl ToUpstream {
    /// The guard before the upstream of this name.
    pub fn new(upstream: UpstreamName) -> Self {
        Self(upstream)
    }

    /// For descriptions.
    pub fn kind(self) -> GuardKind {
        GuardKind::Scope(Scope::Upstream(self.0))
    }

    /// Checks the caller.
    ///
    /// # Errors
    /// What is missing.
    pub fn check(self, caller: Result<&Caller, &Problem>) -> Result<Entrant, Problem> {
        let caller = caller.map_err(Clone::clone)?;
        let (workspace, standing, _) = with_scope(caller, Scope::Upstream(self.0))?;
        Ok(Entrant { upstream: self.0, workspace, actor: Actor::from(caller), standing })
    }
}

impl Entrant {
    /// The upstream it is good for.
    pub fn upstream(&self) -> UpstreamName {
        self.upstream
    }

    /// The workspace in which the caller acts.
    pub fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    /// Who it is, as entries name them.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The machine, where a program asks.
    pub fn client(&self) -> Option<&ClientId> {
        match &self.standing {
            Standing::Program { client, .. } => Some(client),
            Standing::Operator => None,
        }
    }
}

/// The refusal of a caller who lacks a scope.
pub fn scope_missing(scope: Scope) -> Problem {
    let detail = format!("this needs the scope `{}`; ask for an API key that has it", scope.text());
    Problem::new(Code::ScopeMissing, detail)
}

fn api_key_missing(_: &Client) -> Problem {
    Problem::new(Code::ApiKeyUnknown, "send an API key of this workspace as `Authorization: Bearer ck_...`")
}

fn workspace_unnamed() -> Problem {
    Problem::new(
        Code::BadRequest,
        "say which workspace with the header `Chancery-Workspace` (its id or name)",
    )
}

/// Proof that its holder is a local operator. Only the guard makes one.
#[derive(Debug)]
pub struct OperatorPermit {
    actor: Actor,
    acting_in: Option<WorkspaceId>,
}

impl OperatorPermit {
    /// Who holds it, as entries name them.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The workspace the command concerns.
    ///
    /// # Errors
    /// The operator named none.
    pub fn workspace(&self) -> Result<&WorkspaceId, Problem> {
        self.acting_in.as_ref().ok_or_else(workspace_unnamed)
    }
}

/// A local operator.
pub struct OperatorOnly;

impl sealed::Sealed for OperatorOnly {}
impl Guard for OperatorOnly {
    type Evidence = OperatorPermit;
    const KIND: GuardKind = GuardKind::Operator;

    fn check(caller: Result<&Caller, &Problem>) -> Result<OperatorPermit, Problem> {
        match caller {
            Ok(Caller::Operator(operator)) => Ok(OperatorPermit {
                actor: Actor::from(&Caller::Operator(operator.clone())),
                acting_in: operator.acting_in.clone(),
            }),
            Ok(_) => {
                Err(Problem::new(Code::OperatorOnly, "run this with `chancery` on the appliance itself"))
            }
            Err(problem) => Err(problem.clone()),
        }
    }
}
