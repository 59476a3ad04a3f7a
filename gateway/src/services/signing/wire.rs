//! The JSON of signing and verifying.
//! Who enters: request bodies, parsed once into commands.
//! What leaves: signatures in the encoding that was asked for, with entry and use number.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsm::{KeyKind, Scheme, SignInput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::order::{SignCommand, Target, VerifyCommand};
use super::policies::{Effective, PolicyScope};
use super::store::PolicyRow;
use super::{Signed, SigningRefused};
use crate::api::{Code, Problem};
use crate::crypto::{Encoding, ecdsa_to_der};
use crate::limits::{BATCH_ITEMS_MAX, CONTEXT_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::services::policy::{Limit, Policy};

/// Asks for a signature: either `message` or `digest`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sign {
    /// How to sign; a key's `schemes` says what it can.
    #[schemars(extend("enum" = Scheme::ALL.map(Scheme::name)))]
    pub scheme: String,
    /// The message, base64; hashed here.
    #[serde(default)]
    pub message: Option<String>,
    /// The digest, base64; as long as the scheme's hash.
    #[serde(default)]
    pub digest: Option<String>,
    /// The key's version; the latest if absent.
    #[serde(default)]
    pub version: Option<i64>,
    /// `der` (default) or `raw`, for ECDSA.
    #[serde(default)]
    pub encoding: Encoding,
    /// Free text that will stand in the ledger entry.
    #[serde(default)]
    pub context: Option<String>,
}

/// Asks for many signatures.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignBatch {
    /// Up to 500 orders.
    pub items: Vec<BatchItem>,
}

/// One order of a batch.
// The fields of `Sign` are repeated: serde cannot both flatten a body and refuse unknown fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchItem {
    /// The key's id or name.
    pub key: String,
    /// How to sign; a key's `schemes` says what it can.
    #[schemars(extend("enum" = Scheme::ALL.map(Scheme::name)))]
    pub scheme: String,
    /// The message, base64.
    #[serde(default)]
    pub message: Option<String>,
    /// The digest, base64.
    #[serde(default)]
    pub digest: Option<String>,
    /// The key's version.
    #[serde(default)]
    pub version: Option<i64>,
    /// `der` or `raw`.
    #[serde(default)]
    pub encoding: Encoding,
    /// Free text for the entry.
    #[serde(default)]
    pub context: Option<String>,
}

/// Asks whether a signature is good.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Verify {
    /// The scheme.
    #[schemars(extend("enum" = Scheme::ALL.map(Scheme::name)))]
    pub scheme: String,
    /// The message, base64.
    #[serde(default)]
    pub message: Option<String>,
    /// The digest, base64.
    #[serde(default)]
    pub digest: Option<String>,
    /// The key's version.
    #[serde(default)]
    pub version: Option<i64>,
    /// `der` or `raw`.
    #[serde(default)]
    pub encoding: Encoding,
    /// The signature, base64.
    pub signature: String,
}

/// A signature.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Signature {
    /// The signature, base64.
    pub signature: String,
    /// The key's id.
    pub key: String,
    /// The version that signed.
    pub version: i64,
    /// The entry that authorised it, written before the key was touched.
    pub entry: u64,
    /// The key's use counter in that entry.
    #[serde(rename = "use")]
    pub use_number: i64,
}

/// The outcomes of a batch, in the order of its items.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SignatureList {
    /// One for each item.
    pub results: Vec<BatchResult>,
}

/// What came of one item: a signature or a problem.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum BatchResult {
    /// Signed.
    Signed(Signature),
    /// Not signed.
    Refused {
        /// The stable code.
        code: &'static str,
        /// What to do.
        detail: String,
    },
}

/// Whether a signature is good.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Verdict {
    /// It verifies.
    pub valid: bool,
    /// The key's id.
    pub key: String,
    /// The version it was verified against.
    pub version: i64,
}

/// A policy.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PolicyAnswer {
    /// `workspace`, or a key's id.
    pub scope: String,
    /// Its number, counted through the workspace; 0 while it is staged.
    pub version: i64,
    /// `staged`, `active` or `retired`.
    #[schemars(extend("enum" = ["staged", "active", "retired"]))]
    pub state: &'static str,
    /// What it says.
    pub policy: Policy,
    /// Who wanted it.
    pub staged_by: String,
}

/// The policies that a workspace has or had.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PolicyList {
    /// In the order in which they came into force.
    pub policies: Vec<PolicyAnswer>,
}

/// What holds for a key or a workspace.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EffectiveAnswer {
    /// `workspace`, or the key's id.
    pub scope: String,
    /// The newest of the policies that hold; 0 where nobody has said anything.
    pub version: i64,
    /// What they allow together.
    pub policy: Policy,
    /// The limits that hold; each is counted on its own.
    pub limits: Vec<LimitAnswer>,
}

/// A limit that holds.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LimitAnswer {
    /// Whose policy sets it.
    pub scope: String,
    /// The limit.
    pub limit: Limit,
}

impl EffectiveAnswer {
    /// What holds for a scope.
    pub fn new(scope: PolicyScope, effective: Effective) -> Self {
        let limits = effective.limits.into_iter();
        let limits = limits.map(|(scope, limit)| LimitAnswer { scope: scope.into(), limit });
        Self {
            scope: scope.into(),
            version: effective.version,
            policy: effective.policy,
            limits: limits.collect(),
        }
    }
}

