//! The services: one room each, with the same furniture (`mod` the commands, `store` its SQL, `wire` its JSON, `routes`).
//! Who enters: the boundary, with the evidence that a guard made.
//! What leaves: answers; every change among them told on the ledger in the same transaction.

pub mod audit;
mod columns;
pub mod credentials;
pub mod devices;
pub mod ground;
pub mod keys;
pub mod policy;
pub mod problems;
pub mod resealing;
pub mod roster;
pub mod signing;
pub mod subject;
pub mod succession;
pub mod workspaces;

/// What every service keeps in the ledger's file.
pub fn schemas() -> Vec<&'static ::audit::Schema> {
    vec![
        &workspaces::store::SCHEMA,
        &devices::store::SCHEMA,
        &keys::store::SCHEMA,
        &signing::store::SCHEMA,
        &sagas::SCHEMA,
    ]
}
