//! The promises of every token, kept by a TPM: swtpm, through the real worker.
//! Enters: a fresh TPM per test.
//! Leaves: proof, or the name of the promise that was broken.

mod conformance;
mod tpm;

use hsm::Token;

conformance!(subject, unsupported: UNSUPPORTED);

/// No TPM has these kinds of key; and it has one storage root, under which secrets are sealed anew instead.
const UNSUPPORTED: [&str; 6] = [
    "secp256k1_signs_what_others_verify",
    "ed25519_signs_what_others_verify",
    "rsa_3072_signs_what_others_verify",
    "rsa_4096_signs_what_others_verify",
    "an_old_root_opens_what_it_closed_until_it_is_destroyed",
    "the_root_in_use_is_not_destroyed",
];

async fn subject() -> (Token, tpm::Machine) {
    let machine = tpm::Machine::new();
    (machine.start().await, machine)
}
