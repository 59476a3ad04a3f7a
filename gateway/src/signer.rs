//! The one door to a key: takes an order that is on the ledger, and nothing else.
//! Who enters: services, with `Recorded<SignOrder>`, which only a commit makes.
//! What leaves: signatures that verified against the pinned public key, or why there is none.

use std::sync::Arc;
use std::time::Instant;

use audit::Recorded;
use hsm::{KeyRef, Scheme, SignInput, Token, TokenError};
use tokio::sync::Notify;

use crate::crypto::{PinnedKey, VerifyRefused};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::metrics::Metrics;
use crate::traces::spanned;

/// A key version as the signer needs it.
#[derive(Debug)]
pub struct SigningKey {
    /// Where the token finds it.
    pub key: KeyRef,
    /// What its signatures must verify against.
    pub pinned: PinnedKey,
}

/// What is to be signed, with which key, by when.
#[derive(Clone, Debug)]
pub struct SignOrder {
    /// The key version.
    pub key: Arc<SigningKey>,
    /// The scheme, which fits the key.
    pub scheme: Scheme,
    /// The message or digest, which fits the scheme.
    pub input: SignInput,
    /// When an answer is of no use any more.
    pub deadline: Instant,
    /// The key's use counter, as the order's entry tells it; 0 for the appliance's own keys.
    pub use_number: i64,
}

/// Why a recorded order gave no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignFailed {
    /// The token did not do it, or we do not know.
    #[error("the token gave no signature")]
    Token(#[source] TokenError),
    /// What the token gave is not this key's signature. It is withheld.
    #[error("the token's signature does not verify against the recorded public key; it was withheld")]
    Withheld(#[source] VerifyRefused),
}

/// A verified signature.
#[derive(Debug)]
pub struct Signature {
    /// In the token's shape: r and s side by side, 64 bytes of Ed25519, or an RSA block.
    pub raw: Vec<u8>,
    /// The entry that authorised it.
    pub seq: u64,
}

/// The door.
#[derive(Clone)]
pub struct Signer {
    token: Token,
    metrics: Metrics,
    suspicion: Arc<Notify>,
}

impl Signer {
    /// A door to the keys of this token.
    pub fn new(token: Token, metrics: Metrics) -> Self {
        Self { token, metrics, suspicion: Arc::default() }
    }

    /// Rings when a key was not found in the token, or another stood in its place: time to see how they all are.
    pub fn suspicion(&self) -> Arc<Notify> {
        Arc::clone(&self.suspicion)
    }

    /// Signs a recorded order.
    ///
    /// # Errors
    /// The token's failure, or a signature that did not verify.
    pub async fn sign(&self, order: Recorded<SignOrder>) -> Result<Signature, SignFailed> {
        let key = order.value().key.key.clone();
        self.sign_by(key, order).await
    }

    /// Signs a recorded order whose key was named before anybody had opened what a TPM loads it from. The blob is only
    /// the means: which key it is, the order says, and the signature must verify against that key's public half.
    ///
    /// # Errors
    /// As for [`sign`](Self::sign).
    pub async fn sign_loading(
        &self,
        order: Recorded<SignOrder>,
        blob: Vec<u8>,
    ) -> Result<Signature, SignFailed> {
        let named = order.value().key.key.clone();
        let key = if blob.is_empty() { named } else { KeyRef { blob, ..named } };
        self.sign_by(key, order).await
    }

    async fn sign_by(&self, held: KeyRef, order: Recorded<SignOrder>) -> Result<Signature, SignFailed> {
        let seq = order.seq();
        let SignOrder { key, scheme, input, deadline, .. } = order.into_value();
        let deadline = deadline.min(Instant::now() + TOKEN_CALL_WAIT_MAX);
        let signing = self.token.sign(&held, scheme, input.clone(), deadline);
        let raw = spanned("token.sign", signing).await.map_err(|error| self.failed(error))?;
        // A fault in the token, or another key behind the same handle, must not get out as a signature.
        let begun = Instant::now();
        key.pinned.verify(scheme, &input, &raw).map_err(|refused| self.withhold(refused))?;
        self.metrics.spent("verify", begun.elapsed());
        self.metrics.signed(key.key.kind.name());
        Ok(Signature { raw, seq })
    }

    fn failed(&self, error: TokenError) -> SignFailed {
        if matches!(error, TokenError::KeyMissing { .. } | TokenError::WrongKey { .. }) {
            self.suspicion.notify_one();
        }
        SignFailed::Token(error)
    }

    fn withhold(&self, refused: VerifyRefused) -> SignFailed {
        self.metrics.withheld();
        tracing::error!("the token gave a signature that does not verify; take it out of service");
        SignFailed::Withheld(refused)
    }
}
