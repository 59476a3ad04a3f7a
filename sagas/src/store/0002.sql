-- What has happened, for those who follow it. An event stands here from the very transaction that brought it about, until
-- its time is over; it is never changed. Its number is made of the number of that transaction's first entry and of its place
-- among the events of the transaction, so it grows in the order of commits, for all workspaces together, and is never given
-- twice, also when the rows before it are gone.
CREATE TABLE outbox (
    workspace TEXT NOT NULL,
    number BIGINT NOT NULL,
    topic TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    workflow TEXT NOT NULL,
    saga BLOB NOT NULL,
    act BLOB,
    withdraws BIGINT,
    request_id TEXT NOT NULL,
    trace_id TEXT,
    at_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, number)) WITHOUT ROWID;
CREATE UNIQUE INDEX outbox_number ON outbox (number);
-- One act of a step says a thing once, however often it is carried out.
CREATE UNIQUE INDEX outbox_once ON outbox (workspace, saga, act, topic, subject);

-- Up to which number a workspace's events are gone: whoever has not come so far has missed some.
CREATE TABLE outbox_swept (
    workspace TEXT NOT NULL,
    number BIGINT NOT NULL,
    PRIMARY KEY (workspace)) WITHOUT ROWID;
