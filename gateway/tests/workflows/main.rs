//! Workflows are taken through everything that can go wrong, and used as members use them.
//! Who enters: definitions over real services, a real ledger and a token in memory; requests through the real gate.
//! What leaves: proofs and promises, one file for each domain.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod audit;
#[path = "../common/mod.rs"]
mod common;
mod destruction;
mod direct;
mod fences;
/// The very list that answers over the network are held against.
#[path = "../../../tests/src/inside.rs"]
#[allow(unreachable_pub, reason = "the tests over the network use it too")]
mod inside;
mod keys;
mod keys_in_and_out;
mod sign_world;
mod signing;
mod standing;
mod token;
mod workspaces;
mod world;
