//! Encryption of an export to a security team's key, in the age format (age-encryption.org/v1, C2SP age), so that the public tool
//! opens it. Only the encrypting half, and only X25519 keys; every primitive is the cryptographic library's.
//! Who enters: an `age1...` key from the wire; plain bytes, as they come.
//! What leaves: an age file, as the bytes come. Nothing plain is kept longer than one chunk of 64 KiB.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::{self, SystemRandom};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::malformed::Malformed;

/// Plain bytes that are sealed at once (C2SP age, payload).
const CHUNK: usize = 64 << 10;
/// What stands before the key.
const HRP: Hrp = Hrp::parse_unchecked("age");

/// An age X25519 public key: 32 bytes in Bech32 behind `age1`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Recipient([u8; 32]);

impl FromStr for Recipient {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        decoded(text).map(Self).ok_or(Malformed { expected: "public key of age (`age1...`)" })
    }
}

impl TryFrom<String> for Recipient {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bech32::encode_to_fmt::<Bech32, _>(f, HRP, &self.0).map_err(|_| fmt::Error)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key inside `age1...`; upper case is allowed if all of it is so (BIP 173).
fn decoded(text: &str) -> Option<[u8; 32]> {
    let read = CheckedHrpstring::new::<Bech32>(text).ok().filter(|read| read.hrp() == HRP)?;
    read.validate_segwit_padding().ok()?;
    read.byte_iter().collect::<Vec<_>>().try_into().ok()
}

/// An age file in the making. Without [`end`](Self::end) it does not open: its last chunk is missing.
pub struct Sealed<W> {
    out: W,
    key: LessSafeKey,
    chunk: Zeroizing<Vec<u8>>,
    number: u64,
}

impl<W: Write> Sealed<W> {
    /// Writes the header for this recipient alone.
    ///
    /// # Errors
    /// The place behind it did not take it, or the key is one that no honest party has.
    pub fn to(recipient: &Recipient, mut out: W) -> io::Result<Self> {
        let file_key = Zeroizing::new(random::<16>()?);
        let nonce = random::<16>()?;
        out.write_all(header(recipient, &file_key).map_err(unsealed)?.as_bytes())?;
        out.write_all(&nonce)?;
        let key =
            derived(&nonce, &file_key[..], b"payload").and_then(|key| cipher(&key)).map_err(unsealed)?;
        Ok(Self { out, key, chunk: Zeroizing::new(Vec::with_capacity(CHUNK + 16)), number: 0 })
    }

    /// Seals the last chunk and gives back what it was written onto.
    ///
    /// # Errors
    /// The place behind it did not take it.
    pub fn end(mut self) -> io::Result<W> {
        self.seal(true)?;
        Ok(self.out)
    }

    fn seal(&mut self, last: bool) -> io::Result<()> {
        let mut nonce = [0; 12];
        nonce[3..11].copy_from_slice(&self.number.to_be_bytes());
        nonce[11] = u8::from(last);
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::empty(), &mut *self.chunk).map_err(unsealed)?;
        self.out.write_all(&self.chunk)?;
        self.chunk.clear();
        self.number += 1;
        Ok(())
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk is sealed when more comes: only then is it certain that it is not the last one.
        if self.chunk.len() == CHUNK && !bytes.is_empty() {
            self.seal(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The textual header: one stanza, and the MAC over it under the file key.
fn header(recipient: &Recipient, file_key: &[u8; 16]) -> Result<String, Unspecified> {
    let (share, wrapped) = wrapped(recipient, file_key)?;
    let text = |bytes: &[u8]| STANDARD_NO_PAD.encode(bytes);
    let header = format!("age-encryption.org/v1\n-> X25519 {}\n{}\n---", text(&share), text(&wrapped));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &derived(&[], file_key, b"header")?[..]);
    let mac = hmac::sign(&key, header.as_bytes());
    Ok(format!("{header} {}\n", text(mac.as_ref())))
}

/// The file key under a secret shared with the recipient, and our half of that secret.
fn wrapped(recipient: &Recipient, file_key: &[u8; 16]) -> Result<(Vec<u8>, Vec<u8>), Unspecified> {
    let ephemeral = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new())?;
    let share = ephemeral.compute_public_key()?.as_ref().to_vec();
    let salt = [&share[..], &recipient.0].concat();
    let peer = UnparsedPublicKey::new(&X25519, recipient.0);
    // A point of low order would make the secret one that everybody knows; the library refuses it.
    let key = agree_ephemeral(ephemeral, peer, Unspecified, |secret| {
        derived(&salt, secret, b"age-encryption.org/v1/X25519")
    })?;
    let mut body = file_key.to_vec();
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    cipher(&key)?.seal_in_place_append_tag(nonce, Aad::empty(), &mut body)?;
    Ok((share, body))
}

/// HKDF-SHA-256 (RFC 5869), 32 bytes.
fn derived(salt: &[u8], secret: &[u8], info: &[u8]) -> Result<Zeroizing<[u8; 32]>, Unspecified> {
    let mut key = Zeroizing::new([0; 32]);
    Salt::new(HKDF_SHA256, salt).extract(secret).expand(&[info], HKDF_SHA256)?.fill(&mut key[..])?;
    Ok(key)
}

fn cipher(key: &[u8; 32]) -> Result<LessSafeKey, Unspecified> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new)
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(unsealed)?;
    Ok(bytes)
}

fn unsealed(_: Unspecified) -> io::Error {
    io::Error::other("the cryptographic library did not do it")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    const KEY: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

    #[test]
    fn the_key_of_the_specification_reads_back_and_one_changed_letter_does_not() {
        let recipient: Recipient = KEY.parse().unwrap();
        assert_eq!((recipient.to_string().as_str(), recipient.0[0]), (KEY, 0x13));
        assert_eq!(KEY.to_uppercase().parse(), Ok(recipient));
        for at in 4..KEY.len() {
            let mut bent = KEY.to_owned();
            bent.replace_range(at..=at, if &KEY[at..=at] == "q" { "p" } else { "q" });
            assert!(bent.parse::<Recipient>().is_err(), "{bent}");
        }
        for foreign in ["", "age1", "age1q", "ssh-ed25519 AAAA", "AGE1zvkyg", &KEY[..61], &format!("{KEY}q")]
        {
            assert!(foreign.parse::<Recipient>().is_err(), "{foreign}");
        }
    }

    #[test]
    fn a_key_that_would_make_the_secret_known_to_everybody_is_refused() {
        let low_order = Recipient([0; 32]);
        assert_eq!(low_order.to_string().parse(), Ok(low_order));
        assert!(Sealed::to(&low_order, Vec::new()).is_err());
    }
}
