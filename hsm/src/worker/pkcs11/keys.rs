//! Keys in a PKCS#11 token: made, read back, found, destroyed.
//! Enters: a name, a kind.
//! Leaves: public halves; handles that were checked against the pinned fingerprint.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use hsm::backend::Fault;
use hsm::{
    Custody, Fingerprint, HmacKeyRef, KeyFault, KeyId, KeyKind, KeyRef, NewKey, Origin, Presence, Provenance,
    PublicKey, Refusal,
};

use super::encode::{curve_of, ec_public, rsa_public};
use super::fault::{self, Effect};
use super::templates::{Keep, SAFE_SECRET, flag, safe_private, secret_template};
use super::{Desk, Handle};

/// What stands in the token under a name.
pub(super) enum Halves {
    Absent,
    Half,
    Whole { private: ObjectHandle, public: PublicKey },
}

impl Halves {
    pub(super) fn presence(self) -> Presence {
        match self {
            Self::Absent => Presence::Absent,
            Self::Half => Presence::Half,
            Self::Whole { public, .. } => Presence::Whole(public),
        }
    }
}

impl Desk {
    /// Makes a pair, or finds the one that a lost call made under this name.
    pub(super) fn make_key(
        &self,
        id: KeyId,
        kind: KeyKind,
        custody: Custody,
        label: &str,
    ) -> Result<NewKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.halves(id)? {
            Halves::Whole { private, public } if public.kind == kind => {
                return self
                    .read_back(id, private, public, Origin::Generated, custody)
                    .map_err(|fault| another(id, fault));
            }
            Halves::Whole { .. } => return Err(exists(id)),
            Halves::Half => self.clear(id)?,
            Halves::Absent => {}
        }
        let (public, private) = self.generate_pair(id, kind, label, custody)?;
        // If we stop here, the next call under this name reads the attributes back.
        let made = self.public_of(public).and_then(|read| {
            let read = read.filter(|read| read.kind == kind);
            let read = read.ok_or_else(|| Refusal::LooseKey { attribute: "the public key".to_owned() })?;
            if custody == Custody::Recoverable {
                self.require_wrappable(private, kind)?;
            }
            self.read_back(id, private, read, Origin::Generated, custody)
        });
        if made.is_err() {
            let _ = self.session.destroy_object(private);
            let _ = self.session.destroy_object(public);
        }
        made
    }

    /// What stands in the token under a name.
    pub(super) fn halves(&self, id: KeyId) -> Result<Halves, Fault> {
        let private = self.look_up(ObjectClass::PRIVATE_KEY, id)?;
        let public = self.look_up(ObjectClass::PUBLIC_KEY, id)?;
        match (private.as_slice(), public.as_slice()) {
            ([], []) => self.confirm_presence().map(|()| Halves::Absent),
            ([private], publics) => {
                for public in publics {
                    if let Some(public) = self.public_of(*public)?
                        && self.belongs(*private, &public)?
                    {
                        return Ok(Halves::Whole { private: *private, public });
                    }
                }
                // Public objects are anybody's to make: those that belong to another private key are none of this one's.
                self.confirm_presence().map(|()| Halves::Half)
            }
            ([], _) => self.confirm_presence().map(|()| Halves::Half),
            _ => Err(several(id)),
        }
    }

    /// True when this private key and this public one are halves of one pair: RSA keys show it, others prove it by a signature over what
    /// nobody could foresee.
    pub(super) fn belongs(&self, private: ObjectHandle, public: &PublicKey) -> Result<bool, Fault> {
        let read = |error| fault::read(&error, Effect::None);
        if matches!(public.kind, KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096) {
            let types = [AttributeType::Modulus, AttributeType::PublicExponent];
            let found = self.session.get_attributes(private, &types).map_err(read)?;
            return Ok(match found.as_slice() {
                [Attribute::Modulus(n), Attribute::PublicExponent(e)] => {
                    rsa_public(n, e).is_some_and(|own| own == *public)
                }
                _ => false,
            });
        }
        let mut challenge = [0; CHALLENGE_BYTES];
        self.session.generate_random_slice(&mut challenge).map_err(read)?;
        let scheme = public.kind.schemes()[0];
        let input = scheme.hash().map_or_else(|| challenge.to_vec(), |hash| hash.digest(&challenge));
        match self.sign_with(private, scheme, &input) {
            Ok(made) => Ok(public.verifies(scheme, &challenge, &made)),
            // Nothing of ours: a key of another kind, or one that signs nothing.
            Err((error, _)) => match fault::read(&error, Effect::None) {
                Fault::Refused(_) | Fault::Unsupported { .. } => Ok(false),
                fault => Err(fault),
            },
        }
    }

    /// Destroys both halves. The private one goes first: if we stop between the two, nothing can be signed, and another call removes
    /// the rest.
    pub(super) fn clear(&self, id: KeyId) -> Result<(), Fault> {
        self.shared.forget(id);
        self.destroy_all(ObjectClass::PRIVATE_KEY, id)?;
        self.destroy_all(ObjectClass::PUBLIC_KEY, id)
    }

    /// Takes a pair as a key of ours, if its private half is as it must be.
    pub(super) fn read_back(
        &self,
        id: KeyId,
        private: ObjectHandle,
        public: PublicKey,
        origin: Origin,
        custody: Custody,
    ) -> Result<NewKey, Fault> {
        self.require(private, &safe_private(origin, custody))?;
        let fingerprint = public.fingerprint();
        self.shared.cache(id, Handle { object: private, fingerprint });
        let local = self.require(private, &[(AttributeType::Local, true)]).is_ok();
        let (ours, stays) = (origin == Origin::Generated, custody == Custody::NonExtractable);
        Ok(NewKey {
            key: KeyRef { id, kind: public.kind, fingerprint, blob: Vec::new() },
            public,
            provenance: Provenance {
                local: ours && local,
                never_extractable: ours && stays,
                always_sensitive: ours,
                token_serial: self.shared.serial.clone(),
                origin,
                custody,
            },
        })
    }

    fn generate_pair(
        &self,
        id: KeyId,
        kind: KeyKind,
        label: &str,
        custody: Custody,
    ) -> Result<(ObjectHandle, ObjectHandle), Fault> {
        super::probe::generate_pair(&self.session, id, kind, label, Keep::InToken, custody)
            .map_err(|error| self.unmade(&error))
    }

    /// Refuses a key whose attributes are not exactly these.
    pub(super) fn require(
        &self,
        object: ObjectHandle,
        wanted: &[(AttributeType, bool)],
    ) -> Result<(), Fault> {
        let types: Vec<_> = wanted.iter().map(|(attribute, _)| *attribute).collect();
        let found = self
            .session
            .get_attributes(object, &types)
            .map_err(|error| fault::read(&error, Effect::Possible))?;
        for (attribute, value) in wanted {
            let right =
                found.iter().any(|one| one.attribute_type() == *attribute && flag(one) == Some(*value));
            if !right {
                return Err(Refusal::LooseKey { attribute: attribute.to_string() }.into());
            }
        }
        Ok(())
    }

    pub(super) fn find_public(&self, id: KeyId) -> Result<Option<PublicKey>, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        // Both halves: a public key alone signs nothing.
        match self.halves(id)? {
            Halves::Whole { public, .. } => Ok(Some(public)),
            _ => Ok(None),
        }
    }

    /// The handle of a key, looked up and checked on first use in this worker's life.
    pub(super) fn handle(&self, key: &KeyRef) -> Result<ObjectHandle, Fault> {
        let handle = match self.shared.cached(key.id) {
            Some(handle) => handle,
            None => self.look_up_checked(key)?,
        };
        if handle.fingerprint == key.fingerprint {
            return Ok(handle.object);
        }
        Err(Fault::WrongKey { id: key.id, expected: key.fingerprint, found: handle.fingerprint })
    }

    /// The private object that the recorded public key belongs to. Public objects under the name, missing, doubled or strange, change
    /// nothing: anybody may make them.
    fn look_up_checked(&self, key: &KeyRef) -> Result<Handle, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let id = key.id;
        let privates = self.look_up(ObjectClass::PRIVATE_KEY, id)?;
        if privates.is_empty() {
            return Err(self.missing(id));
        }
        let found = self.publics(id)?;
        let expected = match key.public() {
            Some(recorded) => recorded,
            None => match found.iter().find(|public| public.fingerprint() == key.fingerprint) {
                Some(public) => public.clone(),
                None => return Err(other_key(key, &found)),
            },
        };
        self.right_one(key, &privates, &expected)?.ok_or_else(|| other_key(key, &found))
    }

    /// The one of several private objects that belongs to the recorded public key, remembered from now on.
    fn right_one(
        &self,
        key: &KeyRef,
        privates: &[ObjectHandle],
        expected: &PublicKey,
    ) -> Result<Option<Handle>, Fault> {
        for private in privates {
            if self.belongs(*private, expected)? {
                let handle = Handle { object: *private, fingerprint: key.fingerprint };
                self.shared.cache(key.id, handle);
                return Ok(Some(handle));
            }
        }
        Ok(None)
    }

    /// What is not as it should be about a key. A private object that was recognised before and is still there is not asked to sign again.
    pub(super) fn examine_key(&self, key: &KeyRef) -> Result<Vec<KeyFault>, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let mut faults = Vec::new();
        let privates = self.look_up(ObjectClass::PRIVATE_KEY, key.id)?;
        let objects = self.look_up(ObjectClass::PUBLIC_KEY, key.id)?.len();
        let found = self.publics(key.id)?;
        let ours: Vec<_> = found.iter().filter(|public| public.fingerprint() == key.fingerprint).collect();
        let expected = key.public().or_else(|| ours.first().map(|public| (*public).clone()));
        let known = self
            .shared
            .cached(key.id)
            .filter(|handle| handle.fingerprint == key.fingerprint && privates.contains(&handle.object));
        let right = match (known, &expected) {
            (Some(handle), _) => Some(handle),
            (None, Some(expected)) => self.right_one(key, &privates, expected)?,
            (None, None) => None,
        };
        match (privates.len(), right) {
            (0, _) => faults.push(KeyFault::PrivateMissing),
            (_, None) => faults.push(KeyFault::PrivateMismatch),
            (1, Some(_)) => {}
            (_, Some(_)) => faults.push(KeyFault::PrivateDoubled),
        }
        match ours.len() {
            0 => faults.push(KeyFault::PublicMissing),
            1 => {}
            _ => faults.push(KeyFault::PublicDoubled),
        }
        if objects > ours.len() {
            faults.push(KeyFault::PublicMismatch);
        }
        if !faults.is_empty() {
            // A module that has lost its token finds nothing, and says so without an error.
            self.confirm_presence()?;
        }
        Ok(faults)
    }

    /// The public keys under a name; what cannot be read is no key of ours.
    fn publics(&self, id: KeyId) -> Result<Vec<PublicKey>, Fault> {
        let objects = self.look_up(ObjectClass::PUBLIC_KEY, id)?;
        let keys = objects.into_iter().map(|object| self.public_of(object));
        Ok(keys.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    pub(super) fn remove_key(&self, key: &KeyRef) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let found = self.publics(key.id)?;
        let expected = key.public();
        let expected =
            expected.or_else(|| found.iter().find(|one| one.fingerprint() == key.fingerprint).cloned());
        // A private half that is not the recorded key's is left alone, and so is everything beside it.
        for private in self.look_up(ObjectClass::PRIVATE_KEY, key.id)? {
            let ours = match &expected {
                Some(expected) => self.belongs(private, expected)?,
                // Neither recorded here nor in the token: a half that a call which was cut off has left.
                None => found.is_empty(),
            };
            if !ours {
                return Err(other_key(key, &found));
            }
        }
        self.clear(key.id)
    }

    pub(super) fn make_hmac_key(&self, id: KeyId, label: &str) -> Result<HmacKeyRef, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.look_up(ObjectClass::SECRET_KEY, id)?.as_slice() {
            [] => self.confirm_presence()?,
            [one] => return self.read_hmac_key(id, *one).map_err(|fault| another(id, fault)),
            _ => return Err(exists(id)),
        }
        let mut template = secret_template(id.0.to_vec(), label);
        template.extend([
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Sign(true),
            Attribute::Verify(true),
        ]);
        let object = self
            .session
            .generate_key(&Mechanism::GenericSecretKeyGen, &template)
            .map_err(|error| self.unmade(&error))?;
        self.read_hmac_key(id, object).inspect_err(|_| {
            let _ = self.session.destroy_object(object);
        })
    }

    fn read_hmac_key(&self, id: KeyId, object: ObjectHandle) -> Result<HmacKeyRef, Fault> {
        self.require(object, &SAFE_SECRET)?;
        let check = Fingerprint(self.tag(object, HmacKeyRef::CHECK_TEXT)?);
        self.shared.cache(id, Handle { object, fingerprint: check });
        Ok(HmacKeyRef { id, check, blob: Vec::new() })
    }

    /// The handle of an HMAC key, checked on first use by what it makes of a fixed text.
    pub(super) fn hmac_handle(&self, key: &HmacKeyRef) -> Result<ObjectHandle, Fault> {
        let handle = match self.shared.cached(key.id) {
            Some(handle) => handle,
            None => self.look_up_hmac(key.id)?,
        };
        if handle.fingerprint == key.check {
            return Ok(handle.object);
        }
        Err(Fault::WrongKey { id: key.id, expected: key.check, found: handle.fingerprint })
    }

    fn look_up_hmac(&self, id: KeyId) -> Result<Handle, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let object = match self.look_up(ObjectClass::SECRET_KEY, id)?.as_slice() {
            [one] => *one,
            [] => return Err(self.missing(id)),
            _ => return Err(several(id)),
        };
        let handle = Handle { object, fingerprint: Fingerprint(self.tag(object, HmacKeyRef::CHECK_TEXT)?) };
        self.shared.cache(id, handle);
        Ok(handle)
    }

    pub(super) fn remove_hmac_key(&self, key: &HmacKeyRef) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        self.shared.forget(key.id);
        self.destroy_all(ObjectClass::SECRET_KEY, key.id)
    }

    pub(super) fn destroy_all(&self, class: ObjectClass, id: KeyId) -> Result<(), Fault> {
        self.confirm_presence()?;
        for object in self.look_up(class, id)? {
            match self.session.destroy_object(object) {
                Err(error) if !fault::is_stale(&error) => return Err(fault::read(&error, Effect::Possible)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Every object of one class and name. The class matters: one name may serve a key pair, a certificate and data. Secret and private
    /// keys count only among the private objects: a public one may have been put there by anybody, without a PIN.
    pub(super) fn look_up(&self, class: ObjectClass, id: KeyId) -> Result<Vec<ObjectHandle>, Fault> {
        let mut ours = vec![Attribute::Class(class), Attribute::Token(true), Attribute::Id(id.0.to_vec())];
        if class != ObjectClass::PUBLIC_KEY {
            ours.push(Attribute::Private(true));
        }
        self.session.find_objects(&ours).map_err(|error| fault::read(&error, Effect::None))
    }

    /// The public key an object holds; `None` when it is of no kind we know.
    pub(super) fn public_of(&self, object: ObjectHandle) -> Result<Option<PublicKey>, Fault> {
        let read = |types: &[AttributeType]| {
            self.session.get_attributes(object, types).map_err(|error| fault::read(&error, Effect::None))
        };
        let is_rsa = read(&[AttributeType::KeyType])?.contains(&Attribute::KeyType(KeyType::RSA));
        if is_rsa {
            let found = read(&[AttributeType::Modulus, AttributeType::PublicExponent])?;
            return Ok(match found.as_slice() {
                [Attribute::Modulus(n), Attribute::PublicExponent(e)] => rsa_public(n, e),
                _ => None,
            });
        }
        let found = read(&[AttributeType::EcParams, AttributeType::EcPoint])?;
        Ok(match found.as_slice() {
            [Attribute::EcParams(params), Attribute::EcPoint(point)] => {
                curve_of(params).and_then(|kind| ec_public(kind, point))
            }
            _ => None,
        })
    }
}

/// Behind the name stands another key than the recorded one.
fn other_key(key: &KeyRef, found: &[PublicKey]) -> Fault {
    let other = found.iter().map(PublicKey::fingerprint).find(|found| *found != key.fingerprint);
    let found = other.unwrap_or(Fingerprint([0; 32]));
    Fault::WrongKey { id: key.id, expected: key.fingerprint, found }
}

pub(super) fn exists(id: KeyId) -> Fault {
    Refusal::KeyExists { id }.into()
}

/// What stands under the name is not what was asked for; a device that fails is still told as one.
pub(super) fn another(id: KeyId, fault: Fault) -> Fault {
    match fault {
        lost @ Fault::Lost { .. } => lost,
        _ => exists(id),
    }
}

/// Enough that no signature made before fits it.
const CHALLENGE_BYTES: usize = 32;

pub(super) fn several(id: KeyId) -> Fault {
    Refusal::Other(format!("several keys are named {id}; remove the stray ones")).into()
}
