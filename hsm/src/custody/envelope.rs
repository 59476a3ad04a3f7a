//! The two keys between the token and a ciphertext, and the envelope they close.
//! Enters: a master key unwrapped by the token, data keys wrapped under it, plaintexts and their places.
//! Leaves: `version | nonce | AES-256-GCM(plaintext)`, bound to its place.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use zeroize::{Zeroize, Zeroizing};

use super::binding::Binding;
use super::locked::{KEY_BYTES, Locked};

/// The length of a master key; no other is taken.
pub const MASTER_KEY_BYTES: usize = KEY_BYTES;

/// Why a key or an envelope was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealFault {
    /// Not a key at all.
    #[error("a key must have exactly {KEY_BYTES} bytes and this one has {0}; unwrap the right one")]
    WrongLength(usize),
    /// The kernel locks no more memory for us.
    #[error("the key's memory cannot be locked; raise the service's LimitMEMLOCK")]
    NotLocked,
    /// Altered, moved from its place, or closed under another key.
    #[error("the ciphertext does not open in this place; restore the row, or the key it was closed under")]
    Broken,
    /// Made by a later release.
    #[error("the ciphertext has format {0}, which this release does not know; upgrade")]
    UnknownFormat(u8),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes; nothing was closed")]
    NoRandomness,
}

/// The key over all data keys. It exists in the clear only here, while the daemon runs.
pub struct MasterKey(Locked);

/// One workspace's key.
pub struct DataKey(Locked);

impl MasterKey {
    /// A fresh key, for the first start and for rotation.
    ///
    /// # Errors
    /// When there is no randomness or no lockable memory.
    pub fn generate() -> Result<Self, SealFault> {
        random_key().map(Self)
    }

    /// Takes what the token unwrapped; the source is wiped.
    ///
    /// # Errors
    /// When it is not exactly 32 bytes, or cannot be locked in memory.
    pub fn from_unwrapped(mut unwrapped: Zeroizing<Vec<u8>>) -> Result<Self, SealFault> {
        take(&mut unwrapped).map(Self)
    }

    /// Lends the bytes to be wrapped by the token. The only way they leave.
    pub fn lend<T>(&self, borrow: impl FnOnce(&[u8]) -> T) -> T {
        borrow(self.0.bytes())
    }

    /// A fresh data key and its wrapped form, which goes into the database.
    ///
    /// # Errors
    /// When there is no randomness or no lockable memory.
    pub fn new_data_key(&self, place: &Binding<'_>) -> Result<(DataKey, Vec<u8>), SealFault> {
        let key = DataKey(random_key()?);
        let wrapped = self.wrap_data_key(&key, place)?;
        Ok((key, wrapped))
    }

    /// Wraps a data key again, as rotation of the master key does.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn wrap_data_key(&self, key: &DataKey, place: &Binding<'_>) -> Result<Vec<u8>, SealFault> {
        seal(self.0.bytes(), key.0.bytes(), place)
    }

    /// Opens a wrapped data key in its own place.
    ///
    /// # Errors
    /// When it was altered, moved or wrapped under another master key.
    pub fn open_data_key(&self, wrapped: &[u8], place: &Binding<'_>) -> Result<DataKey, SealFault> {
        take(&mut open(self.0.bytes(), wrapped, place)?).map(DataKey)
    }
}

impl DataKey {
    /// Closes a plaintext in its place.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn seal(&self, plain: &[u8], place: &Binding<'_>) -> Result<Vec<u8>, SealFault> {
        seal(self.0.bytes(), plain, place)
    }

    /// Opens a ciphertext in its place.
    ///
    /// # Errors
    /// When it was altered, moved or closed under another key.
    pub fn open(&self, sealed: &[u8], place: &Binding<'_>) -> Result<Zeroizing<Vec<u8>>, SealFault> {
        open(self.0.bytes(), sealed, place)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(..)")
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(..)")
    }
}

fn random_key() -> Result<Locked, SealFault> {
    let mut bytes = [0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|Unspecified| SealFault::NoRandomness)?;
    Locked::take(&mut bytes).map_err(|_| SealFault::NotLocked)
}

fn take(unwrapped: &mut Zeroizing<Vec<u8>>) -> Result<Locked, SealFault> {
    let len = unwrapped.len();
    let taken = match <&mut [u8; KEY_BYTES]>::try_from(unwrapped.as_mut_slice()) {
        Ok(bytes) => Locked::take(bytes).map_err(|_| SealFault::NotLocked),
        Err(_) => Err(SealFault::WrongLength(len)),
    };
    unwrapped.zeroize();
    taken
}

/// A random nonce is safe for 2^32 messages under one key; a data key closes far fewer before it rotates.
fn seal(key: &[u8; KEY_BYTES], plain: &[u8], place: &Binding<'_>) -> Result<Vec<u8>, SealFault> {
    let mut nonce = [0; NONCE_LEN];
    aws_lc_rs::rand::fill(&mut nonce).map_err(|Unspecified| SealFault::NoRandomness)?;
    let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len() + AES_256_GCM.tag_len());
    sealed.push(FORMAT);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let (_, text) = sealed.split_at_mut(1 + NONCE_LEN);
    let tag = cipher(key)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place.encode()), text)
        .map_err(|Unspecified| SealFault::Broken)?;
    sealed.extend_from_slice(tag.as_ref());
    Ok(sealed)
}

fn open(key: &[u8; KEY_BYTES], sealed: &[u8], place: &Binding<'_>) -> Result<Zeroizing<Vec<u8>>, SealFault> {
    let text = match sealed {
        [FORMAT, rest @ ..] => rest,
        [other, ..] => return Err(SealFault::UnknownFormat(*other)),
        [] => return Err(SealFault::Broken),
    };
    let (nonce, text) = text.split_first_chunk::<NONCE_LEN>().ok_or(SealFault::Broken)?;
    let mut plain = Zeroizing::new(text.to_vec());
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let len = cipher(key)?
        .open_in_place(nonce, Aad::from(place.encode()), &mut plain)
        .map_err(|Unspecified| SealFault::Broken)?
        .len();
    plain.truncate(len);
    Ok(plain)
}

fn cipher(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, SealFault> {
    UnboundKey::new(&AES_256_GCM, key).map(LessSafeKey::new).map_err(|Unspecified| SealFault::Broken)
}

/// Rises when the bytes of an envelope change their meaning.
const FORMAT: u8 = 1;
