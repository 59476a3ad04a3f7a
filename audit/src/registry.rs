//! The room of who may touch what: all registered statements and tables, and the guard each connection carries.
//! Who enters: the schemas given to `Ledger::open`.
//! What leaves: a registry that every run is checked against, and an authorizer that asks it for each table named.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::fault::SqlFault;
use crate::statement::{Reach, Schema, Statement, Table};

/// An index into the registry's services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner(usize);

impl Owner {
    /// The ledger itself: it owns the entries, begins and commits.
    pub(crate) const LEDGER: Owner = Owner(0);

    /// The service of the nth schema.
    pub(crate) fn nth(place: usize) -> Self {
        Self(place)
    }
}

/// Two services want the same thing, or one says what cannot be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SchemaRefused {
    /// Give one of the tables another name.
    #[error("table `{table}` is declared by `{first}` and by `{second}`")]
    SharedTable {
        /// The table.
        table: &'static str,
        /// Who declared it first.
        first: &'static str,
        /// Who declared it again.
        second: &'static str,
    },
    /// Let each statement stand in the schema of the service that it names.
    #[error("the schema of `{schema}` lists a statement that says it is of `{service}`: {sql}")]
    ForeignStatement {
        /// Whose schema.
        schema: &'static str,
        /// What the statement says.
        service: &'static str,
        /// Its text.
        sql: &'static str,
    },
    /// Check such a rule at once: at commit it would fail the writes of others with it.
    #[error("a migration of `{service}` defers a foreign key to the commit, which others share")]
    Deferred {
        /// The service.
        service: &'static str,
    },
    /// Register it once.
    #[error("`{service}` registers a service name or statement text that is already taken: {what}")]
    Twice {
        /// The service.
        service: &'static str,
        /// The name or text.
        what: &'static str,
    },
}

/// Every statement and every table, with its owner.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    services: Vec<&'static str>,
    statements: HashMap<&'static str, (Owner, &'static Statement)>,
    tables: HashMap<&'static str, (Owner, Table)>,
}

impl Registry {
    pub(crate) fn new(schemas: &[&'static Schema]) -> Result<Self, SchemaRefused> {
        let mut registry = Self::default();
        for schema in schemas {
            registry.add(schema)?;
        }
        Ok(registry)
    }

    fn add(&mut self, schema: &'static Schema) -> Result<(), SchemaRefused> {
        let service = schema.service;
        if self.services.contains(&service) {
            return Err(SchemaRefused::Twice { service, what: service });
        }
        if schema
            .migrations
            .iter()
            .any(|script| script.to_uppercase().contains("DEFERRABLE INITIALLY DEFERRED"))
        {
            return Err(SchemaRefused::Deferred { service });
        }
        let owner = Owner(self.services.len());
        self.services.push(service);
        for table in schema.tables {
            if let Some((first, _)) = self.tables.insert(table.name, (owner, *table)) {
                let first = self.services.get(first.0).copied().unwrap_or(service);
                return Err(SchemaRefused::SharedTable { table: table.name, first, second: service });
            }
        }
        for &statement in schema.statements {
            let Statement { service: said, sql, .. } = *statement;
            if said != service {
                return Err(SchemaRefused::ForeignStatement { schema: service, service: said, sql });
            }
            if self.statements.insert(sql, (owner, statement)).is_some() {
                return Err(SchemaRefused::Twice { service, what: sql });
            }
        }
        Ok(())
    }

    /// The owner of a statement, if it is registered and its reach is asked for in the right way.
    pub(crate) fn admit(&self, statement: &Statement, in_workspace: bool) -> Result<Owner, SqlFault> {
        let Statement { service, sql, reach, .. } = *statement;
        let owner = match self.statements.get(sql) {
            Some((owner, registered)) if registered.service == service && registered.reach == reach => *owner,
            _ => return Err(SqlFault::Unregistered { service, sql }),
        };
        match (reach, in_workspace) {
            (Reach::Tenant, true) | (Reach::Appliance | Reach::AcrossWorkspaces(_), false) => Ok(owner),
            (Reach::Tenant, false) => Err(SqlFault::NeedsWorkspace { service, sql }),
            (_, true) => Err(SqlFault::NotTenant { service, sql }),
        }
    }

    pub(crate) fn statements(&self) -> impl Iterator<Item = (Owner, &'static Statement)> {
        self.statements.values().copied()
    }

    #[cfg(any(test, feature = "double"))]
    pub(crate) fn table(&self, name: &str) -> Option<Table> {
        self.tables.get(name).map(|(_, table)| *table)
    }

    fn owns(&self, owner: Owner, table: &str) -> bool {
        self.tables.get(table).is_some_and(|(by, _)| *by == owner)
    }
}

/// On whose behalf a connection is working right now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Behalf(Arc<AtomicUsize>);

/// Set while a service's migration runs: it may make and change its own tables then.
const MIGRATING: usize = 1 << (usize::BITS - 1);

impl Behalf {
    pub(crate) fn of(&self, owner: Owner) {
        self.0.store(owner.0, Ordering::Relaxed);
    }

    pub(crate) fn migration_of(&self, owner: Owner) {
        self.0.store(owner.0 | MIGRATING, Ordering::Relaxed);
    }

    fn now(&self) -> (Owner, bool) {
        let raw = self.0.load(Ordering::Relaxed);
        (Owner(raw & !MIGRATING), raw & MIGRATING != 0)
    }
}

/// The guard of a connection: asked by the engine for every table each time a statement is compiled.
pub(crate) fn authorizer(
    registry: Arc<Registry>,
    behalf: Behalf,
) -> impl for<'a> FnMut(AuthContext<'a>) -> Authorization + Send + 'static {
    move |context| {
        let (owner, migrating) = behalf.now();
        let ledger = owner == Owner::LEDGER;
        let allowed = match context.action {
            AuthAction::Select | AuthAction::Recursive => true,
            AuthAction::Function { function_name } => function_name != "load_extension",
            AuthAction::Read { table_name, .. }
            | AuthAction::Insert { table_name }
            | AuthAction::Update { table_name, .. }
            | AuthAction::Delete { table_name } => {
                registry.owns(owner, table_name)
                    || (table_name.starts_with("sqlite_") && (migrating || ledger))
            }
            AuthAction::CreateTable { table_name }
            | AuthAction::CreateIndex { table_name, .. }
            | AuthAction::CreateTrigger { table_name, .. }
            | AuthAction::DropTable { table_name }
            | AuthAction::DropIndex { table_name, .. }
            | AuthAction::DropTrigger { table_name, .. }
            | AuthAction::AlterTable { table_name, .. } => migrating && registry.owns(owner, table_name),
            AuthAction::Reindex { .. } => migrating,
            AuthAction::Transaction { .. } | AuthAction::Savepoint { .. } | AuthAction::Pragma { .. } => {
                ledger
            }
            _ => false,
        };
        if allowed { Authorization::Allow } else { Authorization::Deny }
    }
}
