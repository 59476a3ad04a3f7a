//! secp256k1 as those who ask for it need it: the lower half of S, from a token that knows nothing of that.
//! Enters: some hundred signatures of a real SoftHSM.
//! Leaves: proof that all have the lower S and verify.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod host;

use conformance::verify::aws_lc_accepts;
use conformance::{fresh_id, soon};
use hsm::{KeyKind, Scheme, SignInput, Token};

/// A token that does not care makes the higher one half of the time: all of these come out low by chance once in 2^300.
const SIGNATURES: usize = 300;

/// Half of the group's order, rounded down.
const HALF: &str = "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_over_secp256k1_have_the_lower_s_and_verify() {
    let host = host::Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::Secp256k1, "k", soon()).await.unwrap();
    let half = hex::decode(HALF).unwrap();
    for number in 0..SIGNATURES {
        let message = number.to_be_bytes();
        let input = SignInput::Message(message.to_vec());
        let signature = token.sign(&made.key, Scheme::EcdsaSha256, input, soon()).await.unwrap();
        assert!(signature[32..] <= half[..], "signature {number} has the higher s");
        assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, &message, &signature));
    }
    token.close().await;
}
