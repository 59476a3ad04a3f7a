//! The tables of this crate and every statement that may touch them.
//! Who enters: the rooms of engine, locks and idempotency, inside a transaction or a view.
//! What leaves: one schema for the ledger to prove, and rows as types.

mod columns;
mod log;
mod saga;

use audit::{Schema, Table};

pub(crate) use columns::{big, bytes_or_bug, count, micros, micros_or_null, saga_id, scope, small};
pub(crate) use log::*;
pub use log::{LogKind, LogRow};
pub(crate) use saga::*;

pub(crate) const SERVICE: &str = "sagas";

/// What sagas, locks and idempotency keep.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[
        tenant("saga"),
        tenant("saga_log"),
        tenant("saga_item"),
        tenant("saga_signal"),
        tenant("saga_lock"),
        tenant("saga_lock_claim"),
        tenant("lease"),
        tenant("lease_ticket"),
        tenant("idempotency"),
        tenant("outbox"),
        tenant("outbox_swept"),
        Table { name: "proven_time", tenant: false },
        tenant("saga_lock_floor"),
        tenant("lease_floor"),
    ],
    migrations: &[include_str!("0001.sql"), include_str!("0002.sql"), include_str!("0003.sql")],
    statements: &[
        &saga::INSERT,
        &saga::BY_ID,
        &saga::OWNED,
        &saga::SAVE,
        &saga::CLAIM_ALL,
        &saga::CLAIM_ONE,
        &saga::DUE,
        &saga::LIVE,
        &saga::PROTECTIVE,
        &saga::WAKE,
        &saga::CANCEL,
        &saga::CANCELLED,
        &saga::LIST,
        &saga::LIST_ALL,
        &saga::OF_REQUEST,
        &saga::STUCK,
        &saga::WIPE,
        &saga::OVER,
        &saga::FORGET,
        &crate::proven::READ,
        &crate::proven::WRITE,
        &log::APPEND,
        &log::OUTS,
        &log::PAGE,
        &log::BEGUN,
        &log::LAST,
        &log::WIPE_LOG,
        &log::FORGET_LOG,
        &log::FORGET_ITEMS,
        &log::FORGET_SIGNALS,
        &log::ADD_ITEM,
        &log::ITEMS,
        &log::SET_ITEM,
        &log::WIPE_ITEMS,
        &log::ADD_SIGNAL,
        &log::INBOX,
        &log::INBOX_SIZE,
        &log::CONSUME,
        &log::WIPE_SIGNALS,
        &crate::lock::hold::TICKET,
        &crate::lock::hold::AHEAD,
        &crate::lock::hold::CLAIM,
        &crate::lock::hold::HOLD,
        &crate::lock::hold::RELEASE,
        &crate::lock::hold::QUEUED,
        &crate::lock::hold::LOCKS_OF,
        &crate::lock::hold::ALL,
        &crate::lock::hold::RAISE_FLOOR,
        &crate::lock::hold::FORGET_FREE,
        crate::lock::lease::STATEMENTS[0],
        crate::lock::lease::STATEMENTS[1],
        crate::lock::lease::STATEMENTS[2],
        crate::lock::lease::STATEMENTS[3],
        crate::lock::lease::STATEMENTS[4],
        crate::lock::lease::STATEMENTS[5],
        crate::lock::lease::STATEMENTS[6],
        crate::lock::lease::STATEMENTS[7],
        crate::lock::lease::STATEMENTS[8],
        crate::lock::lease::STATEMENTS[9],
        crate::lock::lease::STATEMENTS[10],
        crate::lock::lease::STATEMENTS[11],
        crate::lock::lease::STATEMENTS[12],
        crate::idempotency::STATEMENTS[0],
        crate::idempotency::STATEMENTS[1],
        crate::idempotency::STATEMENTS[2],
        crate::idempotency::STATEMENTS[3],
        crate::idempotency::STATEMENTS[4],
        crate::idempotency::STATEMENTS[5],
        crate::idempotency::STATEMENTS[6],
        crate::idempotency::STATEMENTS[7],
        crate::idempotency::STATEMENTS[8],
        crate::idempotency::STATEMENTS[9],
        crate::idempotency::STATEMENTS[10],
        crate::idempotency::STATEMENTS[11],
        crate::outbox::STATEMENTS[0],
        crate::outbox::STATEMENTS[1],
        crate::outbox::STATEMENTS[2],
        crate::outbox::STATEMENTS[3],
        crate::outbox::STATEMENTS[4],
        crate::outbox::STATEMENTS[5],
        crate::outbox::STATEMENTS[6],
        crate::outbox::STATEMENTS[7],
        crate::outbox::STATEMENTS[8],
        crate::outbox::STATEMENTS[9],
        crate::outbox::STATEMENTS[10],
        crate::outbox::STATEMENTS[11],
        crate::outbox::STATEMENTS[12],
    ],
};

const fn tenant(name: &'static str) -> Table {
    Table { name, tenant: true }
}
