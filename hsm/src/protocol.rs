//! The words between daemon and worker: length-prefixed postcard frames over an inherited socket pair.
//! Enters: one [`Hello`], then [`Request`]s, many in flight; a batch is frames back to back in one write.
//! Leaves: one [`Greeting`], then an [`Answer`] per request, in any order.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::anchor::{AnchorAttestation, AnchorReading, AnchorStep, Quote};
use crate::backend::Fault;
use crate::ceremony::{BackupKek, Ceremony, ImportKey, Kek, KeyAttestation};
use crate::error::StartRefused;
use crate::key::{
    HmacKeyRef, KeyFault, KeyId, KeyRef, NewKey, Presence, PublicKey, RootKey, RootPin, RootTag,
};
use crate::probe::Probe;
use crate::scheme::{KeyKind, Scheme};

/// The first frame to the worker.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hello {
    /// Must equal [`VERSION`]: daemon and worker are installed together.
    pub version: u32,
    /// The [`crate::TokenConfig`] as JSON, because a tagged table does not survive postcard.
    pub config: String,
    /// The root key of the appliance, once it has one.
    pub root: Option<RootPin>,
}

/// The first frame from the worker.
#[derive(Debug, Serialize, Deserialize)]
pub enum Greeting {
    /// Opened, logged in, probed; requests may come.
    Ready(Box<Probe>),
    /// Not usable; the worker exits.
    Refused(StartRefused),
}

/// One call. Numbers rise within a worker's life, and calls begin in their order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Names the call in its answer.
    pub number: u64,
    /// From this moment on, by [`monotonic_ns`], the call must not begin any more.
    pub deadline_ns: u64,
    /// What is to be done.
    pub call: Call,
}

/// What came of one call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The call's number.
    pub number: u64,
    /// Its result.
    pub result: Result<Reply, Fault>,
}

/// What a worker can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Call {
    /// Make a key.
    Generate {
        /** Name. */
        id: KeyId,
        /** Kind. */
        kind: KeyKind,
        /** Label, for people. */
        label: String,
    },
    /// Find a public key.
    Find {
        /** Name. */
        id: KeyId,
    },
    /// Sign a digest, or a message where the scheme has no hash.
    Sign {
        /** With what. */
        key: KeyRef,
        /** How. */
        scheme: Scheme,
        /** What. */
        input: Vec<u8>,
    },
    /// Make an HMAC key.
    GenerateHmacKey {
        /** Name. */
        id: KeyId,
        /** Label, for people. */
        label: String,
    },
    /// Authenticate data.
    Hmac {
        /** With what. */
        key: HmacKeyRef,
        /** What. */
        data: Vec<u8>,
    },
    /// Destroy a key.
    Destroy {
        /** Which. */
        key: KeyRef,
    },
    /// Destroy an HMAC key.
    DestroyHmacKey {
        /** Which. */
        key: HmacKeyRef,
    },
    /// Random bytes.
    Random {
        /** How many. */
        len: usize,
    },
    /// Find or make the root key.
    EnsureRoot,
    /// Make the root key of a new appliance, and prove with it all that the appliance will rest on.
    MakeRoot {
        /** Whose. */
        tag: RootTag,
    },
    /// Take away what was made for an appliance that did not come to be.
    UnmakeRoot {
        /** Whose. */
        tag: RootTag,
    },
    /// Make the successor of a root key.
    SucceedRoot {
        /** Of which. */
        id: Vec<u8>,
    },
    /// Destroy an old root key.
    DestroyRoot {
        /** Which. */
        id: Vec<u8>,
    },
    /// Wrap a secret under the root key.
    Wrap {
        /** The secret. */
        secret: Secret,
        /** Bound to. */
        aad: Vec<u8>,
    },
    /// Open a wrapped secret.
    Unwrap {
        /** What wrap gave. */
        wrapped: Vec<u8>,
        /** Bound to. */
        aad: Vec<u8>,
    },
    /// Read the anchor.
    AnchorRead,
    /// Advance the anchor.
    AnchorAdvance {
        /** The step. */
        step: AnchorStep,
    },
    /// Certify the anchor.
    AnchorAttest {
        /** Bound to. */
        qualifying: [u8; 32],
    },
    /// Increment the counter.
    AnchorCount,
    /// Quote the machine's state.
    Quote {
        /** Bound to. */
        nonce: [u8; 32],
    },
    /// One of the rare acts on keys.
    Ceremony(Box<Ceremony>),
}

