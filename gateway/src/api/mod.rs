//! The vocabulary that the boundary and the services share: callers, guards, routes, problems.
//! Who enters: services, to describe their routes; the boundary, to serve them.
//! What leaves: types only; nothing here listens, stores or signs.

pub mod caller;
pub mod describe;
pub mod directory;
pub mod exchange;
pub mod guard;
pub mod kept;
mod objects;
pub mod offer;
pub mod once;
pub mod problem;
pub mod route;

pub use caller::{Actor, Caller, Client, Operator, Origin, Program, Scope, Scopes};
pub use directory::{ApiKeyStanding, CertificateHash, ClientStanding, Directory, HangUp};
pub use exchange::{Exchange, Reply};
pub use guard::{
    Connected, Entrant, Guard, GuardKind, InWorkspace, Member, Open, OperatorOnly, OperatorPermit, ToUpstream,
};
pub use offer::Offer;
pub use once::Once;
pub use problem::{Code, KeyFate, Problem};
pub use route::{Effect, KeyRule, Method, Route};
