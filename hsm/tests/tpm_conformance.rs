//! The promises of every token, kept by a TPM: swtpm, through the real worker.
//! Enters: a fresh TPM per test.
//! Leaves: proof, or the name of the promise that was broken.

mod conformance;
mod tpm;

use hsm::Token;

conformance!(subject, unsupported: UNSUPPORTED);

/// No TPM has these kinds of key.
const UNSUPPORTED: [&str; 4] = [
    "secp256k1_signs_what_others_verify",
    "ed25519_signs_what_others_verify",
    "rsa_3072_signs_what_others_verify",
    "rsa_4096_signs_what_others_verify",
];

async fn subject() -> (Token, tpm::Machine) {
    let machine = tpm::Machine::new();
    (machine.start().await, machine)
}
