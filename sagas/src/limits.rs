//! Every bound of this crate, named noun, unit, bound, with its reason.
//! Who enters: nobody; these are numbers.
//! What leaves: constants, and the bounds that an installation may set.

use std::time::Duration;

/// A workflow of fewer steps is a transaction.
pub const STEPS_MIN: usize = 3;
/// A workflow of more steps is two workflows.
pub const STEPS_MAX: usize = 6;
/// Inputs and states are small facts; what is large is stored by its service and named here.
pub const STATE_BYTES_MAX: usize = 256 * 1024;
/// A signal is a word with a small payload.
pub const SIGNAL_BYTES_MAX: usize = 64 * 1024;
/// Signals that wait for a saga to hear them, so that a caller cannot fill the table.
pub const SIGNALS_WAITING_MAX: i64 = 256;
/// The name of a lock or lease fits a label.
pub const LOCK_NAME_BYTES_MAX: usize = 256;
/// A fan-out's items each cost a row and two commits.
pub const ITEMS_MAX: usize = 100_000;
/// Items of a fan-out in flight: enough to share commits, few enough to leave the token to others.
pub const ITEMS_IN_FLIGHT: usize = 8;
/// Items of one fan-out that are seen each on its own; of more, one number tells more than their names.
pub const ITEMS_SEEN_MAX: usize = 64;
/// An error is shown, not archived.
pub const ERROR_BYTES_MAX: usize = 1_024;
/// An event names what happened; what is large is kept where it belongs.
pub const EVENT_BYTES_MAX: usize = 16 * 1024;
/// Events that go in one transaction when their time is over, so that the writer is not held up.
pub const EVENTS_SWEPT_MAX: usize = 1_000;
/// One page of any list.
pub const PAGE_ROWS_MAX: usize = 500;

/// A shorter lease is over before its answer is read.
pub const LEASE_TTL_MIN: Duration = Duration::from_secs(1);
/// A longer one is a saga.
pub const LEASE_TTL_MAX: Duration = Duration::from_secs(3_600);
/// Longer than this a request does not stand in line: its connection would not.
pub const LEASE_WAIT_MAX: Duration = Duration::from_secs(60);
/// In line for one name.
pub const LEASE_WAITING_MAX: i64 = 1_000;
/// A claim of an idempotency key whose request has not answered for so long is taken over by the next.
pub const CLAIM_LEASE: Duration = Duration::from_secs(30);
/// Answers up to this long are kept and given again, byte for byte: more than the largest of any route that changes something,
/// 500 signatures of RSA-4096. Of longer ones only status and place are kept.
pub const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// A refusal by a rule did nothing: whoever sends the request again after a day may as well be asked anew.
pub const REFUSAL_KEPT: Duration = Duration::from_secs(24 * 3600);
/// A one-time secret can be fetched again for so long, should its answer have been lost.
pub const SECRET_KEPT: Duration = Duration::from_secs(600);
/// Keys that go in one transaction when their time is over, so that the writer is not held up.
pub const KEYS_SWEPT_MAX: usize = 1_000;
/// Runs, names of locks and names of leases that go in one transaction when their time is over.
pub const RUNS_SWEPT_MAX: usize = 200;
/// A lease's name that nobody has held for so long goes: whoever still carries its fence is refused from then on.
pub const LEASE_NAME_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Claims in a list of locks; a list that long is looked at by nobody.
pub const LOCKS_LISTED_MAX: usize = 10_000;

/// What an installation may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaLimits {
    /// Sagas being driven at once; the others wait their turn.
    pub running_max: usize,
    /// Between two looks for sagas that fell due without anyone saying so.
    pub poll: Duration,
    /// The first pause while the ledger takes no writes; each later one is twice as long, up to fifty times this.
    pub ledger_pause: Duration,
    /// The first pause before a step is tried again; each later one is twice as long.
    pub retry_first: Duration,
    /// The longest pause between two tries.
    pub retry_longest: Duration,
    /// How long an outcome may stay unknown before a person is asked.
    pub unknown_budget: Duration,
    /// How long an undo may fail before a person is asked.
    pub undo_budget: Duration,
    /// How long the result of a saga that is over can be read.
    pub result_kept: Duration,
}

impl Default for SagaLimits {
    fn default() -> Self {
        Self {
            running_max: 256,
            poll: Duration::from_secs(1),
            ledger_pause: Duration::from_millis(100),
            retry_first: Duration::from_millis(200),
            retry_longest: Duration::from_secs(60),
            unknown_budget: Duration::from_secs(24 * 3600),
            undo_budget: Duration::from_secs(24 * 3600),
            result_kept: Duration::from_secs(24 * 3600),
        }
    }
}
