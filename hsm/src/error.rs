//! What can go wrong with a token, told so that the reader knows what to do next.
//! Enters: faults from the worker, and what the supervisor saw happen to it.
//! Leaves: errors with a safe-to-retry verdict; never a PIN, a path inside the token or a vendor's text.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::key::{Fingerprint, KeyId};

/// Why a call on a [`crate::Token`] gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The queue was full until the deadline. Nothing was done.
    #[error(
        "no place in the token's queue came free within {waited:?}; send the same request again, or fewer at once"
    )]
    Busy {
        /// How long the call stood in line.
        waited: Duration,
    },
    /// The token does not answer, and the call had not begun. Nothing was done.
    #[error("the token is away; send the same request again in {retry_after:?}")]
    Gone {
        /// When another try is worth it.
        retry_after: Duration,
    },
    /// The deadline passed before the call was handed over. Nothing was done.
    #[error("the deadline passed while the call stood in line; send it again with more time")]
    Expired,
    /// The worker was lost during the call: the effect may exist. Reconcile before anyone tries again.
    #[error("lost the token during the call, its effect is unknown; reconcile before it is sent again")]
    OutcomeUnknown,
    /// The token, or our reading of it, says no. The same call will be refused again.
    #[error("the token refused: {0}")]
    Refused(Refusal),
    /// Behind the right name stands another key. It was not used.
    #[error(
        "key {id} in the token has fingerprint {found}, expected {expected}; restore the right key or token"
    )]
    WrongKey {
        /// The name looked up.
        id: KeyId,
        /// The fingerprint on record.
        expected: Fingerprint,
        /// The fingerprint found.
        found: Fingerprint,
    },
    /// The token holds no key of this name. The record is kept: the wrong token may be plugged in.
    #[error(
        "the token holds no key {id}; check that the right token is plugged in, or restore the key into it"
    )]
    KeyMissing {
        /// The name looked up.
        id: KeyId,
    },
    /// This token cannot do this at all.
    #[error("this token cannot do {what}; choose another kind or scheme from its probe")]
    Unsupported {
        /// What was asked.
        what: String,
    },
}

impl TokenError {
    /// True when nothing was done, so that the same call may be sent again.
    #[must_use]
    pub const fn retry_is_safe(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Gone { .. } | Self::Expired)
    }
}

/// A reason for which a token, or our reading of it, says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No room for another object.
    #[error("it is full; destroy keys that are no longer used, or use a larger token")]
    TokenFull,
    /// The token is write-protected.
    #[error("it is write-protected; lift the protection or use another token")]
    WriteProtected,
    /// A key of this name exists already, and is another than asked for.
    #[error("a key {id} exists already; choose a fresh id")]
    KeyExists {
        /// The name asked for.
        id: KeyId,
    },
    /// A key that was made did not have the attributes asked for; it was destroyed again.
    #[error(
        "the new key came out with {attribute} wrong and was destroyed; this token cannot keep keys safe"
    )]
    LooseKey {
        /// The first attribute that was wrong.
        attribute: String,
    },
    /// A wrapped secret did not open: altered, bound to something else, or wrapped by another token.
    #[error("the wrapped secret does not open here; restore the right token or the right copy")]
    SealBroken,
    /// The machine is not in the state the secret was sealed to.
    #[error(
        "the machine's measured state differs from the one the secret was sealed to ({pcrs}); boot the approved system, and seal anew before the next update (docs/recipes/tpm.md)"
    )]
    StateChanged {
        /// Which registers, what they were and what they are, in words.
        pcrs: String,
    },
    /// The input does not fit: wrong digest length, scheme of another kind of key, too long.
    #[error("the input does not fit: {0}")]
    BadInput(String),
    /// The anchor in the token is not where this step starts.
    #[error("the anchor does not stand where this step begins; read it and compare with the ledger")]
    AnchorElsewhere,
    /// The root key is missing: nothing was ever wrapped here, or this is another token.
    #[error("the token holds no root key; run the initialisation, or plug in the right token")]
    RootMissing,
    /// The newest root key is in use.
    #[error("this root key is the newest; make its successor and wrap anew before it is destroyed")]
    RootInUse,
    /// The PIN is not accepted. Not tried again: the token counts.
    #[error(
        "it does not accept the PIN; correct the PIN file and restart, each further try would count towards the lock-out"
    )]
    PinWrong,
    /// The PIN is locked.
    #[error("the PIN is locked; unlock it with the security officer's PIN")]
    PinLocked,
    /// It tried and failed; nothing was made. It may be full, read-only or unable, and says no more.
    #[error("it failed and made nothing ({0}); look at its free space and its own log")]
    Failed(String),
    /// Another reason, by the name the standard gives it.
    #[error("{0}")]
    Other(String),
    /// The key was made never to leave.
    #[error("this key was made never to leave the token; only keys made recoverable can be backed up")]
    NotRecoverable,
    /// What came in wrapped is not the private half of the key that was announced. It was destroyed again.
    #[error(
        "the wrapped key is not the one announced by its public key and was destroyed; send the right pair"
    )]
    WrongImport,
    /// What came in wrapped does not open: altered, wrapped under another key, or in another format.
    #[error(
        "the wrapped key does not open; wrap it again, as the import key's format says, under the right key"
    )]
    ImportBroken,
}

/// Why a token cannot be used until a person changes something. Never retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartRefused {
    /// The PIN is not accepted. It was tried once.
    #[error(
        "the token does not accept the PIN in {file}; it was tried once and will not be tried again, correct the file and restart"
    )]
    PinWrong {
        /// The file it was read from.
        file: String,
    },
    /// The PIN is locked, or was never set.
    #[error("the token's PIN is locked or not set; unlock it with the security officer's PIN, then restart")]
    PinLocked,
    /// A single try is left before the lock-out. It is not ours to use up.
    #[error(
        "the token has a single PIN try left, which is not used; log in once with the vendor's tool to reset the count, then restart"
    )]
    PinLastTry,
    /// The PIN file is missing, empty, too long or readable by others.
    #[error("the PIN file {file} {fault}")]
    PinFile {
        /// The file.
        file: String,
        /// What is wrong with it and what to do.
        fault: String,
    },
    /// The module cannot be loaded at all.
    #[error("the module {module} cannot be loaded: {fault}")]
    Module {
        /// The library's path.
        module: String,
        /// What is wrong with it and what to do.
        fault: String,
    },
    /// The module works, but the token is not there.
    #[error("no token with serial {serial} is present ({present}); plug it in, or correct the serial")]
    TokenAbsent {
        /// The serial looked for.
        serial: String,
        /// What is there.
        present: String,
    },
    /// The worker cannot be started.
    #[error("the worker {worker} cannot be started: {fault}")]
    Worker {
        /// The binary's path.
        worker: String,
        /// What is wrong and what to do.
        fault: String,
    },
    /// The worker refused to run unprotected.
    #[error("the worker could not close its sandbox: {0}")]
    Sandbox(String),
    /// Too little at hand: a module that lacks what is needed, a TPM that refuses.
    #[error("{0}")]
    Device(String),
}

impl StartRefused {
    /// True when waiting may help: a token is plugged in again, a package being installed is complete. A PIN that was refused is never
    /// tried again, because the token counts; a kernel without a wall will not grow one.
    #[must_use]
    pub const fn may_heal(&self) -> bool {
        !matches!(self, Self::PinWrong { .. } | Self::PinLocked | Self::Sandbox(_))
    }
}
