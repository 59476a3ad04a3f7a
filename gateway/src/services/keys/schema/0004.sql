-- A key's fence grows when another version takes over; those that a restored copy replaces are marked.
ALTER TABLE keys ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
