//! The JSON of keys: what makes one, what is shown of one.
//! Who enters: request bodies and queries, parsed once into commands.
//! What leaves: answers with public keys as PEM, JWK and OpenSSH.

use std::cmp::Ordering;
use std::time::Duration;

use hsm::{Custody, KeyKind, Scheme};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeyWithVersions;
use super::conditions::{Conditions, FaultShown};
use super::store::{KeyRow, VersionRow};
use crate::api::{Code, Problem};
use crate::crypto::{self, Jwk};
use crate::ids::Name;
use crate::limits::{KEY_VERSIONS_ANSWERED_MAX, PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::moment::Moment;
use crate::services::policy::Policy;

/// Asks for a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Its name in the workspace.
    pub name: String,
    /// `p256`, `p384`, `secp256k1`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
    #[schemars(extend("enum" = KeyKind::ALL.map(KeyKind::name)))]
    pub kind: String,
    /// Whether it may be backed up: it can then leave the token, wrapped under a backup key that cannot. Not for ever
    /// changeable; absent means never.
    #[serde(default)]
    pub recoverable: bool,
    /// What it may sign, and who has to agree; besides the workspace's own policy.
    #[serde(default)]
    pub policy: Option<Policy>,
}

/// Which versions to show.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VersionsPage {
    /// The `versions_before` of the answer before; the newest if absent.
    #[serde(default)]
    pub versions_before: Option<i64>,
}

/// How to rotate.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Seconds between announcing the new version and signing with it; none if absent.
    #[serde(default)]
    pub overlap_seconds: u64,
}

/// A workflow that goes on after its caller's patience.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Going {
    /// Its id.
    pub workflow: String,
}

/// The key as it is now, or the workflow that goes on.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum KeyOrGoing {
    /// The key.
    Key(Box<KeyDetail>),
    /// The workflow.
    Going(Going),
}

/// The key for which an imported one has to be wrapped.
#[derive(Debug, Serialize, JsonSchema)]
pub struct IncomingKey {
    /// Its public half, PEM.
    pub pem: String,
    /// The hash of OAEP: `sha256` or `sha1`.
    pub oaep: String,
}

/// Asks for destruction.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDestruction {
    /// Days of notice after the approvals, 1 to 90.
    pub days: u32,
    /// Why, for those who approve.
    #[serde(default)]
    pub reason: String,
}

/// Which page of a list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The `next` of the page before.
    #[serde(default)]
    pub after: Option<String>,
    /// Items on the page, at most 500; 100 if absent.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// A key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Key {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    #[schemars(extend("enum" = KeyKind::ALL.map(KeyKind::name)))]
    pub kind: &'static str,
    /// The schemes it signs with.
    pub schemes: Vec<&'static str>,
    /// `creating`, `enabled`, `disabled`, `destruction_pending`, `destroying`, `destroyed` or `failed`.
    #[schemars(extend("enum" = ["creating", "enabled", "disabled", "destruction_pending", "destroying", "destroyed", "failed"]))]
    pub state: &'static str,
    /// The version that signs.
    pub latest_version: i64,
    /// Signatures authorised with it, ever.
    pub uses: i64,
    /// When its destruction falls due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destroy_after: Option<Moment>,
    /// The workflow that is changing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// When it was made.
    pub created: Moment,
}

/// A key with its versions.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyDetail {
    /// The key.
    #[serde(flatten)]
    pub key: Key,
    /// Its newest versions, oldest first: at most 20 in the answer to a change, 100 otherwise.
    pub versions: Vec<Version>,
    /// There are older ones: `GET /v1/keys/{key}?versions_before=` with this number shows them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub versions_before: Option<i64>,
    /// While an imported key is waited for: the key for which it has to be wrapped (`pem`), and the hash of OAEP (`oaep`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<IncomingKey>")]
    pub incoming: Option<serde_json::Value>,
}

/// A version of a key.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Version {
    /// Its number.
    pub version: i64,
    /// Whether it signs.
    pub state: VersionState,
    /// Its CKA_ID in the token, as hex.
    pub token_key: String,
    /// SHA-256 of the public key (SPKI DER), as hex.
    pub fingerprint: String,
    /// The public key, PEM.
    pub pem: String,
    /// The public key as a JWK.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwk: Option<Jwk>,
    /// The public key as OpenSSH writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh: Option<String>,
    /// What the token says of where the key comes from.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub provenance: serde_json::Value,
    /// What is not as it should be about it in the token, as the last look found it; absent where all is well.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FaultShown>,
    /// A restored copy has taken its place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// When it was made.
    pub created: Moment,
}

