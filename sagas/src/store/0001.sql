-- What lives longer than a process: sagas, their log, locks, leases, and the keys of requests that were sent twice.
-- Rows of the appliance itself stand under the workspace `(appliance)`, so that one rule holds for all of them:
-- whoever asks, asks within one workspace.
CREATE TABLE saga (
    workspace TEXT NOT NULL,
    id BLOB NOT NULL,
    workflow TEXT NOT NULL,
    version BIGINT NOT NULL,
    def_hash BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'waiting', 'backoff', 'unwinding', 'succeeded',
        'compensated', 'stuck_forward', 'stuck_undo', 'abandoned')),
    cursor BIGINT NOT NULL,
    round BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    owner BLOB NOT NULL,
    wake_us BIGINT,
    deadline_us BIGINT,
    step_until_us BIGINT,
    budget_until_us BIGINT,
    attempt BIGINT NOT NULL,
    doubt BIGINT NOT NULL CHECK (doubt IN (0, 1)),
    cancel BIGINT NOT NULL CHECK (cancel IN (0, 1)),
    input_sealed BLOB,
    result_sealed BLOB,
    result_until_us BIGINT,
    locks TEXT,
    parent_workspace TEXT,
    parent_id BLOB,
    parent_step BIGINT,
    actor TEXT NOT NULL,
    request_id TEXT NOT NULL,
    traceparent TEXT,
    ip TEXT,
    user_agent TEXT NOT NULL,
    error_code TEXT,
    error TEXT,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, id)) WITHOUT ROWID;
CREATE INDEX saga_due ON saga (wake_us) WHERE wake_us IS NOT NULL;
CREATE INDEX saga_stuck ON saga (state) WHERE state IN ('stuck_forward', 'stuck_undo');
CREATE INDEX saga_request ON saga (request_id);
CREATE INDEX saga_result ON saga (result_until_us) WHERE result_until_us IS NOT NULL;

CREATE TABLE saga_log (
    workspace TEXT NOT NULL,
    saga BLOB NOT NULL,
    seq BIGINT NOT NULL,
    step BIGINT NOT NULL,
    phase TEXT NOT NULL CHECK (phase IN ('do', 'undo')),
    kind TEXT NOT NULL CHECK (kind IN ('intent', 'done', 'failed', 'skipped')),
    round BIGINT NOT NULL,
    attempt BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    out_sealed BLOB,
    error_code TEXT,
    error TEXT,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, saga, seq)) WITHOUT ROWID;
-- A history in which a step is done twice, or undone twice, cannot commit.
CREATE UNIQUE INDEX saga_log_once ON saga_log (workspace, saga, step, phase, round) WHERE kind IN ('done', 'skipped');

CREATE TABLE saga_item (
    workspace TEXT NOT NULL,
    saga BLOB NOT NULL,
    step BIGINT NOT NULL,
    item BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'ordered', 'done')),
    attempt BIGINT NOT NULL,
    out_sealed BLOB,
    PRIMARY KEY (workspace, saga, step, item)) WITHOUT ROWID;

CREATE TABLE saga_signal (
    workspace TEXT NOT NULL,
    saga BLOB NOT NULL,
    seq BIGINT NOT NULL,
    name TEXT NOT NULL,
    dedupe TEXT NOT NULL,
    actor TEXT NOT NULL,
    payload_sealed BLOB,
    consumed BIGINT NOT NULL CHECK (consumed IN (0, 1)),
    at_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, saga, seq)) WITHOUT ROWID;
CREATE UNIQUE INDEX saga_signal_once ON saga_signal (workspace, saga, name, dedupe);

-- A lock's row stays for ever. Each claim draws a ticket, and the ticket is the claim's fence: it only grows.
CREATE TABLE saga_lock (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    tickets BIGINT NOT NULL,
    PRIMARY KEY (workspace, name)) WITHOUT ROWID;
CREATE TABLE saga_lock_claim (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    ticket BIGINT NOT NULL,
    saga_workspace TEXT NOT NULL,
    saga BLOB NOT NULL,
    exclusive BIGINT NOT NULL CHECK (exclusive IN (0, 1)),
    held BIGINT NOT NULL CHECK (held IN (0, 1)),
    since_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, name, ticket)) WITHOUT ROWID;

CREATE TABLE lease (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    fence BIGINT NOT NULL,
    lease_id BLOB,
    holder TEXT,
    request_key TEXT,
    ttl_us BIGINT,
    since_us BIGINT,
    until_us BIGINT,
    tickets BIGINT NOT NULL,
    PRIMARY KEY (workspace, name)) WITHOUT ROWID;
CREATE TABLE lease_ticket (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    ticket BIGINT NOT NULL,
    lease_id BLOB NOT NULL,
    holder TEXT NOT NULL,
    request_key TEXT,
    ttl_us BIGINT NOT NULL,
    until_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, name, ticket)) WITHOUT ROWID;

CREATE TABLE idempotency (
    workspace TEXT NOT NULL,
    principal TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('claimed', 'finished')),
    epoch BIGINT NOT NULL,
    claim_until_us BIGINT NOT NULL,
    saga_scope TEXT,
    saga BLOB,
    status BIGINT,
    headers TEXT,
    body_sealed BLOB,
    location TEXT,
    secret_sealed BLOB,
    secret_until_us BIGINT,
    kept_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    replays BIGINT NOT NULL,
    PRIMARY KEY (workspace, principal, key)) WITHOUT ROWID;
CREATE INDEX idempotency_expiring ON idempotency (expires_us);
CREATE INDEX idempotency_secret ON idempotency (secret_until_us) WHERE secret_until_us IS NOT NULL;
