//! The ledger's own tables: entries, tree, checkpoints, starts; and the triggers that trip whoever edits them.
//! Who enters: `open`, which runs the script, and the statements of the writer, the queries and the sealing.
//! What leaves: SQL text, and the registry entry that keeps every service away from these tables.

use crate::statement::{Schema, Table};

/// The ledger's own schema. It has no registered statements: its rooms use `Session::own`.
pub(crate) static LEDGER: Schema = Schema {
    service: "ledger",
    tables: &[
        Table { name: "schema_step", tenant: false },
        Table { name: "log", tenant: false },
        Table { name: "entry", tenant: true },
        Table { name: "tree_node", tenant: false },
        Table { name: "tree_state", tenant: false },
        Table { name: "anchor", tenant: false },
        Table { name: "service_start", tenant: false },
    ],
    migrations: &[TABLES, NO_REPLACING],
    statements: &[],
};

/// Which migrations ran. Made outside the migrations, since it is what counts them.
pub(crate) const STEPS: &str = "CREATE TABLE IF NOT EXISTS schema_step (
    service TEXT NOT NULL, step BIGINT NOT NULL, script_hash BLOB NOT NULL, PRIMARY KEY (service, step))";

// The payload and everything a column shows is bound by the leaf; the verifier's test lists the columns.
const TABLES: &str = "
CREATE TABLE log (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    origin TEXT NOT NULL);
CREATE TRIGGER log_is_kept BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'the origin of a log is kept'); END;
CREATE TRIGGER log_is_fixed BEFORE UPDATE ON log BEGIN SELECT RAISE(ABORT, 'the origin of a log never changes'); END;

CREATE TABLE entry (
    seq INTEGER NOT NULL PRIMARY KEY,
    time_us BIGINT NOT NULL,
    workspace TEXT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    outcome TEXT NOT NULL,
    request_id TEXT NOT NULL,
    leaf BLOB NOT NULL,
    salt BLOB NOT NULL,
    payload BLOB NOT NULL,
    chain BLOB NOT NULL);
CREATE INDEX entry_by_object ON entry (workspace, object);
CREATE INDEX entry_by_actor ON entry (workspace, actor);
CREATE INDEX entry_by_action ON entry (workspace, action);
CREATE INDEX entry_by_workspace ON entry (workspace);
CREATE INDEX entry_by_request ON entry (workspace, request_id) WHERE request_id <> '';
CREATE TRIGGER entry_is_kept BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'an entry is never deleted'); END;
CREATE TRIGGER entry_is_fixed BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END;

CREATE TABLE tree_node (
    height BIGINT NOT NULL,
    place BIGINT NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (height, place)) WITHOUT ROWID;
CREATE TRIGGER tree_node_is_kept BEFORE DELETE ON tree_node BEGIN SELECT RAISE(ABORT, 'a tree node is never deleted'); END;
CREATE TRIGGER tree_node_is_fixed BEFORE UPDATE ON tree_node BEGIN SELECT RAISE(ABORT, 'a tree node is never changed'); END;

CREATE TABLE tree_state (
    one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    size BIGINT NOT NULL,
    chain BLOB NOT NULL,
    peaks BLOB NOT NULL);
CREATE TRIGGER tree_state_grows BEFORE UPDATE ON tree_state WHEN NEW.size < OLD.size
    BEGIN SELECT RAISE(ABORT, 'a log never shrinks'); END;
CREATE TRIGGER tree_state_is_kept BEFORE DELETE ON tree_state BEGIN SELECT RAISE(ABORT, 'a log never ends'); END;

CREATE TABLE anchor (
    k INTEGER NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL,
    note TEXT NOT NULL,
    before BLOB NOT NULL,
    after BLOB NOT NULL,
    tier TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'confirmed')),
    counter BIGINT,
    identity BLOB,
    statement BLOB,
    signature BLOB,
    ak BLOB);
