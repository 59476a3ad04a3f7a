//! Keys in a PKCS#11 token: made, read back, found, destroyed.
//! Enters: a name, a kind.
//! Leaves: public halves; handles that were checked against the pinned fingerprint.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use hsm::backend::Fault;
use hsm::{
    Custody, Fingerprint, HmacKeyRef, KeyId, KeyKind, KeyRef, NewKey, Origin, Presence, Provenance,
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
            ([private], [public]) => {
                let public = self.public_of(*public)?;
                let public =
                    public.ok_or_else(|| Refusal::Other(format!("key {id} is of a kind unknown here")))?;
                Ok(Halves::Whole { private: *private, public })
            }
            ([], [_]) | ([_], []) => self.confirm_presence().map(|()| Halves::Half),
            _ => Err(several(id)),
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
        let (ours, stays) = (origin == Origin::Generated, custody == Custody::NonExtractable);
        Ok(NewKey {
            key: KeyRef { id, kind: public.kind, fingerprint, blob: Vec::new() },
            public,
            provenance: Provenance {
                local: ours,
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
            .map_err(|error| fault::read(&error, Effect::Possible))
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
        if self.look_up(ObjectClass::PRIVATE_KEY, id)?.is_empty() {
            return self.confirm_presence().map(|()| None);
        }
        match self.look_up(ObjectClass::PUBLIC_KEY, id)?.as_slice() {
            [one] => self.public_of(*one),
            _ => Ok(None),
        }
    }

    /// The handle of a key, looked up and checked on first use in this worker's life.
    pub(super) fn handle(&self, key: &KeyRef) -> Result<ObjectHandle, Fault> {
        let handle = match self.shared.cached(key.id) {
            Some(handle) => handle,
            None => self.look_up_checked(key.id)?,
        };
        if handle.fingerprint == key.fingerprint {
            return Ok(handle.object);
        }
        Err(Fault::WrongKey { id: key.id, expected: key.fingerprint, found: handle.fingerprint })
    }

    fn look_up_checked(&self, id: KeyId) -> Result<Handle, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let private = self.look_up(ObjectClass::PRIVATE_KEY, id)?;
        let public = self.look_up(ObjectClass::PUBLIC_KEY, id)?;
        let (private, public) = match (private.as_slice(), public.as_slice()) {
            ([private], [public]) => (*private, *public),
            ([], _) => return Err(self.missing(id)),
            (_, []) => {
                return Err(
                    Refusal::Other(format!("the public half of key {id} is missing; restore it")).into()
                );
            }
            _ => return Err(several(id)),
        };
        let public = self.public_of(public)?;
        let public = public.ok_or_else(|| Refusal::Other(format!("key {id} is of a kind unknown here")))?;
        let handle = Handle { object: private, fingerprint: public.fingerprint() };
        self.shared.cache(id, handle);
        Ok(handle)
    }

    pub(super) fn remove_key(&self, key: &KeyRef) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        for object in self.look_up(ObjectClass::PUBLIC_KEY, key.id)? {
            let found = self.public_of(object)?.map(|public| public.fingerprint());
            if let Some(found) = found.filter(|found| *found != key.fingerprint) {
                return Err(Fault::WrongKey { id: key.id, expected: key.fingerprint, found });
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
            .map_err(|error| fault::read(&error, Effect::Possible))?;
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

    /// Every object of one class and name. The class matters: one name may serve a key pair, a certificate and data.
    pub(super) fn look_up(&self, class: ObjectClass, id: KeyId) -> Result<Vec<ObjectHandle>, Fault> {
        self.session
            .find_objects(&[Attribute::Class(class), Attribute::Token(true), Attribute::Id(id.0.to_vec())])
            .map_err(|error| fault::read(&error, Effect::None))
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

pub(super) fn several(id: KeyId) -> Fault {
    Refusal::Other(format!("several keys are named {id}; remove the stray ones")).into()
}
