//! Keys made elsewhere: an RSA pair in the token opens an AES key, and that opens the private key, all inside the token.
//! Enters: `RSA-OAEP(AES-256 key) | AES-KWP(PKCS#8)`, the format of CKM_RSA_AES_KEY_WRAP, undone here in two steps that more modules have.
//! Leaves: import keys, and keys taken in.

use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use cryptoki::error::Error;
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use hsm::backend::{Fault, Import, Keys};
use hsm::ceremony::Incoming;
use hsm::{ImportKey, KeyId, KeyKind, NewKey, Oaep, Origin, PublicKey, Refusal};

use super::Desk;
use super::incoming::read_unwrap_fault;
use super::keys::{Halves, another, exists};
use super::templates::{SAFE_IMPORT, import_templates};

impl Import for Desk {
    fn takes(&mut self, kind: KeyKind) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        self.require_unwrappable(kind)
    }

    fn create_import_key(&mut self, id: KeyId, label: &str) -> Result<ImportKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.halves(id)? {
            Halves::Whole { private, public } => {
                self.require(private, &SAFE_IMPORT).map_err(|fault| another(id, fault))?;
                return self.import_key_of(id, private, public);
            }
            Halves::Half => self.clear(id)?,
            Halves::Absent => {}
        }
        self.make_import_pair(id, label).inspect_err(|_| {
            let _ = self.clear(id);
        })
    }

    fn find_import_key(&mut self, id: KeyId) -> Result<Option<ImportKey>, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let Halves::Whole { private, public } = self.halves(id)? else { return Ok(None) };
        match self.require(private, &SAFE_IMPORT) {
            Ok(()) => self.import_key_of(id, private, public).map(Some),
            Err(lost @ Fault::Lost { .. }) => Err(lost),
            Err(_) => Ok(None),
        }
    }

    fn import_key(&mut self, with: &ImportKey, incoming: &Incoming) -> Result<NewKey, Fault> {
        let private = self.import_handle(with)?;
        let len = with.public.kind.signature_len();
        let (first, rest) = incoming.wrapped.split_at_checked(len).ok_or(Refusal::ImportBroken)?;
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let opener = self.unwrap_aes(private, with.oaep, first).map_err(|error| read_unwrap_fault(&error))?;
        let taken = self.take_in(incoming, rest, opener, Origin::Imported);
        // A session's object: it ends with the worker in any case.
        let _ = self.session.destroy_object(opener);
        taken
    }

    fn destroy_import_key(&mut self, key: &ImportKey) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.halves(key.id)? {
            Halves::Whole { public, .. } if public != key.public => {
                Err(wrong_key(key.id, &key.public, &public))
            }
            _ => self.clear(key.id),
        }
    }
}

impl Desk {
    fn make_import_pair(&mut self, id: KeyId, label: &str) -> Result<ImportKey, Fault> {
        let (public, private) = import_templates(id, label);
        let (public, private) = self
            .session
            .generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)
            .map_err(|error| self.unmade(&error))?;
        self.require(private, &SAFE_IMPORT)?;
        let public = self.public_of(public)?;
        let public = public.ok_or_else(|| Refusal::LooseKey { attribute: "the public key".to_owned() })?;
        self.import_key_of(id, private, public)
    }

    /// Tells which OAEP hash works, by sending a key through; modules do not say.
    fn import_key_of(
        &mut self,
        id: KeyId,
        private: ObjectHandle,
        public: PublicKey,
    ) -> Result<ImportKey, Fault> {
        let secret = self.random(AES_KEY_BYTES)?;
        for oaep in [Oaep::Sha256, Oaep::Sha1] {
            let sent = encrypt(&public, oaep, &secret).ok_or_else(|| exists(id))?;
            if let Ok(opened) = self.unwrap_aes(private, oaep, &sent) {
                let _ = self.session.destroy_object(opened);
                return Ok(ImportKey { id, public, oaep });
            }
        }
        self.confirm_presence()?;
        Err(Fault::Unsupported { what: "RSA-OAEP unwrapping of AES keys".to_owned() })
    }

    fn import_handle(&self, with: &ImportKey) -> Result<ObjectHandle, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.halves(with.id)? {
            Halves::Whole { private, public } if public == with.public => Ok(private),
            Halves::Whole { public, .. } => Err(wrong_key(with.id, &with.public, &public)),
            _ => Err(Fault::KeyMissing { id: with.id }),
        }
    }

    /// The AES key stays in the token, in this session only, and unwraps one key.
    fn unwrap_aes(&self, private: ObjectHandle, oaep: Oaep, wrapped: &[u8]) -> Result<ObjectHandle, Error> {
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Unwrap(true),
        ];
        self.session.unwrap_key(&Mechanism::RsaPkcsOaep(params(oaep)), private, wrapped, &template)
    }
}

fn params(oaep: Oaep) -> PkcsOaepParams<'static> {
    let (hash, mgf) = match oaep {
        Oaep::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        Oaep::Sha1 => (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1),
    };
    PkcsOaepParams::new(hash, mgf, PkcsOaepSource::empty())
}

fn encrypt(public: &PublicKey, oaep: Oaep, secret: &[u8]) -> Option<Vec<u8>> {
    let algorithm: &'static OaepAlgorithm = match oaep {
        Oaep::Sha256 => &OAEP_SHA256_MGF1SHA256,
        Oaep::Sha1 => &OAEP_SHA1_MGF1SHA1,
    };
    let key = PublicEncryptingKey::from_der(&public.spki_der).ok()?;
    let key = OaepPublicEncryptingKey::new(key).ok()?;
    let mut sent = vec![0; key.ciphertext_size()];
    key.encrypt(algorithm, secret, &mut sent, None).ok()?;
    Some(sent)
}

fn wrong_key(id: KeyId, expected: &PublicKey, found: &PublicKey) -> Fault {
    Fault::WrongKey { id, expected: expected.fingerprint(), found: found.fingerprint() }
}

const AES_KEY_BYTES: usize = 32;
