-- What a driver believed when it saved must be what the row held: each save counts the revision on, and a copy that is
-- older than the last commit saves nothing. The owner's epoch and the cursor do not show it: a call's order moves neither.
ALTER TABLE saga ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
-- Whether the step at the cursor was begun, so that an unwinding undoes it: not to be guessed from attempts, which a person
-- who retries sets back.
ALTER TABLE saga ADD COLUMN begun BIGINT NOT NULL DEFAULT 0;
UPDATE saga SET begun = 1 WHERE doubt = 1 OR attempt > 0;
-- The time of a wait that protects somebody, by the clock that only counts what provably passed.
ALTER TABLE saga ADD COLUMN proven_from_us BIGINT;
ALTER TABLE saga ADD COLUMN proven_until_us BIGINT;
-- Runs that are over go when their time is over; children have no timer of their own.
CREATE INDEX saga_over ON saga (updated_us) WHERE wake_us IS NULL AND state IN ('succeeded', 'compensated', 'abandoned');

-- How much time has provably passed since the appliance was made, as of the moment when this row was written.
CREATE TABLE proven_time (
    one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    boot BLOB NOT NULL,
    uptime_us BIGINT NOT NULL,
    wall_us BIGINT NOT NULL,
    proven_us BIGINT NOT NULL,
    rebooted_us BIGINT NOT NULL,
    settled_us BIGINT NOT NULL);

-- Claims that a process left behind are let go at the next start without a look at every answer that is kept.
CREATE INDEX idempotency_claimed ON idempotency (claim_until_us) WHERE state = 'claimed';

-- An operator's list goes by id through all workspaces.
CREATE INDEX saga_by_id ON saga (id);

-- Names of locks and leases that nobody holds go. Their tickets and fences must still only grow, so what was reached by any
-- name that went is where a name that comes begins.
CREATE TABLE saga_lock_floor (
    workspace TEXT NOT NULL,
    tickets BIGINT NOT NULL,
    PRIMARY KEY (workspace)) WITHOUT ROWID;
CREATE TABLE lease_floor (
    workspace TEXT NOT NULL,
    fence BIGINT NOT NULL,
    tickets BIGINT NOT NULL,
    PRIMARY KEY (workspace)) WITHOUT ROWID;
CREATE INDEX lease_over ON lease (until_us);
