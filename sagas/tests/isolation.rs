//! Every statement of this crate is held to one workspace, or says why it cannot be; the list of those may only shrink.
//! Who enters: the schema.
//! What leaves: slips, by statement.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

#[test]
fn every_tenant_table_is_searched_by_workspace_first() {
    audit::testing::prove_tenant_plans(&[&sagas::SCHEMA]);
}

#[test]
fn the_statements_that_cross_workspaces_are_these_and_no_others() {
    let crossing = audit::testing::crossing_statements(&[&sagas::SCHEMA]);
    let reasons: Vec<&str> =
        crossing.iter().filter_map(|line| line.strip_prefix("sagas: ")?.split(':').next()).collect();
    let expected = [
        "the engine takes over the sagas of every workspace when it starts",
        "the engine drives the sagas of every workspace when they fall due",
        "the engine keeps the timers of every workspace's sagas",
        "after a jump of the clock the engine looks at every workspace's notices",
        "an operator sees the sagas of the whole appliance",
        "an operator follows a request through the whole appliance",
        "health and metrics count the stuck sagas of the whole appliance",
        "results are wiped when their time is over, in every workspace",
        "runs that are over are looked for when their time is over, in every workspace",
        "the appliance's own time",
        "the appliance's own time",
        "an operator sees which workflow holds what, in every workspace",
        "how far the tickets of names came that go is noted for each workspace",
        "names of locks that no workflow claims go, in every workspace",
        "places in line of the run before are given up, in every workspace",
        "how far fences of names came that go is noted for each workspace",
        "names of leases that nobody has held for long go, in every workspace",
        "keys whose time is over go, in every workspace",
        "one-time secrets are wiped when their time is over, in every workspace",
        "claims of the run before are let go, in every workspace",
        "an event's number counts the events of its transaction, whosever they are",
        "an operator follows the events of the whole appliance",
        "an operator's cursor is held against the newest event of all",
        "an operator's cursor is held against what is gone of any workspace",
        "events whose time is over are looked for from the oldest on, in every workspace",
        "up to where events are gone is noted for each workspace before they go",
        "events whose time is over go, in every workspace",
    ];
    assert_eq!(reasons, expected);
}
