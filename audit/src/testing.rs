//! The proof of isolation: for every statement of a set of schemas, which tables it touches and how it searches them.
//! Who enters: a test of whoever wires the services together, with their real schemas.
//! What leaves: nothing when every tenant table is searched by workspace first; else every slip, in words.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::registry::Registry;
use crate::schema;
use crate::shared::unpoisoned;
use crate::statement::{Reach, Schema, Statement, WORKSPACE_COLUMN};

/// Every slip found in the schemas; empty when isolation is proven.
pub fn tenant_plan_slips(schemas: &[&'static Schema]) -> Vec<String> {
    let mut all = vec![&schema::LEDGER];
    all.extend(schemas);
    let registry = match Registry::new(&all) {
        Ok(registry) => registry,
        Err(why) => return vec![why.to_string()],
    };
    let mut conn = match build(&all) {
        Ok(conn) => conn,
        Err(why) => return vec![why.to_string()],
    };
    let mut slips: Vec<String> = schemas.iter().flat_map(|schema| table_slips(&conn, schema)).collect();
    for schema in schemas {
        for statement in schema.statements {
            slips.extend(statement_slips(&mut conn, &registry, statement));
        }
    }
    slips
}

/// The same, for a test that has nothing to add: panics with every slip.
#[allow(clippy::panic, reason = "it is an assertion")]
pub fn prove_tenant_plans(schemas: &[&'static Schema]) {
    let slips = tenant_plan_slips(schemas);
    assert!(
        slips.is_empty(),
        "{} statements are not held to one workspace:\n{}",
        slips.len(),
        slips.join("\n")
    );
}

/// The statements that say they must cross workspaces, with their reasons: for a checked-in list that may only shrink.
pub fn crossing_statements(schemas: &[&'static Schema]) -> Vec<String> {
    let crossing = |statement: &&Statement| match statement.reach {
        Reach::AcrossWorkspaces(why) => {
            Some(format!("{}: {why}: {}", statement.service, one_line(statement.sql)))
        }
        _ => None,
    };
    schemas.iter().flat_map(|schema| schema.statements).filter_map(crossing).collect()
}

fn build(schemas: &[&'static Schema]) -> rusqlite::Result<Connection> {
    let conn = Connection::open_in_memory()?;
    conn.execute_batch(schema::STEPS)?;
    for script in schemas.iter().flat_map(|schema| schema.migrations) {
        conn.execute_batch(script)?;
    }
    Ok(conn)
}

fn table_slips(conn: &Connection, schema: &Schema) -> Vec<String> {
    let slip = |table: &crate::Table| {
        let found = conn.query_row(
            "SELECT \"notnull\", pk FROM pragma_table_info(?1) WHERE name = ?2",
            [table.name, WORKSPACE_COLUMN],
            |row| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?)),
        );
        match (table.tenant, found) {
            (true, Ok((true, 1))) | (false, Err(_)) => None,
            (true, Ok((false, _))) => Some(format!("table `{}`: `workspace` may be null", table.name)),
            (true, Ok(_)) => {
                Some(format!("table `{}`: `workspace` does not lead its primary key", table.name))
            }
            (true, Err(_)) => Some(format!("table `{}` is a tenant's and has no `workspace`", table.name)),
            (false, Ok(_)) => {
                Some(format!("table `{}` has a `workspace` and says it is no tenant's", table.name))
            }
        }
    };
    schema.tables.iter().filter_map(slip).collect()
}

fn statement_slips(conn: &mut Connection, registry: &Registry, statement: &Statement) -> Vec<String> {
    let sql = one_line(statement.sql);
    let slip = |why: String| format!("{}: {why}: {sql}", statement.service);
    let (touched, moves) = match touched_tables(conn, statement.sql) {
        Ok(touched) => touched,
        Err(why) => return vec![slip(why.to_string())],
    };
    let tenant = |name: &str| registry.table(name).is_some_and(|table| table.tenant);
    if moves {
        return vec![slip("it moves a row to another workspace".to_owned())];
    }
    match statement.reach {
        Reach::AcrossWorkspaces(_) => Vec::new(),
        Reach::Appliance => touched
            .iter()
            .filter(|name| tenant(name))
            .map(|name| slip(format!("it touches the tenant table `{name}`")))
            .collect(),
        Reach::Tenant => {
            let mut slips: Vec<String> = text_slips(&sql).map(|why| slip(why.to_owned())).collect();
            match unsearched(conn, registry, statement.sql) {
                Ok(unsearched) => {
                    slips.extend(unsearched.into_iter().map(|line| slip(format!("its plan says `{line}`"))))
                }
                Err(why) => slips.push(slip(why.to_string())),
            }
            slips
        }
    }
}

/// The tables a statement names, by the engine's own account, and whether it assigns to `workspace`.
fn touched_tables(conn: &mut Connection, sql: &str) -> rusqlite::Result<(BTreeSet<String>, bool)> {
    let touched = Arc::new(Mutex::new((BTreeSet::new(), false)));
    let seen = touched.clone();
    conn.authorizer(Some(move |context: AuthContext<'_>| {
        let mut seen = unpoisoned(&seen);
        match context.action {
            AuthAction::Update { table_name, column_name } => {
                seen.0.insert(table_name.to_owned());
                seen.1 |= column_name == WORKSPACE_COLUMN;
            }
            AuthAction::Read { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Delete { table_name } => {
                seen.0.insert(table_name.to_owned());
            }
            _ => {}
        }
        Authorization::Allow
    }))?;
    let prepared = conn.prepare(sql).map(drop);
    conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    prepared?;
    Ok(std::mem::take(&mut *unpoisoned(&touched)))
}

/// Lines of the plan that reach a tenant table other than by workspace. A name the plan makes up itself (a
/// subquery, a common table) is no table; any other unknown name, such as an alias, counts as a tenant's.
fn unsearched(conn: &Connection, registry: &Registry, sql: &str) -> rusqlite::Result<Vec<String>> {
    let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}"))?;
    let mut rows = explain.raw_query();
    let mut lines: Vec<String> = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(row.get(3)?);
    }
    let made: BTreeSet<String> = lines
        .iter()
        .filter_map(|line| line.strip_prefix("MATERIALIZE ").or_else(|| line.strip_prefix("CO-ROUTINE ")))
        .map(str::to_owned)
        .collect();
    let reaches = |line: &String| {
        let Some(rest) = line.strip_prefix("SCAN ").or_else(|| line.strip_prefix("SEARCH ")) else {
            return false;
        };
        let name = rest.split(' ').next().unwrap_or_default();
        let harmless = name == "CONSTANT"
            || name.starts_with('(')
            || made.contains(name)
            || registry.table(name).is_some_and(|table| !table.tenant);
        let by_workspace = line.starts_with("SEARCH ") && line.contains("(workspace=?");
        !(harmless || by_workspace)
    };
    Ok(lines.iter().filter(|line| reaches(line)).cloned().collect())
}