/// What a version is for at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// It is known, and signs once its rotation's overlap is over.
    Announced,
    /// It signs.
    Signing,
    /// A newer one signs; what it signed verifies.
    Superseded,
    /// A restored copy has taken its place.
    Replaced,
}

impl VersionState {
    fn of(key: &KeyRow, version: &VersionRow) -> Self {
        match version.version.cmp(&key.latest) {
            _ if version.replaced => Self::Replaced,
            Ordering::Less => Self::Superseded,
            Ordering::Equal => Self::Signing,
            Ordering::Greater => Self::Announced,
        }
    }
}

/// A page of keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyList {
    /// The keys.
    pub keys: Vec<Key>,
    /// The `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl CreateKey {
    /// Whether it may ever leave the token.
    pub fn custody(&self) -> Custody {
        if self.recoverable { Custody::Recoverable } else { Custody::NonExtractable }
    }

    /// The policy that it comes with.
    ///
    /// # Errors
    /// It is out of bounds.
    pub fn policy(&self) -> Result<Option<Policy>, Problem> {
        self.policy.clone().map(Policy::checked).transpose()
    }

    /// The command's parts.
    ///
    /// # Errors
    /// A name or kind that cannot be.
    pub fn parts(&self) -> Result<(Name, KeyKind), Problem> {
        named(&self.name, &self.kind)
    }
}

/// A name and a kind, parsed.
///
/// # Errors
/// One of them cannot be.
pub(super) fn named(name: &str, kind: &str) -> Result<(Name, KeyKind), Problem> {
    let name = Name::chosen(name).map_err(|why| Problem::new(Code::Invalid, format!("{why}")).at("/name"))?;
    let kind = kind.parse().map_err(|_| {
        let known = KeyKind::ALL.map(KeyKind::name).join(", ");
        Problem::new(Code::Invalid, format!("a kind is one of {known}")).at("/kind")
    })?;
    Ok((name, kind))
}

impl Rotation {
    /// The overlap.
    pub fn overlap(&self) -> Duration {
        Duration::from_secs(self.overlap_seconds)
    }
}

impl ScheduleDestruction {
    /// The notice.
    pub fn notice(&self) -> Duration {
        Duration::from_secs(u64::from(self.days) * 24 * 3600)
    }
}

impl Page {
    /// Items on this page.
    ///
    /// # Errors
    /// More than a page may have, or none.
    pub fn limit(&self) -> Result<usize, Problem> {
        match self.limit.unwrap_or(PAGE_ITEMS_DEFAULT) {
            limit @ 1..=PAGE_ITEMS_MAX => Ok(limit),
            _ => Err(Problem::new(Code::BadRequest, format!("limit is 1 to {PAGE_ITEMS_MAX}"))),
        }
    }
}

impl From<&KeyRow> for Key {
    fn from(row: &KeyRow) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.to_string(),
            kind: row.kind.name(),
            schemes: row.kind.schemes().iter().map(|scheme| Scheme::name(*scheme)).collect(),
            state: row.state.text(),
            latest_version: row.latest,
            uses: row.uses,
            destroy_after: row.destroy_after,
            workflow: row.workflow.clone(),
            created: row.created,
        }
    }
}

impl KeyDetail {
    /// As a change is answered, and as the answer is kept.
    pub fn changed(found: &KeyWithVersions) -> Self {
        Self::page(found, i64::MAX, KEY_VERSIONS_ANSWERED_MAX)
    }

    /// With the newest `versions_max` of the versions before `before`.
    pub fn page(found: &KeyWithVersions, before: i64, versions_max: usize) -> Self {
        let made = found.versions.iter().filter(|row| row.version < before);
        let mut newest = made.rev().filter_map(|row| Version::new(&found.row, row));
        let mut versions: Vec<_> = newest.by_ref().take(versions_max).collect();
        versions.reverse();
        let versions_before = newest.next().and_then(|_| versions.first().map(|oldest| oldest.version));
        let incoming = found.row.incoming.as_deref().and_then(|text| serde_json::from_str(text).ok());
        Self { key: Key::from(&found.row), versions, versions_before, incoming }
    }