impl Call {
    /// True when the call, begun and lost, may have changed or signed something.
    #[must_use]
    pub fn has_effect(&self) -> bool {
        match self {
            Self::Find { .. }
            | Self::Hmac { .. }
            | Self::Random { .. }
            | Self::Wrap { .. }
            | Self::Unwrap { .. }
            | Self::AnchorRead => false,
            Self::Ceremony(ceremony) => ceremony.has_effect(),
            _ => true,
        }
    }
}

/// What a worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done; nothing to tell.
    Done,
    /// To [`Call::Generate`].
    NewKey(NewKey),
    /// To [`Call::Find`].
    Found(Option<PublicKey>),
    /// To [`Call::GenerateHmacKey`].
    HmacKey(HmacKeyRef),
    /// To [`Call::Sign`], [`Call::Random`], [`Call::Wrap`], and to what wraps among the ceremonies.
    Bytes(Vec<u8>),
    /// To [`Call::Hmac`].
    Tag([u8; 32]),
    /// To [`Call::Unwrap`].
    Secret(Secret),
    /// To [`Call::EnsureRoot`].
    Root(RootKey),
    /// To [`Call::AnchorRead`].
    Anchor(AnchorReading),
    /// To [`Call::AnchorAttest`]; `None` where the token makes no statements.
    Attestation(Option<AnchorAttestation>),
    /// To [`Call::AnchorCount`]; `None` where there is no counter.
    Count(Option<u64>),
    /// To [`Call::Quote`]; `None` where the token makes no statements.
    Quote(Option<Quote>),
    /// To what asks after a key's halves.
    Presence(Presence),
    /// To [`Ceremony::Examine`].
    KeyFaults(Vec<KeyFault>),
    /// To what makes or finds a key-encryption key.
    Kek(Option<Kek>),
    /// To what makes or finds an import key.
    ImportKey(Option<ImportKey>),
    /// To what makes or finds a backup key.
    BackupKek(Option<BackupKek>),
    /// To [`Ceremony::Attest`]; `None` where the token makes no statements.
    KeyAttestation(Option<KeyAttestation>),
}

/// Secret bytes on their way: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub Vec<u8>);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A peer that does not keep to the protocol. Its process is ended.
#[derive(Debug, thiserror::Error)]
pub enum Garbled {
    /// A frame longer than any honest one.
    #[error("a frame of {0} bytes is longer than {FRAME_BYTES_MAX}")]
    TooLong(usize),
    /// Bytes that are no frame.
    #[error("a frame does not parse")]
    Unreadable(#[source] postcard::Error),
}

/// Appends one frame to a batch.
///
/// # Errors
/// When the value is too long for a frame; the batch is as before.
pub fn push_frame<T: Serialize>(batch: &mut Vec<u8>, value: &T) -> Result<(), Garbled> {
    let start = batch.len();
    batch.extend_from_slice(&[0; PREFIX]);
    let written = postcard::serialize_with_flavor(value, Tail(batch)).map_err(Garbled::Unreadable);
    let len = batch.len() - start - PREFIX;
    let fits = written.and_then(|()| match u32::try_from(len) {
        Ok(prefix) if len <= FRAME_BYTES_MAX => Ok(prefix),
        _ => Err(Garbled::TooLong(len)),
    });
    match fits {
        Ok(prefix) => {
            batch[start..start + PREFIX].copy_from_slice(&prefix.to_le_bytes());
            Ok(())
        }
        Err(garbled) => {
            batch.truncate(start);
            Err(garbled)
        }
    }
}

/// Takes the first whole frame off the front of `bytes`, moving `at` past it; `None` when more bytes are needed.
///
/// # Errors
/// When the peer does not keep to the protocol.
pub fn next_frame<T: DeserializeOwned>(bytes: &[u8], at: &mut usize) -> Result<Option<T>, Garbled> {
    let rest = &bytes[*at..];
    let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { return Ok(None) };
    let len = u32::from_le_bytes(*prefix) as usize;
    if len > FRAME_BYTES_MAX {
        return Err(Garbled::TooLong(len));
    }
    let Some(frame) = rest.get(..len) else { return Ok(None) };
    *at += PREFIX + len;
    postcard::from_bytes(frame).map(Some).map_err(Garbled::Unreadable)
}

/// Lets postcard write straight into the batch.
struct Tail<'a>(&'a mut Vec<u8>);

impl postcard::ser_flavors::Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// The monotonic clock, which all processes of one machine share.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// Both sides of this number are built from one commit; it rises when a word changes its meaning.
pub const VERSION: u32 = 5;

/// The longest honest frame is an Ed25519 message or a TPM statement; the API's own limit on messages is lower.
pub const FRAME_BYTES_MAX: usize = 4 << 20;

const PREFIX: usize = 4;
