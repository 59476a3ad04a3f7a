-- How many bytes of answers each workspace has kept under idempotency keys, so that none fills the disk with them.
CREATE TABLE idempotency_held (
    workspace TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (workspace)) WITHOUT ROWID;
INSERT INTO idempotency_held (workspace, bytes)
    SELECT workspace, SUM(1024 + COALESCE(LENGTH(body_sealed), 0)) FROM idempotency GROUP BY workspace;
