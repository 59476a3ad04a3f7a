//! The token's root keys: made for one appliance, recognised by what they open, never by their name.
//! Enters: the tag of an appliance, and its root key as recorded.
//! Leaves: secrets wrapped under that key and no other; proof, when it is made, of all that an appliance rests on.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use hsm::backend::{Fault, Rotate, Seal};
use hsm::{Fingerprint, KeyId, Refusal, RootKey, RootPin, RootTag};
use zeroize::Zeroizing;

use super::fault::{self, Effect};
use super::templates::{Duty, SAFE_SECRET};
use super::wrap::{Sealed, read_open_fault};
use super::{Desk, Handle, Known, survey};

/// What a worker knows of the root when it starts.
pub(super) fn known(pin: Option<&RootPin>) -> Known {
    let named = pin.and_then(|pin| key_id(&pin.id)).and_then(read_name);
    Known {
        tag: named.map_or(RootTag::UNNAMED, |(tag, _)| tag),
        pin: pin.cloned(),
        newest: named.map(|(_, number)| number),
    }
}

impl Seal for Desk {
    fn ensure_root(&mut self) -> Result<RootKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let tag = self.shared.known().tag;
        match self.newest_root()? {
            Some(number) => self.describe(name(tag, number), self.root_that_wraps(number)?, false),
            None => self.new_root(tag, FIRST),
        }
    }

    fn make_root(&mut self, tag: RootTag) -> Result<RootKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let id = name(tag, FIRST);
        let made = match self.candidates(id)?.as_slice() {
            [] => self.new_root(tag, FIRST),
            [one] => self.describe(id, *one, false),
            _ => Err(several(id)),
        }?;
        *self.shared.known() = known(Some(&made.pin()));
        // What it closed has just opened again; the anchor is the other thing that cannot be done without.
        self.try_anchor()?;
        Ok(made)
    }

    fn unmake_root(&mut self, tag: RootTag) -> Result<(), Fault> {
        if tag == RootTag::UNNAMED {
            return Err(Refusal::BadInput("the root key of an appliance is not taken away".to_owned()).into());
        }
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let id = name(tag, FIRST);
        self.shared.forget(id);
        self.destroy_anchors(tag)?;
        self.destroy_all(ObjectClass::SECRET_KEY, id)?;
        *self.shared.known() = known(None);
        Ok(())
    }

    /// `format | id of the root | what GCM made`.
    fn wrap(&mut self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let number = self.newest_root()?.ok_or(Refusal::RootMissing)?;
        let root = self.root_that_wraps(number)?;
        let id = name(self.shared.known().tag, number);
        let sealed = self.seal(root, secret, aad).map_err(|error| fault::read(&error, Effect::None))?;
        Ok([&[FORMAT], id.0.as_slice(), &sealed.to_bytes()].concat())
    }

    fn unwrap(&mut self, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let (id, sealed) = read_wrapped(wrapped).ok_or(Refusal::SealBroken)?;
        let shared = self.shared.clone();
        let _alone = shared.objects();
        for root in self.roots(id)? {
            match self.open(root, &sealed, aad).map_err(|error| read_open_fault(&error)).flatten() {
                Ok(secret) => {
                    // It has proven itself, whatever else bears its name.
                    self.shared.cache(id, Handle { object: root, fingerprint: PROVEN });
                    return Ok(secret);
                }
                Err(Fault::Refused(Refusal::SealBroken)) => {}
                Err(fault) => return Err(fault),
            }
        }
        Err(Refusal::SealBroken.into())
    }
}

impl Rotate for Desk {
    fn succeed_root(&mut self, id: &[u8]) -> Result<RootKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let (tag, next) = self
            .number_of(id)
            .and_then(|(tag, number)| Some((tag, number.checked_add(1)?)))
            .ok_or(Refusal::RootMissing)?;
        let newest = self.newest_root()?.ok_or(Refusal::RootMissing)?;
        let made = match newest {
            newest if newest == next => self.describe(name(tag, next), self.root_that_wraps(next)?, false),
            newest if newest + 1 == next => match self.candidates(name(tag, next))?.as_slice() {
                [] => self.new_root(tag, next),
                [one] => self.describe(name(tag, next), *one, false),
                _ => Err(several(name(tag, next))),
            },
            _ => Err(Refusal::RootMissing.into()),
        }?;
        let mut known = self.shared.known();
        known.newest = Some(next);
        known.pin = known.pin.is_some().then(|| made.pin());
        Ok(made)
    }

    fn destroy_root(&mut self, id: &[u8]) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let (tag, number) = self.number_of(id).ok_or(Refusal::RootMissing)?;
        if number >= self.newest_root()?.ok_or(Refusal::RootMissing)? {
            return Err(Refusal::RootInUse.into());
        }
        self.shared.forget(name(tag, number));
        self.destroy_all(ObjectClass::SECRET_KEY, name(tag, number))
    }
}

