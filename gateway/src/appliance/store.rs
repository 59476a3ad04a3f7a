//! What the appliance keeps of itself: facts, the CA's certificate, and a heartbeat that proves the ledger writes.
//! Who enters: `init` and the wiring, inside a ledger transaction or view.
//! What leaves: bytes by name.

use audit::{Schema, SqlFault, Statement, Table, Tx, View, params};

const SERVICE: &str = "appliance";

/// The appliance's table and statements.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[Table { name: "appliance", tenant: false }],
    migrations: &["CREATE TABLE appliance (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL);"],
    statements: &[&PUT, &GET, &REPLACE, &SUPERSEDE],
};

static PUT: Statement = Statement::appliance(SERVICE, "INSERT INTO appliance (name, value) VALUES (?1, ?2)");
static GET: Statement = Statement::appliance(SERVICE, "SELECT value FROM appliance WHERE name = ?1");
static REPLACE: Statement = Statement::appliance(
    SERVICE,
    "INSERT INTO appliance (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
);

static SUPERSEDE: Statement =
    Statement::appliance(SERVICE, "UPDATE appliance SET value = ?2 WHERE name = ?1").erasing();

/// The facts, JSON.
pub const FACTS: &str = "facts";
/// The certificate of the first CA, DER.
pub const CA_CERTIFICATE: &str = "ca_certificate";
/// The line of CAs with all successors, JSON; absent until the first rotation.
pub const AUTHORITIES: &str = "authorities";
/// The server's self-issued certificate with its sealed key, JSON.
pub const SERVER_FACE: &str = "server_face";
const HEARTBEAT: &str = "heartbeat";

/// Keeps a value under a name that has none yet.
///
/// # Errors
/// It has one.
pub fn put(tx: &Tx<'_>, name: &str, value: &[u8]) -> Result<(), SqlFault> {
    tx.run(&PUT, params![name, value]).map(drop)
}

/// The value of a name.
///
/// # Errors
/// The ledger cannot be read.
pub fn get(view: &View<'_>, name: &str) -> Result<Option<Vec<u8>>, SqlFault> {
    view.one(&GET, params![name], |row| row.blob(0))
}

/// Keeps a value under a name, in place of the one before.
///
/// # Errors
/// The ledger does not write.
pub fn replace(tx: &Tx<'_>, name: &str, value: &[u8]) -> Result<(), SqlFault> {
    tx.run(&REPLACE, params![name, value]).map(drop)
}

/// Puts a value in place of the one before, of which nothing is to stay in the files.
///
/// # Errors
/// The ledger does not write.
pub fn supersede(tx: &Tx<'_>, name: &str, value: &[u8]) -> Result<(), SqlFault> {
    tx.run(&SUPERSEDE, params![name, value]).map(drop)
}

/// Writes the moment down, so that readiness rests on a write that was durable.
///
/// # Errors
/// The ledger does not write.
pub fn beat(tx: &Tx<'_>, micros: i64) -> Result<(), SqlFault> {
    replace(tx, HEARTBEAT, &micros.to_be_bytes())
}
