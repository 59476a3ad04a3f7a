-- What approvers are shown, word for word, and since when a vote is known to count no longer.
ALTER TABLE approval_requests ADD COLUMN document TEXT NOT NULL DEFAULT '';
ALTER TABLE approvals ADD COLUMN lapsed_us BIGINT;
