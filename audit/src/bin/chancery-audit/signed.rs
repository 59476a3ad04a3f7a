//! Whether a file, and a signature of it, are what a signing entry speaks of.
//! Who enters: `check`, with an entry that a receipt has proven, and the files that the auditor holds.
//! What leaves: what was found equal, or the first thing that is not.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use audit::leaf::Leaf;
use audit::verify;
use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self as lc, ParsedPublicKey, VerificationAlgorithm};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use crate::commands::{not_a, read};

/// What the auditor holds beside the receipt.
#[derive(Args)]
pub(crate) struct Held {
    /// The file that is said to have been signed; it is hashed here.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The signature: DER, raw, or either in base64.
    #[arg(long, value_name = "FILE", requires_all = ["file", "public_key"])]
    signature: Option<PathBuf>,
    /// The public key that the signature is checked with (PEM).
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
}

/// What of it fits the entry.
#[derive(Default)]
pub(crate) struct Fits {
    facts: Vec<(&'static str, String)>,
    object: serde_json::Map<String, Value>,
}

/// What keeps it from being answered: nothing can be looked at, or something does not fit.
pub(crate) enum NoFit {
    Unreadable(Box<dyn Error>),
    Differs(String),
}

impl From<Box<dyn Error>> for NoFit {
    fn from(why: Box<dyn Error>) -> Self {
        Self::Unreadable(why)
    }
}

/// A scheme as entries name it: what is hashed with what, and the keys whose signatures it has.
struct Scheme {
    name: &'static str,
    hash: &'static digest::Algorithm,
    /// The message itself is signed; the digest only names it in the entry.
    whole: bool,
    algorithms: &'static [&'static dyn VerificationAlgorithm],
}

// Each ECDSA curve twice: DER first, then r and s side by side.
static SCHEMES: [Scheme; 9] = [
    Scheme {
        name: "ecdsa-sha256",
        hash: &digest::SHA256,
        whole: false,
        algorithms: &[
            &lc::ECDSA_P256_SHA256_ASN1,
            &lc::ECDSA_P256_SHA256_FIXED,
            &lc::ECDSA_P256K1_SHA256_ASN1,
            &lc::ECDSA_P256K1_SHA256_FIXED,
        ],
    },
    Scheme {
        name: "ecdsa-sha384",
        hash: &digest::SHA384,
        whole: false,
        algorithms: &[&lc::ECDSA_P384_SHA384_ASN1, &lc::ECDSA_P384_SHA384_FIXED],
    },
    Scheme { name: "ed25519", hash: &digest::SHA256, whole: true, algorithms: &[&lc::ED25519] },
    rsa("rsa-pkcs1-sha256", &digest::SHA256, &[&lc::RSA_PKCS1_2048_8192_SHA256]),
    rsa("rsa-pkcs1-sha384", &digest::SHA384, &[&lc::RSA_PKCS1_2048_8192_SHA384]),
    rsa("rsa-pkcs1-sha512", &digest::SHA512, &[&lc::RSA_PKCS1_2048_8192_SHA512]),
    rsa("rsa-pss-sha256", &digest::SHA256, &[&lc::RSA_PSS_2048_8192_SHA256]),
    rsa("rsa-pss-sha384", &digest::SHA384, &[&lc::RSA_PSS_2048_8192_SHA384]),
    rsa("rsa-pss-sha512", &digest::SHA512, &[&lc::RSA_PSS_2048_8192_SHA512]),
];

const fn rsa(
    name: &'static str,
    hash: &'static digest::Algorithm,
    algorithms: &'static [&'static dyn VerificationAlgorithm],
) -> Scheme {
    Scheme { name, hash, whole: false, algorithms }
}

/// The SPKI of an Ed25519 key is this and the 32 bytes of its point (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Longer than any signature in base64; and the longest message that is signed whole.
const SIGNATURE_BYTES_MAX: u64 = 16 << 10;
const MESSAGE_BYTES_MAX: u64 = 512 << 10;