CREATE UNIQUE INDEX anchor_by_size ON anchor (size, k);
CREATE UNIQUE INDEX anchor_pending ON anchor (state) WHERE state = 'pending';
CREATE TRIGGER anchor_is_kept BEFORE DELETE ON anchor BEGIN SELECT RAISE(ABORT, 'an anchor is never deleted'); END;
CREATE TRIGGER anchor_is_fixed BEFORE UPDATE ON anchor
    WHEN NOT (OLD.state = 'pending' AND NEW.state = 'confirmed' AND NEW.k = OLD.k AND NEW.size = OLD.size
        AND NEW.note = OLD.note AND NEW.before = OLD.before AND NEW.after = OLD.after AND NEW.tier = OLD.tier)
    BEGIN SELECT RAISE(ABORT, 'an anchor changes once, from pending to confirmed'); END;

CREATE TABLE service_start (
    number INTEGER NOT NULL PRIMARY KEY,
    counter_before BIGINT,
    counter BIGINT,
    state TEXT NOT NULL CHECK (state IN ('pending', 'confirmed')));
CREATE UNIQUE INDEX service_start_pending ON service_start (state) WHERE state = 'pending';
CREATE TRIGGER service_start_is_kept BEFORE DELETE ON service_start BEGIN SELECT RAISE(ABORT, 'a start is never deleted'); END;
CREATE TRIGGER service_start_is_fixed BEFORE UPDATE ON service_start WHEN OLD.state <> 'pending'
    BEGIN SELECT RAISE(ABORT, 'a start changes once, from pending to confirmed'); END;
";

// `INSERT OR REPLACE` deletes the row that stands in its way, and the engine runs the triggers of that deletion only where
// the connection asks for it (`recursive_triggers`), which an attacker's does not. So each table that only grows looks
// for the row itself, by every key that a replacement could go by.
const NO_REPLACING: &str = "
CREATE TRIGGER log_is_named_once BEFORE INSERT ON log
    WHEN EXISTS (SELECT 1 FROM log)
    BEGIN SELECT RAISE(ABORT, 'the origin of a log never changes'); END;
CREATE TRIGGER entry_is_added_once BEFORE INSERT ON entry
    WHEN EXISTS (SELECT 1 FROM entry WHERE seq = NEW.seq)
    BEGIN SELECT RAISE(ABORT, 'an entry is never replaced'); END;
CREATE TRIGGER tree_node_is_added_once BEFORE INSERT ON tree_node
    WHEN EXISTS (SELECT 1 FROM tree_node WHERE height = NEW.height AND place = NEW.place)
    BEGIN SELECT RAISE(ABORT, 'a tree node is never replaced'); END;
CREATE TRIGGER tree_state_is_begun_once BEFORE INSERT ON tree_state
    WHEN EXISTS (SELECT 1 FROM tree_state)
    BEGIN SELECT RAISE(ABORT, 'a log begins once'); END;
CREATE TRIGGER anchor_is_added_once BEFORE INSERT ON anchor
    WHEN EXISTS (SELECT 1 FROM anchor WHERE k = NEW.k)
        OR (NEW.state = 'pending' AND EXISTS (SELECT 1 FROM anchor WHERE state = 'pending'))
    BEGIN SELECT RAISE(ABORT, 'an anchor is never replaced'); END;
CREATE TRIGGER service_start_is_added_once BEFORE INSERT ON service_start
    WHEN EXISTS (SELECT 1 FROM service_start WHERE number = NEW.number)
        OR (NEW.state = 'pending' AND EXISTS (SELECT 1 FROM service_start WHERE state = 'pending'))
    BEGIN SELECT RAISE(ABORT, 'a start is never replaced'); END;
CREATE TRIGGER schema_step_is_kept BEFORE DELETE ON schema_step
    BEGIN SELECT RAISE(ABORT, 'a step of the schema is never forgotten'); END;
CREATE TRIGGER schema_step_is_fixed BEFORE UPDATE ON schema_step
    BEGIN SELECT RAISE(ABORT, 'a step of the schema never changes'); END;
CREATE TRIGGER schema_step_is_added_once BEFORE INSERT ON schema_step
    WHEN EXISTS (SELECT 1 FROM schema_step WHERE service = NEW.service AND step = NEW.step)
    BEGIN SELECT RAISE(ABORT, 'a step of the schema is never replaced'); END;
";
