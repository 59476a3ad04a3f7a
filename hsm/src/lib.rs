//! Keys in hardware: the daemon's side of a PKCS#11 token or a TPM, and the custody of secrets under it.
//! Enters: typed calls on [`Token`], each with a deadline; a [`custody::MasterKey`] unwrapped by the token.
//! Leaves: signatures, public keys, wrapped secrets, anchors; never a private key, never a PIN.
//!
//! No token library is linked here. A [`Token`] drives a worker process (`chancery-hsm`) which opens the module, and which may be
//! killed at any moment: PKCS#11 calls have no time-out, modules hang and crash, and only a re-initialised module recovers.
//!
//! ```text
//! Token ── queue ── supervisor ══ socket pair ══ serve ── Backend ── PKCS#11 | TPM | double
//! ```

pub mod anchor;
pub mod backend;
pub mod ceremony;
pub mod config;
pub mod custody;
pub mod double;
mod error;
mod fairness;
mod key;
mod low_s;
mod probe;
mod proof;
pub mod protocol;
mod scheme;
pub mod serve;
mod supervisor;
mod token;

pub use anchor::{AnchorAttestation, AnchorReading, AnchorStep, Quote};
pub use ceremony::{BackupKek, ImportKey, Kek, KeyAttestation, Oaep};
pub use config::{Limits, Reach, Sandbox, TokenConfig};
pub use double::Double;
pub use error::{Refusal, StartRefused, TokenError};
pub use fairness::{SharedToken, UNDOING};
pub use key::{
    Custody, Fingerprint, HmacKeyRef, KeyFault, KeyId, KeyRef, NewKey, Origin, Presence, Provenance,
    PublicKey, RootKey, RootPin, RootTag, SignInput,
};
pub use probe::{Power, Probe, Wall};
pub use scheme::{Hash, KeyKind, Scheme, UnknownName};
pub use supervisor::{OPENING, TokenState, Workers};
pub use token::Token;
