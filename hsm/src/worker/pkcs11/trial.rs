//! Whether the token wraps and unwraps a kind of key: found out by doing it to a throw-away one, since no attribute tells.
//! Enters: a kind, or a key just made.
//! Leaves: "unsupported" by name, before anyone relies on a backup that cannot be made.

use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::types::Ulong;
use hsm::backend::Fault;
use hsm::{Custody, KeyId, KeyKind};

use super::Desk;
use super::encode::key_type;
use super::fault::{self, Effect};
use super::templates::{Duty, private_duties};

impl Desk {
    /// Refuses a recoverable key of a kind that the token does not wrap. What it wraps here is thrown away with the key that closed it.
    pub(super) fn require_wrappable(&self, private: ObjectHandle, kind: KeyKind) -> Result<(), Fault> {
        let kek = self.passing_kek().map_err(|error| fault::read(&error, Effect::None))?;
        let wrapped = self.session.wrap_key(&Mechanism::AesKeyWrapPad, kek, private);
        let _ = self.session.destroy_object(kek);
        match wrapped {
            Ok(_) => Ok(()),
            Err(_) => {
                self.confirm_presence()?;
                Err(Fault::Unsupported { what: format!("backup of {kind} keys") })
            }
        }
    }

    /// Refuses a kind that the token does not unwrap.
    pub(super) fn require_unwrappable(&self, kind: KeyKind) -> Result<(), Fault> {
        // RSA keys differ in their length only, and long ones take seconds to make.
        let tried = if key_type(kind) == KeyType::RSA { KeyKind::Rsa2048 } else { kind };
        if self.can_unwrap(tried) {
            return Ok(());
        }
        self.confirm_presence()?;
        Err(Fault::Unsupported { what: format!("import of {kind} keys") })
    }

    /// True when a key of this kind, made and wrapped here, can be unwrapped here. All of it ends with this call.
    fn can_unwrap(&self, kind: KeyKind) -> bool {
        let id = KeyId(*b"chancery-trial-0");
        let made =
            super::probe::passing_pair(&self.session, id, kind, "chancery-trial", Custody::Recoverable);
        let Ok((public, private)) = made else { return false };
        let back = self.passing_kek().and_then(|kek| {
            let back = self.there_and_back(kek, private, kind);
            let _ = self.session.destroy_object(kek);
            back
        });
        for object in [Some(public), Some(private), back.as_ref().ok().copied()].into_iter().flatten() {
            let _ = self.session.destroy_object(object);
        }
        back.is_ok()
    }

    fn there_and_back(
        &self,
        kek: ObjectHandle,
        private: ObjectHandle,
        kind: KeyKind,
    ) -> Result<ObjectHandle, Error> {
        let wrapped = self.session.wrap_key(&Mechanism::AesKeyWrapPad, kek, private)?;
        let unwrap = |in_token| {
            let mut template = vec![
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::KeyType(key_type(kind)),
                Attribute::Token(in_token),
            ];
            template.extend(private_duties(Custody::NonExtractable));
            self.session.unwrap_key(&Mechanism::AesKeyWrapPad, kek, &wrapped, &template)
        };
        unwrap(false).or_else(|_| unwrap(true))
    }

    /// An AES key that wraps keys and is not to stay: in the session, or in the token where sessions hold none. Whoever asks destroys it.
    fn passing_kek(&self) -> Result<ObjectHandle, Error> {
        match self.passing_kek_kept(false) {
            Err(error) if fault::made_nothing(&error) => self.passing_kek_kept(true),
            made => made,
        }
    }

    fn passing_kek_kept(&self, in_token: bool) -> Result<ObjectHandle, Error> {
        let mut template = vec![
            Attribute::Token(in_token),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::ValueLen(Ulong::from(32)),
        ];
        template.extend(Duty::Keys.attributes());
        self.session.generate_key(&Mechanism::AesKeyGen, &template)
    }
}
