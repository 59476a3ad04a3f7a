//! Custody: secrets at rest under the token's root, and secrets mounted by the host.
//! Enters: wrapped keys from the database, files from a mounted directory.
//! Leaves: secrets in memory that is locked, wiped and never printed.
