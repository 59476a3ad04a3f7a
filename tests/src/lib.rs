//! Promises, end to end: the harness with which tests hold the real programs to their word.
//! Who enters: tests, each with a temporary appliance of its own: real daemon, real SoftHSM, real swtpm, real TLS.
//! What leaves: answers, processes to torment, copies of the state, and verdicts of the stand-alone verifier.

pub mod appliance;
pub mod blow;
pub mod daemon;
pub mod described;
pub mod disk;
pub mod evidence;
pub mod foreign;
pub mod identity;
pub mod inside;
pub mod insider;
pub mod load;
pub mod outside;
pub mod people;
pub mod plan;
pub mod programs;
pub mod runs;
pub mod wait;
pub mod wire;

pub use appliance::Appliance;
pub use identity::Identity;
pub use load::{Load, Tally, Until};
pub use outside::Outside;
pub use people::{Member, Operator, SCOPES};
pub use plan::{Hardware, Plan};
pub use wait::{GIVEN_UP, eventually, within};
pub use wire::{Answer, Ask, Connection, Door, Protocol, delete, get, post};