impl Held {
    /// Holds the files against the entry.
    pub(crate) fn against(&self, leaf: &Leaf<'_>, payload: &[u8]) -> Result<Fits, NoFit> {
        let mut fits = Fits::default();
        let Some(file) = &self.file else {
            return match &self.public_key {
                Some(_) => Err(NoFit::Unreadable("--public-key checks a --signature of a --file".into())),
                None => Ok(fits),
            };
        };
        if (leaf.action, leaf.outcome) != ("key.sign", "done") {
            let words = format!(
                "entry {} authorises no signature: it tells of {} ({})",
                leaf.seq, leaf.action, leaf.outcome
            );
            return Err(NoFit::Differs(words));
        }
        let detail: Value = serde_json::from_slice(payload).unwrap_or_default();
        let said = |name: &str| detail["after"][name].as_str().unwrap_or_default().to_owned();
        let scheme = SCHEMES.iter().find(|scheme| scheme.name == said("scheme"));
        let scheme = scheme.ok_or_else(|| {
            NoFit::Differs(format!(
                "entry {} names the scheme `{}`, which is unknown here",
                leaf.seq,
                said("scheme")
            ))
        })?;
        let digest = hashed(scheme.hash, file)?;
        let found = hex::encode(digest);
        if found != said("digest") {
            let words = format!(
                "entry {} authorises a signature of digest {}, and {} has {found}",
                leaf.seq,
                said("digest"),
                file.display()
            );
            return Err(NoFit::Differs(words));
        }
        fits.add("file", format!("{}: its digest is the one authorised here", file.display()), json!(found));
        if let (Some(signature), Some(key)) = (&self.signature, &self.public_key) {
            signed(&mut fits, scheme, (file, &digest), signature, (key, &said("fingerprint")))?;
        }
        Ok(fits)
    }
}

/// Holds the signature against file and key, and the key against the entry.
fn signed(
    fits: &mut Fits,
    scheme: &Scheme,
    (file, digest): (&Path, &Digest),
    signature: &Path,
    (key, named): (&Path, &str),
) -> Result<(), NoFit> {
    let spki = verify::spki_of_pem(&read(key)?).ok_or_else(|| not_a(key, "PEM public key"))?;
    let fingerprint = hex::encode(digest::digest(&digest::SHA256, &spki));
    if !named.is_empty() && named != fingerprint {
        let words =
            format!("the entry names the key with SHA-256 {named}, and {} has {fingerprint}", key.display());
        return Err(NoFit::Differs(words));
    }
    let bytes = plain(bounded(signature, SIGNATURE_BYTES_MAX)?);
    let message = if scheme.whole { Some(bounded(file, MESSAGE_BYTES_MAX)?) } else { None };
    let material = if scheme.whole { spki.strip_prefix(&ED25519_SPKI) } else { Some(spki.as_slice()) };
    let parsed: Vec<_> = material
        .into_iter()
        .flat_map(|material| {
            scheme.algorithms.iter().filter_map(move |it| ParsedPublicKey::new(*it, material).ok())
        })
        .collect();
    if parsed.is_empty() {
        let words =
            format!("{} is no key of {}, the scheme that the entry names", key.display(), scheme.name);
        return Err(NoFit::Differs(words));
    }
    let verifies = |key: &ParsedPublicKey| match &message {
        Some(message) => key.verify_sig(message, &bytes).is_ok(),
        None => key.verify_digest_sig(digest, &bytes).is_ok(),
    };
    if !parsed.iter().any(verifies) {
        let words =
            format!("{} is no signature of {} by {}", signature.display(), file.display(), key.display());
        return Err(NoFit::Differs(words));
    }
    let by = if named.is_empty() { "the key given here; the entry names none" } else { "the key named here" };
    fits.add("signature", format!("{}: of this file, by {by}", signature.display()), json!(true));
    fits.add("public key", format!("SHA-256 {fingerprint}"), json!(fingerprint));
    Ok(())
}

impl Fits {
    fn add(&mut self, name: &'static str, words: String, value: Value) {
        self.facts.push((name, words));
        self.object.insert(name.replace(' ', "_"), value);
    }

    /// One fact per line, as entries are told.
    pub(crate) fn facts(&self) -> &[(&'static str, String)] {
        &self.facts
    }

    /// The same for programs; null where nothing was held against the entry.
    pub(crate) fn object(&self) -> Value {
        if self.object.is_empty() { Value::Null } else { Value::Object(self.object.clone()) }
    }
}

/// Base64 text becomes the bytes that it stands for; anything else is taken as it is.
fn plain(bytes: Vec<u8>) -> Vec<u8> {
    let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(text).unwrap_or(bytes)
}

fn bounded(path: &Path, max: u64) -> Result<Vec<u8>, NoFit> {
    let unreadable = |why: std::io::Error| -> Box<dyn Error> {
        format!("{} cannot be read: {why}", path.display()).into()
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(max + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    match u64::try_from(bytes.len()).is_ok_and(|len| len <= max) {
        true => Ok(bytes),
        false => Err(NoFit::Differs(format!("{} is longer than what can have been signed", path.display()))),
    }
}

/// Read piece by piece: memory does not grow with the file.
fn hashed(hash: &'static digest::Algorithm, path: &Path) -> Result<Digest, Box<dyn Error>> {
    let mut context = digest::Context::new(hash);
    let mut read_all = || -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let mut piece = vec![0; 64 << 10];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => context.update(piece.get(..read).unwrap_or_default()),
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why),
            }
        }
    };
    read_all().map_err(|why| format!("{} cannot be read: {why}", path.display()))?;
    Ok(context.finish())
}
