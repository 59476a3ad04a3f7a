-- Workspaces, and the API keys with which programs act in them.
CREATE TABLE workspaces (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    data_key BLOB NOT NULL,
    data_key_version BIGINT NOT NULL,
    created_us BIGINT NOT NULL
);
CREATE TABLE api_keys (
    workspace TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    hash BLOB NOT NULL,
    scopes TEXT NOT NULL,
    legacy BIGINT NOT NULL,
    state TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT,
    last_used_us BIGINT,
    PRIMARY KEY (workspace, id)
);
CREATE UNIQUE INDEX api_keys_by_hash ON api_keys (hash);
