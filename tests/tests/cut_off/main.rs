//! A request that the power cut off, at whichever of its commits, is answered when it is sent again, and what it asked for
//! was done once. For every route that changes something.
//! Who enters: members and operators of temporary appliances; a blow at each commit.
//! What leaves: the answer, twice the same; one effect on a ledger that verifies.

mod access;
mod act;
mod keys;
mod runs;

use std::collections::BTreeSet;

use serde_json::Value;

const OPENAPI: &str = include_str!("../../../docs/openapi.json");
const STORIES: [&str; 3] = [include_str!("access.rs"), include_str!("keys.rs"), include_str!("runs.rs")];

#[test]
fn every_route_that_changes_something_is_cut_off() {
    let document: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut missing = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|method| *method != "get") {
            let route = format!("{} {path}", method.to_uppercase());
            if !STORIES.iter().any(|stories| stories.contains(&format!("\"{route}\""))) {
                missing.insert(route);
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
