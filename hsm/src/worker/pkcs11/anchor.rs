//! The ledger's head in data objects: the new one is made before the old ones go, and the highest counts.
//! Enters: steps, in order.
//! Leaves: the last step the token holds. Who has the PIN could forge it: it stops a rolled-back database, not the host's root.

use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use hsm::backend::{Anchor, Fault};
use hsm::{AnchorReading, AnchorStep, Refusal, RootTag};

use super::Desk;
use super::fault::{self, Effect};

impl Anchor for Desk {
    fn read(&mut self) -> Result<AnchorReading, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let last = self.anchors()?.into_iter().map(|(_, held)| held).max();
        Ok(AnchorReading {
            head: last.map(|held| held.head),
            steps: last.map(|held| held.k),
            counter: None,
            identity: shared.serial.as_bytes().to_vec(),
            missing: last.is_none(),
        })
    }

    fn advance(&mut self, step: &AnchorStep) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let anchors = self.anchors()?;
        let last = anchors.iter().map(|(_, held)| *held).max();
        let (at, head) = last.map_or((0, [0; 32]), |held| (held.k, held.head));
        let taken = at == step.k && head == step.after;
        if !taken {
            if at + 1 != step.k || head != step.before {
                return Err(Refusal::AnchorElsewhere.into());
            }
            self.create(step)?;
            // If we stop here, two objects stand; the higher one counts, and the next step destroys the lower.
        }
        for (object, held) in anchors {
            if held.k < step.k {
                self.session.destroy_object(object).map_err(|error| fault::read(&error, Effect::Possible))?;
            }
        }
        Ok(())
    }
}

/// One step as an object holds it; ordered by its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    k: u64,
    size: u64,
    root: [u8; 32],
    head: [u8; 32],
}

impl Desk {
    fn anchors(&self) -> Result<Vec<(ObjectHandle, Held)>, Fault> {
        let ours = [
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            // A public one may have been put there by anybody, without a PIN: it is no anchor.
            Attribute::Private(true),
            Attribute::Application(application(self.shared.known().tag)),
        ];
        let read = |error| fault::read(&error, Effect::None);
        let mut anchors = Vec::new();
        for object in self.session.find_objects(&ours).map_err(read)? {
            let found = self.session.get_attributes(object, &[AttributeType::Value]).map_err(read)?;
            match found.as_slice() {
                [Attribute::Value(value)] => anchors.extend(decode(value).map(|held| (object, held))),
                _ => continue,
            }
        }
        if anchors.is_empty() {
            self.confirm_presence()?;
        }
        Ok(anchors)
    }

    fn create(&self, step: &AnchorStep) -> Result<(), Fault> {
        let label = format!("chancery-anchor-{:020}", step.k);
        let held = Held { k: step.k, size: step.size, root: step.root, head: step.after };
        let application = application(self.shared.known().tag);
        let object = object(application, label, encode(&held));
        self.session.create_object(&object).map(drop).map_err(|error| self.unmade(&error))
    }

    /// Keeps a passing object as the anchor is kept, reads it back, and destroys it.
    pub(super) fn try_anchor(&self) -> Result<(), Fault> {
        let object =
            object(trial(self.shared.known().tag), "chancery-anchor-trial".to_owned(), MAGIC.to_vec());
        let lacks = |what: String| Fault::Unsupported {
            what: format!(
                "private data objects, which the ledger's anchor needs ({what}); put a TPM beside it"
            ),
        };
        let made = self.session.create_object(&object).map_err(|error| match self.unmade(&error) {
            Fault::Unsupported { what } | Fault::Refused(Refusal::Other(what)) => lacks(what),
            fault => fault,
        })?;
        let found = self.session.get_attributes(made, &[AttributeType::Private, AttributeType::Value]);
        self.session.destroy_object(made).map_err(|error| fault::read(&error, Effect::Possible))?;
        let found = found.map_err(|error| fault::read(&error, Effect::Possible))?;
        let kept = [Attribute::Private(true), Attribute::Value(MAGIC.to_vec())];
        if kept.iter().all(|wanted| found.contains(wanted)) {
            return Ok(());
        }
        Err(lacks("it keeps them otherwise than it was told".to_owned()))
    }

    /// Destroys the anchor of an appliance that did not come to be, and the trial of one that was cut off.
    pub(super) fn destroy_anchors(&self, tag: RootTag) -> Result<(), Fault> {
        for application in [application(tag), trial(tag)] {
            let ours = [
                Attribute::Class(ObjectClass::DATA),
                Attribute::Token(true),
                Attribute::Private(true),
                Attribute::Application(application),
            ];
            let found = self.session.find_objects(&ours);
            for object in found.map_err(|error| fault::read(&error, Effect::None))? {
                self.session.destroy_object(object).map_err(|error| fault::read(&error, Effect::Possible))?;
            }
        }
        Ok(())
    }
}

fn object(application: Vec<u8>, label: String, value: Vec<u8>) -> [Attribute; 7] {
    [
        Attribute::Class(ObjectClass::DATA),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Modifiable(false),
        Attribute::Application(application),
        Attribute::Label(label.into_bytes()),
        Attribute::Value(value),
    ]
}

/// Whose anchor it is: several appliances may share a token.
fn application(tag: RootTag) -> Vec<u8> {
    match tag {
        RootTag::UNNAMED => APPLICATION.to_vec(),
        RootTag(tag) => format!("chancery.anchor.{}", hex::encode(tag)).into_bytes(),
    }
}

/// Of the object by which an anchor is tried.
fn trial(tag: RootTag) -> Vec<u8> {
    [application(tag).as_slice(), b".trial"].concat()
}

fn encode(held: &Held) -> Vec<u8> {
    [MAGIC, &held.k.to_be_bytes(), &held.size.to_be_bytes(), &held.root, &held.head].concat()
}

/// `None` for bytes that are no anchor of ours; a torn one counts as not written.
fn decode(value: &[u8]) -> Option<Held> {
    let rest = value.strip_prefix(MAGIC)?;
    let (k, rest) = rest.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<8>()?;
    let (root, rest) = rest.split_first_chunk::<32>()?;
    let head = rest.try_into().ok()?;
    Some(Held { k: u64::from_be_bytes(*k), size: u64::from_be_bytes(*size), root: *root, head })
}

const MAGIC: &[u8] = b"chancery.hsm.anchor.v1";
const APPLICATION: &[u8] = b"chancery.anchor";
