-- What may be signed: policies, the limits they set, the requests made under them, and what was claimed for ever.
CREATE TABLE policies (
    workspace TEXT NOT NULL,
    id TEXT NOT NULL,
    scope TEXT NOT NULL,
    version BIGINT NOT NULL,
    state TEXT NOT NULL,
    body TEXT NOT NULL,
    digest TEXT NOT NULL,
    staged_by TEXT NOT NULL,
    staged_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, id)
);
CREATE UNIQUE INDEX policies_active ON policies (workspace, scope) WHERE state = 'active';
CREATE TABLE policy_uses (
    workspace TEXT NOT NULL,
    scope TEXT NOT NULL,
    window_us BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (workspace, scope)
);
CREATE TABLE signing_requests (
    workspace TEXT NOT NULL,
    workflow TEXT NOT NULL,
    key TEXT NOT NULL,
    policy_version BIGINT NOT NULL,
    PRIMARY KEY (workspace, workflow)
);
CREATE TABLE policy_reservations (
    workspace TEXT NOT NULL,
    workflow TEXT NOT NULL,
    scope TEXT NOT NULL,
    window_us BIGINT NOT NULL,
    uses BIGINT NOT NULL,
    PRIMARY KEY (workspace, workflow, scope)
);
CREATE TABLE signing_claims (
    workspace TEXT NOT NULL,
    key TEXT NOT NULL,
    nonce TEXT NOT NULL,
    digest TEXT NOT NULL,
    workflow TEXT NOT NULL,
    PRIMARY KEY (workspace, key, nonce, digest)
);
CREATE INDEX signing_claims_by_workflow ON signing_claims (workspace, workflow);
