//! The room of signed notes (C2SP signed-note v1.0.0): text, signature lines and verifier keys.
//! Who enters: a checkpoint to sign, a note from anywhere to check.
//! What leaves: notes in their exact text form, and the names of the keys that truly signed.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::leaf::sha256;

/// A note is a small thing: larger ones are refused unread.
const NOTE_BYTES_MAX: usize = 64 * 1_024;
/// Signature lines; public tools refuse more than a hundred.
const LINES_MAX: usize = 100;
/// U+2014, then a space: how a signature line begins.
const DASH: &str = "\u{2014} ";
/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point itself.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The kinds of key we know, by their C2SP type byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// 0x01: Ed25519 over the text.
    Ed25519,
    /// 0x02: ECDSA P-256 over SHA-256 of the text.
    EcdsaP256,
    /// 0x04: a witness's Ed25519 over time and text.
    Witness,
}

impl KeyKind {
    fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::EcdsaP256 => 0x02,
            Self::Witness => 0x04,
        }
    }
}

/// A verifier key: who may sign a note. Its text form is the vkey, `name+id+base64`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NoteKey {
    name: String,
    kind: KeyKind,
    public: Vec<u8>,
}

/// Why this is no verifier key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a verifier key: {0}")]
pub struct NotAKey(&'static str);

impl NoteKey {
    /// A key by its parts. Ed25519 and witness keys have 32 bytes; P-256 is SPKI DER with an uncompressed point.
    pub fn new(name: impl Into<String>, kind: KeyKind, public: Vec<u8>) -> Result<Self, NotAKey> {
        let name = name.into();
        if !is_key_name(&name) {
            return Err(NotAKey("a name is not empty and has no space, no control character and no `+`"));
        }
        let fits = match kind {
            KeyKind::Ed25519 | KeyKind::Witness => public.len() == 32,
            KeyKind::EcdsaP256 => {
                public.len() == 91 && public.starts_with(&P256_SPKI) && public.get(26) == Some(&4)
            }
        };
        if !fits {
            return Err(NotAKey("the public part does not fit its kind"));
        }
        Ok(Self { name, kind, public })
    }

    /// The name on its signature lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of key.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The public part: 32 bytes, or SPKI DER.
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The four bytes that stand for it on a signature line.
    pub fn id(&self) -> [u8; 4] {
        let hash = match self.kind {
            // ECDSA keys are named by their SPKI alone: neither name nor type goes in.
            KeyKind::EcdsaP256 => sha256(&[&self.public]),
            kind => sha256(&[self.name.as_bytes(), b"\n", &[kind.byte()], &self.public]),
        };
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether `signature` (without the key id) is this key's over `text`.
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        match self.kind {
            KeyKind::Ed25519 => {
                UnparsedPublicKey::new(&ED25519, &self.public).verify(text, signature).is_ok()
            }
            KeyKind::EcdsaP256 => {
                let point = self.public.get(P256_SPKI.len()..).unwrap_or_default();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(text, signature).is_ok()
            }
            KeyKind::Witness => {
                let Some((time, signature)) = signature.split_first_chunk::<8>() else { return false };
                let message = cosignature_message(u64::from_be_bytes(*time), text);
                UnparsedPublicKey::new(&ED25519, &self.public).verify(&message, signature).is_ok()
            }
        }
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![self.kind.byte()];
        key.extend_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), STANDARD.encode(key))
    }
}

impl FromStr for NoteKey {
    type Err = NotAKey;

    fn from_str(vkey: &str) -> Result<Self, NotAKey> {
        let mut parts = vkey.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NotAKey("it does not have the three parts name+id+key"));
        };
        let bytes = STANDARD.decode(key).map_err(|_| NotAKey("its key is not base64"))?;
        let (kind, public) = match bytes.split_first() {
            Some((0x01, public)) => (KeyKind::Ed25519, public),
            Some((0x02, public)) => (KeyKind::EcdsaP256, public),
            Some((0x04, public)) => (KeyKind::Witness, public),
            _ => return Err(NotAKey("its type is not one of 0x01, 0x02, 0x04")),
        };
        let key = Self::new(name, kind, public.to_vec())?;
        if hex::encode(key.id()) != id {
            return Err(NotAKey("its id does not belong to its key"));
        }
        Ok(key)
    }
}

/// SubjectPublicKeyInfo of an uncompressed P-256 point (0x04, x, y), as P-256 keys stand in vkeys and files.
pub fn p256_spki(point: &[u8; 65]) -> Vec<u8> {
    [&P256_SPKI[..], point].concat()
}

