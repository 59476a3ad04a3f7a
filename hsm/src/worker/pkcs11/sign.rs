//! The hot path: one C_SignInit and one C_Sign, nothing else.
//! Enters: a key that was checked once, and a digest or message.
//! Leaves: a signature of the length its kind has.

use cryptoki::error::Error;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::types::Ulong;
use hsm::backend::{Fault, Keys};
use hsm::{
    Custody, Hash, HmacKeyRef, KeyFault, KeyId, KeyKind, KeyRef, NewKey, Presence, PublicKey, Refusal, Scheme,
};

use super::Desk;
use super::encode::digest_info;
use super::fault::{self, Effect};
use super::keys::Halves;

impl Keys for Desk {
    fn generate(&mut self, id: KeyId, kind: KeyKind, label: &str) -> Result<NewKey, Fault> {
        self.make_key(id, kind, Custody::NonExtractable, label)
    }

    fn find(&mut self, id: KeyId) -> Result<Option<PublicKey>, Fault> {
        self.find_public(id)
    }

    fn presence(&mut self, id: KeyId) -> Result<Presence, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        Ok(self.halves(id)?.presence())
    }

    fn examine(&mut self, key: &KeyRef) -> Result<Vec<KeyFault>, Fault> {
        self.examine_key(key)
    }

    fn destroy_half(&mut self, id: KeyId) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.halves(id)? {
            Halves::Whole { .. } => Err(Refusal::KeyExists { id }.into()),
            _ => self.clear(id),
        }
    }

    fn sign(&mut self, key: &KeyRef, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let signature = self.use_key(key, scheme, input)?;
        if signature.len() != key.kind.signature_len() {
            let why = format!("a {} signature came out {} bytes long", key.kind, signature.len());
            return Err(Fault::Lost { why, harmless: false });
        }
        Ok(signature)
    }

    fn destroy(&mut self, key: &KeyRef) -> Result<(), Fault> {
        self.remove_key(key)
    }

    fn generate_hmac_key(&mut self, id: KeyId, label: &str) -> Result<HmacKeyRef, Fault> {
        self.make_hmac_key(id, label)
    }

    fn hmac_sha256(&mut self, key: &HmacKeyRef, data: &[u8]) -> Result<[u8; 32], Fault> {
        let object = self.hmac_handle(key)?;
        self.tag(object, data)
    }

    fn destroy_hmac_key(&mut self, key: &HmacKeyRef) -> Result<(), Fault> {
        self.remove_hmac_key(key)
    }

    fn random(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        if len > RANDOM_BYTES_MAX {
            return Err(
                Refusal::BadInput(format!("more than {RANDOM_BYTES_MAX} random bytes at once")).into()
            );
        }
        let mut bytes = vec![0; len];
        self.session.generate_random_slice(&mut bytes).map_err(|error| fault::read(&error, Effect::None))?;
        Ok(bytes)
    }
}

impl Desk {
    /// One signature by an object that was looked up.
    pub(super) fn sign_with(
        &self,
        object: ObjectHandle,
        scheme: Scheme,
        input: &[u8],
    ) -> Result<Vec<u8>, (Error, bool)> {
        let sign =
            |mechanism: &Mechanism<'_>, input: &[u8]| self.once.sign(&self.session, mechanism, object, input);
        match scheme {
            Scheme::EcdsaSha256 | Scheme::EcdsaSha384 => sign(&Mechanism::Ecdsa, input),
            Scheme::Ed25519 => {
                sign(&Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), input)
            }
            Scheme::RsaPkcs1(hash) => sign(&Mechanism::RsaPkcs, &digest_info(hash, input)),
            Scheme::RsaPss(hash) => sign(&Mechanism::RsaPkcsPss(pss(hash)), input),
        }
    }

    fn use_key(&self, key: &KeyRef, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let object = self.handle(key)?;
        match self.sign_with(object, scheme, input) {
            Ok(signature) => Ok(signature),
            Err((error, false)) if fault::is_stale(&error) => {
                // Nothing was signed. The key was replaced behind our back: look it up and check it as if for the first time.
                self.shared.forget(key.id);
                let object = self.handle(key)?;
                self.sign_with(object, scheme, input).map_err(|refused| self.read(&refused))
            }
            Err(refused) => Err(self.read(&refused)),
        }
    }

    /// HMAC-SHA256 of data under a key of ours.
    pub(super) fn tag(&self, object: ObjectHandle, data: &[u8]) -> Result<[u8; 32], Fault> {
        let made = self.once.sign(&self.session, &Mechanism::Sha256Hmac, object, data);
        let made = made.map_err(|(error, _)| fault::read(&error, Effect::None))?;
        made.try_into().map_err(|_| Fault::Lost {
            why: "an HMAC came out with a wrong length".to_owned(),
            harmless: true,
        })
    }

    #[allow(clippy::unused_self, reason = "reads as part of the desk's work")]
    fn read(&self, (error, begun): &(Error, bool)) -> Fault {
        fault::read(error, if *begun { Effect::Possible } else { Effect::None })
    }
}

fn pss(hash: Hash) -> PkcsPssParams {
    let (hash_alg, mgf) = match hash {
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    };
    PkcsPssParams { hash_alg, mgf, s_len: Ulong::from(hash.len() as u64) }
}

/// Enough for any nonce or seed; a token's generator is no stream.
const RANDOM_BYTES_MAX: usize = 1024;