    /// Tells what is not as it should be about its versions in the token.
    #[must_use]
    pub fn telling(mut self, conditions: &Conditions) -> Self {
        for version in &mut self.versions {
            version.faults = version.token_key.parse().map(|id| conditions.of(&id)).unwrap_or_default();
        }
        self
    }
}

impl Version {
    fn new(key: &KeyRow, row: &VersionRow) -> Option<Self> {
        let made = row.made.as_ref()?;
        Some(Self {
            version: row.version,
            state: VersionState::of(key, row),
            token_key: row.token_key.to_string(),
            fingerprint: made.fingerprint.to_string(),
            pem: crypto::pem("PUBLIC KEY", &made.spki),
            jwk: crypto::jwk(key.kind, &made.spki),
            ssh: crypto::ssh(key.kind, &made.spki, &format!("{}-v{}", key.name, row.version)),
            provenance: serde_json::from_str(&made.provenance).unwrap_or_default(),
            faults: Vec::new(),
            replaced: row.replaced,
            created: row.created,
        })
    }
}

#[cfg(test)]
mod tests {
    use hsm::{Fingerprint, KeyId};

    use super::*;
    use crate::dice::Dice;
    use crate::ids::SigningKeyId;
    use crate::limits::{KEY_VERSIONS_MAX, KEY_VERSIONS_SHOWN_MAX};
    use crate::services::keys::state::KeyState;
    use crate::services::keys::store::Made;

    /// The SPKI of RSA-4096 with some modulus, the longest of any kind.
    fn rsa_4096_spki() -> Vec<u8> {
        let mut der =
            hex::decode("30820222300d06092a864886f70d01010105000382020f003082020a0282020100").unwrap();
        der.extend([0x91; 512]);
        der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        der
    }

    fn with_versions(versions: i64) -> KeyWithVersions {
        let created = Moment::from_micros(1);
        let row = KeyRow {
            id: SigningKeyId::new(&Dice::system()),
            name: "n".repeat(64).parse().unwrap(),
            kind: KeyKind::Rsa4096,
            state: KeyState::Enabled,
            latest: versions,
            uses: i64::MAX,
            destroy_after: None,
            created,
            workflow: None,
            incoming: None,
            fence: 0,
        };
        let version = |version| VersionRow {
            version,
            token_key: KeyId([7; 16]),
            made: Some(Made {
                fingerprint: Fingerprint([7; 32]),
                spki: rsa_4096_spki(),
                sealed_blob: None,
                provenance: serde_json::json!({ "origin": "p".repeat(1_000) }).to_string(),
            }),
            replaced: false,
            created,
        };
        KeyWithVersions { row, versions: (1..=versions).map(version).collect() }
    }

    #[test]
    fn the_answer_to_a_change_of_the_largest_key_is_short_enough_to_be_kept_whole() {
        let answer = KeyDetail::changed(&with_versions(KEY_VERSIONS_MAX));
        assert!(answer.versions.iter().all(|version| version.jwk.is_some() && version.ssh.is_some()));
        assert_eq!(answer.versions.last().map(|version| version.version), Some(KEY_VERSIONS_MAX));
        let bytes = serde_json::to_vec(&answer).unwrap().len();
        assert!(bytes < sagas::limits::ANSWER_BYTES_MAX / 4, "{bytes} bytes");
    }

    #[test]
    fn the_versions_of_a_key_are_paged_from_the_newest_back_to_the_first() {
        for versions in [0, 1, 99, 100, 101, 200, 250] {
            let (key, mut before, mut seen) = (with_versions(versions), i64::MAX, Vec::new());
            loop {
                let page = KeyDetail::page(&key, before, KEY_VERSIONS_SHOWN_MAX);
                seen.extend(page.versions.iter().rev().map(|version| version.version));
                match page.versions_before {
                    Some(next) => before = next,
                    None => break,
                }
            }
            assert_eq!(seen, (1..=versions).rev().collect::<Vec<_>>());
        }
    }
}
