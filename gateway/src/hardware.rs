//! What the ledger needs from hardware, over the tokens that are there: seals with note keys, anchors in TPM or token.
//! Who enters: the ledger, through its two narrow traits; whoever has a key on order that nothing came of.
//! What leaves: signatures over checkpoints, steps of the anchor; token errors in the ledger's words.

use std::time::{Duration, Instant};

use audit::{Anchor, Answer, Attestation, HardwareFault, NoteKey, Reading, Sealer, Step, Tier};
use hsm::{AnchorStep, KeyId, KeyRef, Presence, Scheme, SignInput, Token, TokenError};

use crate::crypto::ecdsa_to_der;
use crate::limits::TOKEN_GENERATE_WAIT_MAX;

/// Hardware that seals is asked rarely and given time.
const HARDWARE_WAIT_MAX: Duration = Duration::from_secs(20);

/// A note key in a token.
#[derive(Clone)]
pub struct SealKey {
    /// Where it is.
    pub token: Token,
    /// Its name there.
    pub key: KeyRef,
    /// Its scheme: Ed25519, or ECDSA with SHA-256.
    pub scheme: Scheme,
}

/// Seals with one key after the other: the token's, and the TPM's where there is one.
pub struct TokenSealer {
    keys: Vec<NoteKey>,
    seals: Vec<SealKey>,
}

/// An anchor in a TPM or, weaker, in an object of the token.
pub struct TokenAnchor {
    token: Token,
    tier: Tier,
    /// Whose statements are taken, once it is recorded; SPKI DER.
    attestation_key: Option<Vec<u8>>,
}

impl TokenSealer {
    /// Over note keys and where they are, in the same order.
    pub fn new(keys: Vec<(NoteKey, SealKey)>) -> Self {
        let (keys, seals) = keys.into_iter().unzip();
        Self { keys, seals }
    }
}

impl Sealer for TokenSealer {
    fn keys(&self) -> &[NoteKey] {
        &self.keys
    }

    fn sign<'a>(&'a self, key: usize, text: &'a [u8]) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            let seal = self
                .seals
                .get(key)
                .ok_or_else(|| HardwareFault::Refused("there is no such note key".into()))?;
            let input = SignInput::Message(text.to_vec());
            let raw = seal.token.sign(&seal.key, seal.scheme, input, soon()).await.map_err(fault)?;
            Ok(if seal.scheme == Scheme::Ed25519 { raw } else { ecdsa_to_der(&raw) })
        })
    }
}

impl TokenAnchor {
    /// The anchor of a TPM, whose statements are signed by this key.
    pub fn in_tpm(token: Token, attestation_key: Option<Vec<u8>>) -> Self {
        Self { token, tier: Tier::TpmNv, attestation_key }
    }

    /// The anchor in an object of a PKCS#11 token.
    pub fn in_token(token: Token) -> Self {
        Self { token, tier: Tier::TokenObject, attestation_key: None }
    }
}

impl Anchor for TokenAnchor {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn read(&self) -> Answer<'_, Reading> {
        Box::pin(async move {
            let hsm::AnchorReading { head, steps, counter, identity, missing } =
                self.token.anchor_read(soon()).await.map_err(fault)?;
            Ok(Reading { head, steps, counter, identity, missing })
        })
    }

    fn advance(&self, step: Step) -> Answer<'_, ()> {
        Box::pin(async move {
            let Step { k, size, root, digest, before, after } = step;
            let step = AnchorStep { k, size, root, digest, before, after };
            self.token.anchor_advance(step, soon()).await.map_err(fault)
        })
    }

    fn attest(&self, qualifying: [u8; 32]) -> Answer<'_, Option<Attestation>> {
        Box::pin(async move {
            let statement = self.token.anchor_attest(qualifying, soon()).await.map_err(fault)?;
            let recorded = self.attestation_key.as_ref();
            if let (Some(said), Some(recorded)) = (&statement, recorded)
                && said.ak_spki_der != *recorded
            {
                let why = "the TPM's statement is signed by another attestation key than the recorded one";
                return Err(HardwareFault::Refused(why.into()));
            }
            Ok(statement.map(|said| Attestation {
                statement: said.attest,
                signature: said.signature_der,
                key: said.ak_spki_der,
            }))
        })
    }

    fn count_start(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move { self.token.anchor_count(soon()).await.map_err(fault) })
    }
}

/// Destroys whatever the token holds under the name of a key that was on order.
/// True once it certainly holds nothing under it; false while the token is away.
pub async fn sweep(token: &Token, id: KeyId) -> bool {
    let deadline = Instant::now() + TOKEN_GENERATE_WAIT_MAX;
    // What is held, halves included: a private key without its public one still signs.
    match token.presence(id, deadline).await {
        Ok(Presence::Absent) => true,
        Ok(Presence::Half) => token.destroy_half(id, deadline).await.is_ok(),
        Ok(Presence::Whole(public)) => {
            let (kind, fingerprint) = (public.kind, public.fingerprint());
            let key = KeyRef { id, kind, fingerprint, blob: Vec::new() }.knowing(&public.spki_der);
            token.destroy(&key, deadline).await.is_ok()
        }
        // A TPM keeps no keys: one that was never recorded is gone with its blob.
        Err(error) => matches!(error, TokenError::Unsupported { .. } | TokenError::KeyMissing { .. }),
    }
}

fn soon() -> Instant {
    Instant::now() + HARDWARE_WAIT_MAX
}

fn fault(error: TokenError) -> HardwareFault {
    let text = error.to_string();
    match error {
        TokenError::OutcomeUnknown => HardwareFault::OutcomeUnknown(text),
        _ if error.retry_is_safe() => HardwareFault::Unavailable(text),
        _ => HardwareFault::Refused(text),
    }
}

#[cfg(test)]
mod tests {
    use hsm::double::DoubleFault;
    use hsm::{Double, KeyKind, Refusal};

    use super::*;

    #[tokio::test]
    async fn a_sweep_takes_whole_keys_and_halves_and_is_done_only_when_that_is_certain() {
        let double = Double::new();
        let token = Token::double(double.clone());
        let deadline = || Instant::now() + TOKEN_GENERATE_WAIT_MAX;
        let id = KeyId([3; 16]);
        assert!(sweep(&token, id).await, "nothing is there");
        token.generate(id, KeyKind::P256, "ca", deadline()).await.unwrap();
        assert!(sweep(&token, id).await);
        assert_eq!(double.keys_held(), 0, "a whole key is left");
        double.leave_half(id);
        assert!(sweep(&token, id).await);
        assert_eq!(token.presence(id, deadline()).await, Ok(Presence::Absent), "a half is left");
        double.leave_half(id);
        double.next(DoubleFault::Refuse(Refusal::WriteProtected));
        assert!(!sweep(&token, id).await, "the token was not asked, and it is called done");
        assert_eq!(token.presence(id, deadline()).await, Ok(Presence::Half));
    }
}
