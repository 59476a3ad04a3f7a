-- A key's fence grows when a restored copy takes over; the versions that it replaces are marked, verify, and never sign again.
ALTER TABLE keys ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
