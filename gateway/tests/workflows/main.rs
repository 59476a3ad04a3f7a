//! Every workflow of keys that come and go, of workspaces and of exports, taken through everything that can go wrong.
//! Who enters: definitions as the house has them, over a token in memory, a real ledger and the real gate.
//! What leaves: proofs, and promises over the API.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;

mod audit;
mod keys_in_and_out;
mod workspaces;
mod world;
