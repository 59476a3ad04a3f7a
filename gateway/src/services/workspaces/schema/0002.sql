-- A workspace's data key lies under a key of the token, made for this workspace alone: with it the workspace is shredded. What
-- a workspace was before it was frozen is remembered, so that calling the shredding off leaves it as it was.
ALTER TABLE workspaces ADD COLUMN kek BLOB;
ALTER TABLE workspaces ADD COLUMN state_before TEXT;
