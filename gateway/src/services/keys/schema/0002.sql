-- A key says which workflow is changing it, so that what is under way can be seen and called off; and where it stood
-- before its destruction was scheduled, so that calling it off leaves everything as it was.
ALTER TABLE keys ADD COLUMN workflow TEXT;
ALTER TABLE keys ADD COLUMN state_before TEXT;
