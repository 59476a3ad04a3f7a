//! Custody: secrets at rest under the token's root, and secrets mounted by the host.
//! Enters: wrapped keys from the database, files from a mounted directory.
//! Leaves: secrets in memory that is locked, wiped and never printed; ciphertexts that open in their own place only.
//!
//! ```text
//! token root key ── wraps ── MasterKey ── wraps ── DataKey (one per workspace) ── seals ── every ciphertext in the database
//! ```

mod binding;
mod envelope;
mod locked;
mod secrets_dir;

pub use binding::Binding;
pub use envelope::{DataKey, MASTER_KEY_BYTES, MasterKey, SealFault};
pub use secrets_dir::{SecretFault, SecretFile, SecretsDir};
