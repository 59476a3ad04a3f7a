//! The master key at rest: wrapped by the token's root key and, where there is a TPM beside it, sealed to this machine too.
//! Who enters: `init`, with a fresh key; the wiring, with the wrapped one.
//! What leaves: the wrapped key; the master key in locked memory. A copy of the disk opens on no other machine.

use std::time::Instant;

use hsm::TokenError;
use hsm::custody::{MasterKey, SealFault};
use zeroize::Zeroizing;

use super::Tokens;
use crate::limits::TOKEN_CALL_WAIT_MAX;

/// Why the master key was not wrapped or unwrapped.
#[derive(Debug, thiserror::Error)]
pub enum MasterRefused {
    /// The token holding its root key.
    #[error("the token did not {what} the master key")]
    Token {
        /// `wrap` or `unwrap`.
        what: &'static str,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// The TPM to which it is sealed.
    #[error(
        "the TPM did not {what} the master key; if the machine's measured state was changed on purpose, restore from backup"
    )]
    Tpm {
        /// `seal` or `unseal`.
        what: &'static str,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// It is not a key of 32 bytes, or cannot be held safely.
    #[error("the master key cannot be held")]
    Key(#[source] SealFault),
}

impl MasterRefused {
    /// The token or TPM went away; another try may find it.
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Token { source, .. } | Self::Tpm { source, .. } => {
                source.retry_is_safe() || matches!(source, TokenError::OutcomeUnknown)
            }
            Self::Key(_) => false,
        }
    }
}

/// The associated data: a wrapped master key of another log does not open.
fn binding(origin: &str) -> Vec<u8> {
    format!("chancery.master.v1\n{origin}").into_bytes()
}

/// Wraps the key: first by the token, then, if there is one beside it, by the TPM.
///
/// # Errors
/// A token did not do it.
pub async fn wrap(tokens: &Tokens, origin: &str, master: &MasterKey) -> Result<Vec<u8>, MasterRefused> {
    let aad = binding(origin);
    let plain = master.lend(|bytes| Zeroizing::new(bytes.to_vec()));
    let inner = tokens.keys.wrap(&plain, &aad, soon()).await;
    let inner = inner.map_err(|source| MasterRefused::Token { what: "wrap", source })?;
    match &tokens.tpm {
        None => Ok(inner),
        Some(tpm) => {
            tpm.wrap(&inner, &aad, soon()).await.map_err(|source| MasterRefused::Tpm { what: "seal", source })
        }
    }
}

/// Unwraps the key the other way round; anything but exactly 32 bytes is refused.
///
/// # Errors
/// A token did not do it, or what came out is no key.
pub async fn unwrap(tokens: &Tokens, origin: &str, wrapped: &[u8]) -> Result<MasterKey, MasterRefused> {
    let aad = binding(origin);
    let inner = match &tokens.tpm {
        None => Zeroizing::new(wrapped.to_vec()),
        Some(tpm) => {
            let unsealed = tpm.unwrap(wrapped, &aad, soon()).await;
            unsealed.map_err(|source| MasterRefused::Tpm { what: "unseal", source })?
        }
    };
    let plain = tokens.keys.unwrap(&inner, &aad, soon()).await;
    let plain = plain.map_err(|source| MasterRefused::Token { what: "unwrap", source })?;
    MasterKey::from_unwrapped(plain).map_err(MasterRefused::Key)
}

fn soon() -> Instant {
    Instant::now() + TOKEN_CALL_WAIT_MAX
}
