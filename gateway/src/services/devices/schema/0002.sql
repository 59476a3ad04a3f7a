-- The fingerprint of the CA that issued the certificate; absent where it was the first, the only one until then.
ALTER TABLE clients ADD COLUMN authority BLOB;
