-- What waits for approval, and who said what to it. A vote is bound to the digest of the very request.
CREATE TABLE approval_requests (
    workspace TEXT NOT NULL,
    workflow TEXT NOT NULL,
    step TEXT NOT NULL,
    digest TEXT NOT NULL,
    policy_version BIGINT NOT NULL,
    needs BIGINT NOT NULL,
    initiator TEXT NOT NULL,
    opened_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, workflow)
);
CREATE TABLE approvals (
    workspace TEXT NOT NULL,
    workflow TEXT NOT NULL,
    approver TEXT NOT NULL,
    verdict TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, workflow, approver)
);