impl Sign {
    /// The command, and the encoding of its answer.
    ///
    /// # Errors
    /// What is malformed, with its pointer.
    pub fn into_command(self, key: String) -> Result<(SignCommand, Encoding), Problem> {
        let command = SignCommand {
            key,
            version: self.version,
            scheme: scheme(&self.scheme)?,
            input: input(self.message, self.digest)?,
            context: context(self.context)?,
        };
        Ok((command, self.encoding))
    }
}

impl SignBatch {
    /// The commands, each with the encoding of its answer. A malformed item spoils the batch: its sender is not ready.
    ///
    /// # Errors
    /// No items, too many, or a malformed one, with its pointer.
    pub fn into_commands(self) -> Result<Vec<(SignCommand, Encoding)>, Problem> {
        if self.items.is_empty() || self.items.len() > BATCH_ITEMS_MAX {
            return Err(
                Problem::new(Code::Invalid, format!("a batch has 1 to {BATCH_ITEMS_MAX} items")).at("/items")
            );
        }
        let items = self.items.into_iter().enumerate();
        items.map(|(at, item)| item.into_command().map_err(|problem| under(problem, at))).collect()
    }
}

impl BatchItem {
    fn into_command(self) -> Result<(SignCommand, Encoding), Problem> {
        let Self { key, scheme, message, digest, version, encoding, context } = self;
        Sign { scheme, message, digest, version, encoding, context }.into_command(key)
    }
}

impl Verify {
    /// The command.
    ///
    /// # Errors
    /// What is malformed, with its pointer.
    pub fn into_command(self, key: String) -> Result<VerifyCommand, Problem> {
        let Self { scheme, message, digest, version, encoding, signature } = self;
        let (sign, encoding) =
            Sign { scheme, message, digest, version, encoding, context: None }.into_command(key)?;
        Ok(VerifyCommand { sign, signature: base64(&signature, "/signature")?, encoding })
    }
}

impl Signature {
    /// The answer in the encoding that was asked for.
    pub fn new(signed: &Signed, encoding: Encoding) -> Self {
        Self {
            signature: STANDARD.encode(encoded(&signed.raw, signed.target.kind, encoding)),
            key: signed.target.key.to_string(),
            version: signed.target.version,
            entry: signed.seq,
            use_number: signed.use_number,
        }
    }
}

impl BatchResult {
    /// The outcome of one item.
    pub fn new(outcome: Result<Signed, SigningRefused>, encoding: Encoding) -> Self {
        match outcome {
            Ok(signed) => Self::Signed(Signature::new(&signed, encoding)),
            Err(refused) => {
                let problem = Problem::from(refused);
                Self::Refused { code: problem.code.text(), detail: problem.detail }
            }
        }
    }
}

impl Verdict {
    /// The answer.
    pub fn new(target: &Target, valid: bool) -> Self {
        Self { valid, key: target.key.to_string(), version: target.version }
    }
}

pub(super) fn encoded(raw: &[u8], kind: KeyKind, encoding: Encoding) -> Vec<u8> {
    match (kind, encoding) {
        (KeyKind::P256 | KeyKind::P384 | KeyKind::Secp256k1, Encoding::Der) => ecdsa_to_der(raw),
        _ => raw.to_vec(),
    }
}

impl PolicyAnswer {
    /// A policy as it is kept.
    pub fn new(row: PolicyRow) -> Self {
        Self {
            scope: row.scope.into(),
            version: row.version,
            state: row.state.text(),
            policy: row.policy,
            staged_by: row.staged_by.to_string(),
        }
    }
}

fn scheme(text: &str) -> Result<Scheme, Problem> {
    text.parse().map_err(|_| {
        let known = Scheme::ALL.map(Scheme::name).join(", ");
        Problem::new(Code::Invalid, format!("a scheme is one of {known}")).at("/scheme")
    })
}

fn input(message: Option<String>, digest: Option<String>) -> Result<SignInput, Problem> {
    match (message, digest) {
        (Some(message), None) => {
            let bytes = base64(&message, "/message")?;
            if bytes.len() > MESSAGE_BYTES_MAX {
                let detail =
                    format!("at most {MESSAGE_BYTES_MAX} bytes; send the digest of a larger message");
                return Err(Problem::new(Code::Invalid, detail).at("/message"));
            }
            Ok(SignInput::Message(bytes))
        }
        (None, Some(digest)) => Ok(SignInput::Digest(base64(&digest, "/digest")?)),
        _ => Err(Problem::new(Code::Invalid, "send either `message` or `digest`")),
    }
}

fn context(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.len() > CONTEXT_BYTES_MAX => {
            Err(Problem::new(Code::Invalid, format!("at most {CONTEXT_BYTES_MAX} bytes")).at("/context"))
        }
        other => Ok(other),
    }
}

fn base64(text: &str, pointer: &str) -> Result<Vec<u8>, Problem> {
    STANDARD
        .decode(text)
        .map_err(|_| Problem::new(Code::Invalid, "not base64 (RFC 4648 section 4, with padding)").at(pointer))
}

pub(super) fn under(problem: Problem, at: usize) -> Problem {
    let pointer = format!("/items/{at}{}", problem.pointer.as_deref().unwrap_or_default());
    problem.at(pointer)
}