/// What a witness signs.
pub fn cosignature_message(time_s: u64, checkpoint_text: &[u8]) -> Vec<u8> {
    let mut message = format!("cosignature/v1\ntime {time_s}\n").into_bytes();
    message.extend_from_slice(checkpoint_text);
    message
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|it: char| it.is_whitespace() || it.is_control() || it == '+')
}

/// One line under a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// Who says to have signed.
    pub name: String,
    /// With which key.
    pub id: [u8; 4],
    /// The signature, whatever its kind.
    pub bytes: Vec<u8>,
}

/// A text and the lines under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    lines: Vec<SignatureLine>,
}

/// Why a note is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteRefused {
    /// It does not have the form of a note.
    #[error("not a signed note: {0}")]
    Malformed(&'static str),
    /// A key we know is named, but did not sign this.
    #[error("the signature line of `{0}` does not verify")]
    BadSignature(String),
    /// None of the keys we know has signed.
    #[error("no known key has signed it")]
    NoKnownKey,
}

impl Note {
    /// A text without lines yet. It ends with a newline and has no control characters.
    pub fn new(text: impl Into<String>) -> Result<Self, NoteRefused> {
        let text = text.into();
        if !text.ends_with('\n') {
            return Err(NoteRefused::Malformed("the text does not end with a newline"));
        }
        if text.bytes().any(|it| it < 0x20 && it != b'\n') {
            return Err(NoteRefused::Malformed("it has a control character"));
        }
        Ok(Self { text, lines: Vec::new() })
    }

    /// The signed text, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The lines under it.
    pub fn lines(&self) -> &[SignatureLine] {
        &self.lines
    }

    /// Adds the line of a key, if the signature is truly its own.
    pub fn sign(&mut self, key: &NoteKey, signature: Vec<u8>) -> Result<(), NoteRefused> {
        if !key.verifies(self.text.as_bytes(), &signature) {
            return Err(NoteRefused::BadSignature(key.name.clone()));
        }
        self.lines.push(SignatureLine { name: key.name.clone(), id: key.id(), bytes: signature });
        Ok(())
    }

    /// Reads a note; checks its form, not its signatures.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteRefused> {
        let bad = NoteRefused::Malformed;
        if bytes.len() > NOTE_BYTES_MAX {
            return Err(bad("it is longer than 64 KiB"));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?;
        let split = whole.rfind("\n\n").ok_or(bad("no empty line stands between text and signatures"))?;
        let (text, signatures) = (&whole[..=split], &whole[split + 2..]);
        let signatures = signatures.strip_suffix('\n').ok_or(bad("it does not end with a newline"))?;
        let mut note = Self::new(text)?;
        if signatures.bytes().any(|it| it < 0x20 && it != b'\n') {
            return Err(bad("it has a control character"));
        }
        for line in signatures.split('\n') {
            if note.lines.len() == LINES_MAX {
                return Err(bad("it has more than 100 signature lines"));
            }
            note.lines.push(parse_line(line)?);
        }
        Ok(note)
    }

    /// The keys of `known` that signed. A known key whose line is wrong spoils the whole note; unknown lines
    /// say nothing either way.
    pub fn verify<'k>(&self, known: &'k [NoteKey]) -> Result<Vec<&'k NoteKey>, NoteRefused> {
        let mut signers = Vec::new();
        for line in &self.lines {
            let named = known.iter().filter(|key| key.name == line.name && key.id() == line.id);
            for key in named {
                if !key.verifies(self.text.as_bytes(), &line.bytes) {
                    return Err(NoteRefused::BadSignature(line.name.clone()));
                }
                if !signers.contains(&key) {
                    signers.push(key);
                }
            }
        }
        if signers.is_empty() { Err(NoteRefused::NoKnownKey) } else { Ok(signers) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for line in &self.lines {
            let signature = STANDARD.encode([&line.id[..], &line.bytes].concat());
            writeln!(f, "{DASH}{} {signature}", line.name)?;
        }
        Ok(())
    }
}

fn parse_line(line: &str) -> Result<SignatureLine, NoteRefused> {
    let bad = NoteRefused::Malformed;
    let line =
        line.strip_prefix(DASH).ok_or(bad("a signature line does not begin with a dash and a space"))?;
    let (name, signature) = line.split_once(' ').ok_or(bad("a signature line has no signature"))?;
    if !is_key_name(name) {
        return Err(bad("a signature line has no proper key name"));
    }
    let bytes = STANDARD.decode(signature).map_err(|_| bad("a signature is not base64"))?;
    match bytes.split_first_chunk::<4>() {
        Some((id, bytes)) if !bytes.is_empty() => {
            Ok(SignatureLine { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
        }
        _ => Err(bad("a signature is too short")),
    }
}