/// What the plan cannot tell: whether `workspace` is compared with `?1` and not with another value.
fn text_slips(sql: &str) -> impl Iterator<Item = &'static str> {
    let lower = sql.to_lowercase();
    let compared = lower.match_indices(WORKSPACE_COLUMN).any(|(at, word)| {
        let after = lower[at + word.len()..].trim_start();
        let other = |rest: &str| {
            let rest = rest.trim_start();
            let first = !rest.starts_with("?1") || rest[2..].starts_with(|it: char| it.is_ascii_digit());
            let word: String =
                rest.chars().take_while(|it| it.is_alphanumeric() || "._".contains(*it)).collect();
            first && !word.ends_with(".workspace")
        };
        after.strip_prefix('=').is_some_and(other)
    });
    let compared = compared.then_some("it compares `workspace` with something other than ?1");
    let inserted = lower.find("insert into").and_then(|at| {
        let columns = lower[at..].split_once('(')?.1.trim_start();
        let values = lower
            .split_once("values")
            .map(|(_, rest)| rest.trim_start().trim_start_matches('(').trim_start());
        let source = values.or_else(|| lower.split_once("select").map(|(_, rest)| rest.trim_start()))?;
        let led = columns.starts_with("workspace,") && source.starts_with("?1,");
        (!led).then_some("it inserts a row whose first column is not `workspace` bound to ?1")
    });
    compared.into_iter().chain(inserted)
}

fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}
