//! A private key comes into the token, wrapped, and has to prove whose it is before it may stay.
//! Enters: the wrapped key, the public key it was announced with, and the token's key that opens it.
//! Leaves: a key like those made here, except that it says where it comes from.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use hsm::backend::{Fault, Keys};
use hsm::ceremony::Incoming;
use hsm::{KeyRef, NewKey, Origin, Refusal};

use super::encode::{key_type, public_parts};
use super::fault::{self, Effect};
use super::keys::{Halves, another, exists};
use super::templates::private_duties;
use super::{Desk, Handle};

impl Desk {
    /// Takes a key in, unless a lost call has done so already. `opener` is the AES key in the token that unwraps it. The caller has the
    /// objects to himself.
    pub(super) fn take_in(
        &mut self,
        incoming: &Incoming,
        wrapped: &[u8],
        opener: ObjectHandle,
        origin: Origin,
    ) -> Result<NewKey, Fault> {
        let public = public_object(incoming)?;
        match self.halves(incoming.id)? {
            Halves::Whole { private, public } if public == incoming.expected => {
                let taken = self.read_back(incoming.id, private, public, origin, incoming.custody);
                return taken.map_err(|fault| another(incoming.id, fault));
            }
            Halves::Whole { .. } => return Err(exists(incoming.id)),
            Halves::Half => self.clear(incoming.id)?,
            Halves::Absent => {}
        }
        let private = self.unwrap_private(incoming, wrapped, opener)?;
        // If we stop here, a private half stands alone: nothing signs with it, and the next call under this name destroys it.
        let taken = self.prove(incoming, private).and_then(|()| {
            self.session.create_object(&public).map_err(|error| self.unmade(&error))?;
            self.read_back(incoming.id, private, incoming.expected.clone(), origin, incoming.custody)
        });
        taken.inspect_err(|_| {
            let _ = self.clear(incoming.id);
        })
    }

    fn unwrap_private(
        &self,
        incoming: &Incoming,
        wrapped: &[u8],
        opener: ObjectHandle,
    ) -> Result<ObjectHandle, Fault> {
        let mut template = vec![
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::KeyType(key_type(incoming.expected.kind)),
            Attribute::Token(true),
        ];
        template.extend(private_duties(incoming.custody));
        template.extend(names(incoming));
        self.session.unwrap_key(&Mechanism::AesKeyWrapPad, opener, wrapped, &template).map_err(|error| {
            match read_unwrap_fault(&error) {
                // What did not open is the sender's fault, unless the token takes no keys of this kind at all.
                broken @ Fault::Refused(Refusal::ImportBroken) => {
                    self.require_unwrappable(incoming.expected.kind).err().unwrap_or(broken)
                }
                other => other,
            }
        })
    }

    /// The key signs what nobody could foresee, and the announced public key judges.
    fn prove(&mut self, incoming: &Incoming, private: ObjectHandle) -> Result<(), Fault> {
        let (id, kind) = (incoming.id, incoming.expected.kind);
        let fingerprint = incoming.expected.fingerprint();
        let key = KeyRef { id, kind, fingerprint, blob: Vec::new() };
        let scheme = kind.schemes()[0];
        let challenge = self.random(CHALLENGE_BYTES)?;
        let input = scheme.hash().map_or_else(|| challenge.clone(), |hash| hash.digest(&challenge));
        self.shared.cache(id, Handle { object: private, fingerprint });
        match self.sign(&key, scheme, &input) {
            Ok(signature) if incoming.expected.verifies(scheme, &challenge, &signature) => Ok(()),
            // A signature of another length is another key's; for anything else lost, the device is to blame.
            Err(lost @ Fault::Lost { harmless: true, .. }) => Err(lost),
            _ => Err(Refusal::WrongImport.into()),
        }
    }
}

/// The public object that goes with it; refused before anything is unwrapped when the announced key is none.
fn public_object(incoming: &Incoming) -> Result<Vec<Attribute>, Fault> {
    let parts = public_parts(&incoming.expected);
    let parts = parts.ok_or_else(|| {
        let kind = incoming.expected.kind;
        Refusal::BadInput(format!("the announced public key is no {kind} key in SPKI DER"))
    })?;
    let mut object = vec![
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::KeyType(key_type(incoming.expected.kind)),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(true),
    ];
    object.extend(names(incoming));
    object.extend(parts);
    Ok(object)
}

fn names(incoming: &Incoming) -> [Attribute; 2] {
    [Attribute::Id(incoming.id.0.to_vec()), Attribute::Label(incoming.label.as_bytes().to_vec())]
}

/// Modules answer bytes that do not open with all sorts of general errors.
pub(super) fn read_unwrap_fault(error: &Error) -> Fault {
    match error {
        Error::Pkcs11(
            RvError::WrappedKeyInvalid
            | RvError::WrappedKeyLenRange
            | RvError::EncryptedDataInvalid
            | RvError::EncryptedDataLenRange
            | RvError::DataInvalid
            | RvError::DataLenRange
            | RvError::GeneralError
            | RvError::FunctionFailed,
            _,
        ) => Refusal::ImportBroken.into(),
        other => fault::read(other, Effect::Possible),
    }
}

/// Enough that no signature made before fits it.
const CHALLENGE_BYTES: usize = 32;
