//! What lies about in a token that is not as it should be: objects of nobody's, and objects that bear names of ours and are not ours.
//! Enters: a logged-in session.
//! Leaves: a number, and remarks that say which object and how to remove it. Nothing here is changed or removed.

use std::collections::BTreeMap;

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

/// What was seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Objects with neither name nor label: what was cut off while it was made.
    pub(super) strays: u32,
    /// Objects that someone else put under names of ours, in words.
    pub(super) foreign: Vec<String>,
}

/// Looks at each object once; a token with very many is not looked through.
pub(super) fn look(session: &Session) -> Result<Seen, Error> {
    // The search is over before anything is read: not every module does both at once.
    let objects: Vec<_> = session.iter_objects(&[])?.take(OBJECTS_SEEN_MAX + 1).collect::<Result<_, _>>()?;
    let mut seen = Seen::default();
    if objects.len() > OBJECTS_SEEN_MAX {
        return Ok(seen);
    }
    let mut halves = BTreeMap::<(&str, String), u32>::new();
    for object in objects {
        let Some(object) = Object::read(session, object)? else { continue };
        seen.strays += u32::from(object.id.is_empty() && object.label.is_empty());
        if object.is_posing() {
            seen.foreign.push(format!(
                "the {} with id `{}` and label `{}` bears a name of ours and is public, so anybody may have put it there; it counts for nothing, remove it",
                object.class,
                hex::encode(&object.id),
                printable(&object.label),
            ));
        }
        if !object.id.is_empty() && matches!(object.class, PUBLIC_KEY | PRIVATE_KEY) {
            *halves.entry((object.class, hex::encode(&object.id))).or_default() += 1;
        }
    }
    let doubled = halves.iter().filter(|(_, count)| **count > 1);
    seen.foreign.extend(doubled.map(|((class, id), count)| {
        format!("{count} objects of class {class} have the id `{id}`; the recorded public key decides which one counts, remove the others")
    }));
    if seen.foreign.len() > FOREIGN_MAX {
        let more = seen.foreign.split_off(FOREIGN_MAX).len();
        seen.foreign.push(format!("and {more} more such objects"));
    }
    Ok(seen)
}

struct Object {
    class: &'static str,
    private: bool,
    id: Vec<u8>,
    label: Vec<u8>,
    application: Vec<u8>,
}

impl Object {
    /// `None`: of a class that describes the token itself, such as a list of its mechanisms.
    fn read(session: &Session, object: ObjectHandle) -> Result<Option<Self>, Error> {
        let found = session.get_attributes(
            object,
            &[AttributeType::Class, AttributeType::Private, AttributeType::Id, AttributeType::Label],
        )?;
        let mut read = Self { class: "", private: true, id: vec![], label: vec![], application: vec![] };
        for attribute in found {
            match attribute {
                Attribute::Class(class) => read.class = name(class),
                Attribute::Private(private) => read.private = private,
                Attribute::Id(id) => read.id = id,
                Attribute::Label(label) => read.label = label,
                _ => {}
            }
        }
        if read.class == DATA {
            let found = session.get_attributes(object, &[AttributeType::Application])?;
            if let [Attribute::Application(application)] = found.as_slice() {
                read.application = application.clone();
            }
        }
        Ok((!read.class.is_empty()).then_some(read))
    }

    /// Public halves of ours are public, and nothing else of ours is.
    fn is_posing(&self) -> bool {
        let ours =
            [&self.id, &self.label, &self.application].iter().any(|name| name.starts_with(b"chancery"));
        ours && !self.private && self.class != PUBLIC_KEY
    }
}

fn name(class: ObjectClass) -> &'static str {
    match class {
        ObjectClass::SECRET_KEY => "secrkey",
        ObjectClass::PRIVATE_KEY => PRIVATE_KEY,
        ObjectClass::PUBLIC_KEY => PUBLIC_KEY,
        ObjectClass::CERTIFICATE => "cert",
        ObjectClass::DATA => DATA,
        _ => "",
    }
}

pub(super) fn printable(label: &[u8]) -> String {
    String::from_utf8_lossy(label).chars().filter(|letter| !letter.is_control()).take(LABEL_MAX).collect()
}

/// Classes as `pkcs11-tool --type` calls them.
const PUBLIC_KEY: &str = "pubkey";
const PRIVATE_KEY: &str = "privkey";
const DATA: &str = "data";

/// A look through more would hold up every start of a worker; devices answer a thousand times a second or so.
const OBJECTS_SEEN_MAX: usize = 1_000;
/// Enough to know what is going on; a line more says how many there are.
const FOREIGN_MAX: usize = 16;
/// As long as labels are in the standard.
const LABEL_MAX: usize = 32;
