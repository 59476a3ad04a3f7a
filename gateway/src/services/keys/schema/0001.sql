-- Signing keys and their versions. The private halves are in the token and nowhere else.
CREATE TABLE keys (
    workspace TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    latest BIGINT NOT NULL,
    uses BIGINT NOT NULL,
    destroy_after_us BIGINT,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, id)
);
CREATE UNIQUE INDEX keys_by_name ON keys (workspace, name);
CREATE INDEX keys_to_destroy ON keys (destroy_after_us) WHERE destroy_after_us IS NOT NULL;
CREATE TABLE key_versions (
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    token_key BLOB NOT NULL,
    fingerprint BLOB,
    spki BLOB,
    sealed_blob BLOB,
    provenance TEXT,
    created_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, key, version)
);
