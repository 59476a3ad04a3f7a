-- For what a key that comes from elsewhere has to be wrapped, as long as it is waited for; and the backups of keys.
ALTER TABLE keys ADD COLUMN incoming TEXT;
CREATE TABLE key_backups (
    workspace TEXT NOT NULL,
    id TEXT NOT NULL,
    key TEXT NOT NULL,
    version BIGINT NOT NULL,
    backup_key BLOB NOT NULL,
    file TEXT NOT NULL,
    digest BLOB NOT NULL,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, id)
);
CREATE INDEX key_backups_by_key ON key_backups (workspace, key);
