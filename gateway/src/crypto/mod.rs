//! Public keys: verifying against them, and writing keys and signatures the way others read them.
//! Who enters: the signer, with what the token gave; services, with what a caller wants verified or shown.
//! What leaves: a verdict, or PEM, JWK, SSH and DER. No private key ever comes here.

mod der;
mod encode;
mod pinned;

pub use der::{Encoding, NotASignature, ecdsa_from_der, ecdsa_to_der};
pub use encode::{Jwk, jwk, pem, ssh};
pub use pinned::{PinnedKey, Unusable, VerifyRefused};