impl Desk {
    fn new_root(&self, tag: RootTag, number: u8) -> Result<RootKey, Fault> {
        let id = name(tag, number);
        let root = self.make_aes(id, ROOT_LABEL, Duty::Secrets)?;
        let made = self.describe(id, root, true).inspect_err(|_| {
            let _ = self.session.destroy_object(root);
        })?;
        self.shared.known().newest = Some(number);
        Ok(made)
    }

    /// The root with what it is recognised by. Whoever closes what he cannot open again is no root.
    fn describe(&self, id: KeyId, root: ObjectHandle, created: bool) -> Result<RootKey, Fault> {
        let sealed = self.seal(root, CHECK_TEXT, CHECK_AAD);
        let sealed = sealed.map_err(|error| match fault::read(&error, Effect::None) {
            Fault::Unsupported { what } => Fault::Unsupported { what: format!("{NEED} ({what})") },
            fault => fault,
        })?;
        if !self.proves(root, &sealed)? {
            let what = format!("{NEED} (what it closed does not open again)");
            return Err(Fault::Unsupported { what });
        }
        self.shared.cache(id, Handle { object: root, fingerprint: PROVEN });
        Ok(RootKey { id: id.0.to_vec(), created, check: sealed.to_bytes() })
    }

    fn proves(&self, root: ObjectHandle, check: &Sealed) -> Result<bool, Fault> {
        match self.open(root, check, CHECK_AAD).map_err(|error| read_open_fault(&error)).flatten() {
            Ok(text) => Ok(text.as_slice() == CHECK_TEXT),
            Err(Fault::Refused(Refusal::SealBroken)) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The number of the newest root. Of an appliance whose root is recorded it is that one: a higher number is anybody's to write.
    fn newest_root(&self) -> Result<Option<u8>, Fault> {
        let Known { tag, newest, .. } = self.shared.known().clone();
        if newest.is_some() {
            return Ok(newest);
        }
        let read = |error| fault::read(&error, Effect::None);
        let ours = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(ROOT_LABEL.as_bytes().to_vec()),
        ];
        let mut newest = None;
        for object in self.session.find_objects(&ours).map_err(read)? {
            let found = self.session.get_attributes(object, &[AttributeType::Id]).map_err(read)?;
            let [Attribute::Id(id)] = found.as_slice() else { continue };
            let named = key_id(id).and_then(read_name);
            if let Some((of, number)) = named
                && of == tag
                && self.is_as_made(object)?
            {
                newest = newest.max(Some(number));
            }
        }
        if newest.is_none() {
            self.confirm_presence()?;
        }
        self.shared.known().newest = newest;
        Ok(newest)
    }

    /// The one root of a number under which new secrets are closed.
    fn root_that_wraps(&self, number: u8) -> Result<ObjectHandle, Fault> {
        let id = name(self.shared.known().tag, number);
        match self.roots(id)?.as_slice() {
            [one] => Ok(*one),
            [] => Err(Refusal::RootMissing.into()),
            _ => Err(several(id)),
        }
    }

    /// The keys that may be the root of this name: one, once it is recorded or has proven itself.
    fn roots(&self, id: KeyId) -> Result<Vec<ObjectHandle>, Fault> {
        if let Some(handle) = self.shared.cached(id) {
            return Ok(vec![handle.object]);
        }
        let mut candidates = self.candidates(id)?;
        let pin = self.shared.known().pin.clone().filter(|pin| pin.id == id.0);
        if let Some(check) = pin.and_then(|pin| Sealed::read(&pin.check)) {
            let proven = candidates.iter().map(|root| Ok((*root, self.proves(*root, &check)?)));
            let proven = proven.collect::<Result<Vec<_>, Fault>>()?;
            candidates = proven.into_iter().filter(|(_, proves)| *proves).map(|(root, _)| root).collect();
            if let Some(root) = candidates.first() {
                self.shared.cache(id, Handle { object: *root, fingerprint: PROVEN });
            }
        }
        if candidates.is_empty() {
            self.confirm_presence()?;
            let any = self.newest_root()?.is_some_and(|newest| name(self.shared.known().tag, newest) != id);
            return Err(if any { Refusal::SealBroken } else { Refusal::RootMissing }.into());
        }
        Ok(candidates)
    }

    /// The keys that bear the root's name and are not it, in words. What cannot be read is not named.
    pub(super) fn other_roots(&self) -> Vec<String> {
        let known = self.shared.known().clone();
        let newest = known.newest.or_else(|| self.newest_root().ok().flatten());
        let Some(id) = newest.map(|number| name(known.tag, number)) else { return Vec::new() };
        let candidates = self.candidates(id).unwrap_or_default();
        if candidates.len() < 2 {
            return Vec::new();
        }
        let check = known.pin.filter(|pin| pin.id == id.0).and_then(|pin| Sealed::read(&pin.check));
        let Some(check) = check else {
            let count = candidates.len();
            return vec![format!(
                "{count} secret keys have the id `{id}` of the root key; the one that opens what the appliance has closed is used, the others count for nothing"
            )];
        };
        let strays = candidates.into_iter().filter(|root| matches!(self.proves(*root, &check), Ok(false)));
        strays.map(|stray| self.in_words(stray, id)).collect()
    }

    fn in_words(&self, stray: ObjectHandle, id: KeyId) -> String {
        let types = [AttributeType::Label, AttributeType::CheckValue];
        let (mut label, mut check) = (String::new(), "none".to_owned());
        for found in self.session.get_attributes(stray, &types).unwrap_or_default() {
            match found {
                Attribute::Label(text) => label = survey::printable(&text),
                Attribute::CheckValue(value) if !value.is_empty() => check = hex::encode(value),
                _ => {}
            }
        }
        format!(
            "the secrkey with id `{id}`, label `{label}` and check value {check} bears the root key's name and is not it; it counts for nothing. Remove it by its check value: a tool that goes by the id may take the root key"
        )
    }

    /// The private keys of this name that are as we make them.
    fn candidates(&self, id: KeyId) -> Result<Vec<ObjectHandle>, Fault> {
        let mut ours = Vec::new();
        for object in self.look_up(ObjectClass::SECRET_KEY, id)? {
            if self.is_as_made(object)? {
                ours.push(object);
            }
        }
        Ok(ours)
    }

    fn is_as_made(&self, object: ObjectHandle) -> Result<bool, Fault> {
        let checked =
            self.require(object, &SAFE_SECRET).and_then(|()| self.require(object, &Duty::Secrets.flags()));
        match checked {
            Ok(()) => Ok(true),
            Err(Fault::Refused(Refusal::LooseKey { .. })) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// The number of a root of this appliance.
    fn number_of(&self, id: &[u8]) -> Option<(RootTag, u8)> {
        let (tag, number) = read_name(key_id(id)?)?;
        (tag == self.shared.known().tag).then_some((tag, number))
    }
}

fn read_wrapped(wrapped: &[u8]) -> Option<(KeyId, Sealed)> {
    match wrapped {
        [FORMAT_OF_UNNAMED, number, sealed @ ..] => {
            Some((name(RootTag::UNNAMED, *number), Sealed::read_first(sealed)?))
        }
        [FORMAT, rest @ ..] => {
            let (id, sealed) = rest.split_first_chunk::<16>()?;
            Some((KeyId(*id), Sealed::read(sealed)?))
        }
        _ => None,
    }
}

/// A root key's name: the product, whose it is, its number.
fn name(tag: RootTag, number: u8) -> KeyId {
    let mut id = [0; 16];
    id[..9].copy_from_slice(PREFIX);
    id[9..15].copy_from_slice(&tag.0);
    id[15] = number;
    KeyId(id)
}

fn key_id(bytes: &[u8]) -> Option<KeyId> {
    bytes.try_into().ok().map(KeyId)
}

fn read_name(id: KeyId) -> Option<(RootTag, u8)> {
    let rest = id.0.strip_prefix(PREFIX)?;
    let (tag, number) = rest.split_first_chunk::<6>()?;
    match number {
        [number] if *number >= FIRST => Some((RootTag(*tag), *number)),
        _ => None,
    }
}

fn several(id: KeyId) -> Fault {
    let what = format!("several root keys named {id} are in the token");
    Refusal::Other(format!("{what}, and none is recorded as the right one; remove the strays")).into()
}

const NEED: &str = "AES-256-GCM, which the root key needs";
const CHECK_TEXT: &[u8] = b"the root key of this appliance";
const CHECK_AAD: &[u8] = b"chancery.root.check.v1";
const PREFIX: &[u8; 9] = b"chancery-";
const ROOT_LABEL: &str = "chancery-root";
const FIRST: u8 = 1;
const FORMAT_OF_UNNAMED: u8 = 1;
const FORMAT: u8 = 3;
/// Nothing pins a root but what it opens, and that it has opened.
const PROVEN: Fingerprint = Fingerprint([0; 32]);
