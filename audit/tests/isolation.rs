//! Promises about isolation: schemas are proven from the engine's own plans, and a slip of each kind is found.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use audit::testing::{crossing_statements, prove_tenant_plans, tenant_plan_slips};
use audit::{Schema, Statement, Table};
use common::NOTES;

const MAKE: &[&str] = &["CREATE TABLE thing (workspace TEXT NOT NULL, id TEXT NOT NULL, owner TEXT,
    PRIMARY KEY (workspace, id)); CREATE INDEX thing_by_id ON thing (id); CREATE TABLE dial (name TEXT PRIMARY KEY)"];
const TABLES: &[Table] = &[Table { name: "thing", tenant: true }, Table { name: "dial", tenant: false }];

/// A schema with one statement; leaked, as statements are static by design.
fn with(statement: Statement) -> &'static Schema {
    let statement: &'static Statement = Box::leak(Box::new(statement));
    let statements: &'static [&'static Statement] = Box::leak(vec![statement].into_boxed_slice());
    Box::leak(Box::new(Schema { service: "things", tables: TABLES, migrations: MAKE, statements }))
}

fn slip_of(sql: &'static str) -> String {
    tenant_plan_slips(&[with(Statement::tenant("things", sql))]).join(" | ")
}

#[test]
fn an_honest_schema_is_proven() {
    prove_tenant_plans(&[&NOTES]);
    for sql in [
        "SELECT owner FROM thing WHERE workspace = ?1 AND id = ?2",
        "SELECT COUNT(*) FROM thing WHERE workspace=?1",
        "INSERT INTO thing (workspace, id) VALUES (?1, ?2) ON CONFLICT (workspace, id) DO UPDATE SET owner = ?2",
        "UPDATE thing SET owner = ?3 WHERE workspace = ?1 AND id = ?2",
        "DELETE FROM thing WHERE workspace = ?1 AND id IN (SELECT id FROM thing WHERE workspace = ?1)",
        "SELECT a.id FROM thing AS a JOIN thing AS b ON b.workspace = a.workspace AND b.id = a.owner WHERE a.workspace = ?1",
        "WITH mine AS MATERIALIZED (SELECT id FROM thing WHERE workspace = ?1) SELECT id FROM mine",
        "SELECT name FROM dial WHERE ?1 <> ''",
    ] {
        assert_eq!(slip_of(sql), "", "{sql}");
    }
}

#[test]
fn each_way_to_reach_a_foreign_row_is_found() {
    for (sql, why) in [
        ("SELECT owner FROM thing WHERE id = ?2 AND ?1 <> ''", "its plan says `SEARCH thing"),
        ("SELECT owner FROM thing WHERE ?1 <> ''", "its plan says `SCAN thing"),
        ("SELECT owner FROM thing WHERE workspace = ?1 OR id = ?2", "its plan says `SEARCH thing"),
        (
            "SELECT owner FROM thing WHERE workspace = ?2 AND ?1 <> ''",
            "compares `workspace` with something other",
        ),
        (
            "SELECT owner FROM thing WHERE workspace = ?10 AND ?1 <> ''",
            "compares `workspace` with something other",
        ),
        (
            "SELECT b.id FROM thing AS a, thing AS b WHERE a.workspace = ?1 AND b.id = a.owner",
            "its plan says `SEARCH b",
        ),
        ("UPDATE thing SET workspace = ?2 WHERE workspace = ?1", "moves a row to another workspace"),
        ("INSERT INTO thing (id, workspace) VALUES (?2, ?1)", "whose first column is not `workspace`"),
        ("INSERT INTO thing (workspace, id) VALUES (?2, ?1)", "whose first column is not `workspace`"),
        ("DELETE FROM thing WHERE id = ?2 AND ?1 <> ''", "its plan says"),
    ] {
        assert!(slip_of(sql).contains(why), "{sql}: {}", slip_of(sql));
    }
}

#[test]
fn an_appliance_statement_that_touches_a_tenant_is_found() {
    let slips = tenant_plan_slips(&[with(Statement::appliance("things", "SELECT COUNT(*) FROM thing"))]);
    assert_eq!(slips, ["things: it touches the tenant table `thing`: SELECT COUNT(*) FROM thing"]);
}

#[test]
fn statements_that_cross_workspaces_are_listed_with_their_reason() {
    let expected = "notes: figures for the operator: SELECT COUNT(*) FROM note";
    assert_eq!(crossing_statements(&[&NOTES]), [expected]);
}
